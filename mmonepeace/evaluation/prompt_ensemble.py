"""Prompt ensembles: a class is the mean embedding of its name in several templates.

Shapes: C classes, T templates, D width.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

TEMPLATES = {
    "image": ("a photo of a {}", "a picture of a {}", "{}"),
    "audio": ("this is a sound of {}",),  # the official one
}


def check_templates(templates: Sequence[str]) -> None:
    """Raise ValueError if there are no templates, or one has no `{}` for the class name."""
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(
            f"templates are {list(templates)}, of which {wrong} lack {{}}; each needs {{}} for the "
            "class, such as 'a photo of a {}'."
        )


def embed_classes(
    encode: Callable[[list[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """(C, D) embeddings of class names, of unit length; `encode` embeds C * T texts."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    mean_CD = encode(prompts).unflatten(0, (len(classes), len(templates))).mean(1)
    return F.normalize(mean_CD, dim=1)
