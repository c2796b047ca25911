import pytest

from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.spec import Arch


@pytest.mark.parametrize("name", ["num_classes", "hidden_ratio", "num_views"])
def test_a_head_without_outputs_widths_or_views_is_refused(name):
    arch = Arch(embed_dim=32, depth=2, num_heads=4, ffn_dim=48)
    with pytest.raises(ValueError, match=f"{name} of the head is 0, expected 1 or more"):
        ClassificationHead(arch, **{"num_classes": 3, name: 0})
