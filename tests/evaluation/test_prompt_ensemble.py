import pytest
import torch
import torch.nn.functional as F

from mmonepeace.evaluation.prompt_ensemble import TEMPLATES, check_templates, embed_classes


def test_a_class_is_the_unit_mean_of_its_prompts():
    prompts = []

    def encode(texts):
        prompts.extend(texts)
        return F.normalize(torch.arange(4 * 3.0).view(4, 3) - 5, dim=1)

    class_CD = embed_classes(encode, ["a {b}", "c"], ["the {}", "{} and {}"])
    assert prompts == ["the a {b}", "a {b} and a {b}", "the c", "c and c"]
    means = encode([]).view(2, 2, 3).mean(1)
    torch.testing.assert_close(class_CD, F.normalize(means, dim=1))


def test_templates_need_a_place_for_the_class():
    for templates in TEMPLATES.values():
        check_templates(templates)
    with pytest.raises(ValueError, match=r"\['a photo'\] lack {}; each needs {} for the class"):
        check_templates(["{}", "a photo"])
    with pytest.raises(ValueError, match=r"templates are \[\]"):
        check_templates([])
