"""Classification by class names alone.

Shapes: N items, C classes, D width.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from mmonepeace.apis.embedder import Embedder

TEMPLATES = {
    "image": ("a photo of a {}", "a picture of a {}", "{}"),
    "audio": ("this is a sound of {}",),  # the official one
}


class ZeroShotClassifier:
    """Images or sounds against the texts of class names.

    Args:
        embedder: with a text branch.
        classes: names.
        modality: of what will be classified.
        templates: sentences with `{}` for the name; a class is the mean of their embeddings. None
            takes the usual ones of the modality.

    Raises:
        ValueError: if there are no classes, or a template lacks `{}`.
    """

    def __init__(
        self,
        embedder: Embedder,
        classes: Sequence[str],
        modality: Literal["image", "audio"] = "image",
        templates: Sequence[str] | None = None,
    ) -> None:
        templates = TEMPLATES[modality] if templates is None else templates
        wrong = [t for t in templates if "{}" not in t]
        if not classes or not templates or wrong:
            raise ValueError(
                f"{len(classes)} classes, {len(templates)} templates, of which {wrong} lack {{}}; "
                "expected class names and sentences such as 'a photo of a {}'."
            )
        self.embedder, self.classes, self.modality = embedder, list(classes), modality
        texts = [template.replace("{}", name) for name in classes for template in templates]
        embeddings = torch.as_tensor(np.asarray(embedder.encode_text(texts)))
        means = embeddings.view(len(classes), len(templates), -1).mean(1)
        self.class_embeddings = torch.nn.functional.normalize(means, dim=1).numpy()

    def predict(self, items: Iterable[Any], errors: dict[int, str] | None = None) -> np.ndarray:
        """Probabilities of the classes.

        Args:
            items: images or sounds, see `Embedder`.
            errors: see `Embedder.encode_image`.

        Returns:
            (N, C) float32; rows sum to 1, and are NaN for what could not be read.
        """
        encode = getattr(self.embedder, f"encode_{self.modality}")
        cosines = torch.as_tensor(np.asarray(encode(items, errors)) @ self.class_embeddings.T)
        scale = self.embedder.model.scale().float().cpu()
        return (scale * cosines).softmax(1).detach().numpy()
