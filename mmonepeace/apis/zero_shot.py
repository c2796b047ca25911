"""Zero-shot classification: the class names are all that is known of the classes.

Shapes: N items, C classes, D width.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from mmonepeace.apis.embedder import Embedder
from mmonepeace.evaluation.prompt_ensemble import TEMPLATES, check_templates, embed_classes


class ZeroShotClassifier:
    """Compares images or audio clips with the texts of class names.

    Args:
        embedder: with a text branch.
        classes: different names.
        modality: of what will be classified.
        templates: sentences with `{}` for the name; a class is the mean of their embeddings. None
            takes the default ones of the modality.

    Raises:
        ValueError: for another modality, a single name, no or equal ones, or a template without `{}`.
        TypeError: if names or templates are a single string.
    """

    def __init__(
        self,
        embedder: Embedder,
        classes: Sequence[str],
        modality: Literal["image", "audio"] = "image",
        templates: Sequence[str] | None = None,
    ) -> None:
        if modality not in TEMPLATES:
            raise ValueError(f"modality is {modality!r}; choose one of {', '.join(TEMPLATES)}.")
        templates = TEMPLATES[modality] if templates is None else templates
        if isinstance(classes, str) or isinstance(templates, str):
            raise TypeError("classes and templates are lists of strings; one is a string.")
        check_templates(templates)
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if not classes or twice:
            raise ValueError(
                f"{len(classes)} classes, of which {twice} occur twice; expected different names."
            )
        if len(classes) == 1:
            raise ValueError(
                f"{classes[0]!r} is the only class, so its probability is always 1. Name what the "
                "others may be, or compare by cosine: mmonepeace search."
            )
        self.embedder, self.classes, self.modality = embedder, list(classes), modality
        class_CD = embed_classes(
            lambda prompts: torch.as_tensor(embedder.encode_text(prompts)), classes, templates
        )
        self.class_embeddings = class_CD.numpy()

    def predict(self, items: Iterable[Any], errors: dict[int, str] | None = None) -> np.ndarray:
        """(N, C) float32 probabilities of the classes, which are NaN for what cannot be read.

        For items and errors see `Embedder.encode_image` and `Embedder.encode_audio`.
        """
        embeddings = np.asarray(self.embedder.encode(self.modality, items, errors))
        cosines = torch.as_tensor(embeddings @ self.class_embeddings.T)
        scale = self.embedder.model.scale().float().cpu()
        return (scale * cosines).softmax(1).detach().numpy()
