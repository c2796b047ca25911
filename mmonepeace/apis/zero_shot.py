"""Classification by class names alone.

Shapes: N items, C classes, D width.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from mmonepeace.apis.embedder import Embedder
from mmonepeace.console import table

TEMPLATES = {
    "image": ("a photo of a {}", "a picture of a {}", "{}"),
    "audio": ("this is a sound of {}",),  # the official one
}


class ZeroShotClassifier:
    """Images or sounds against the texts of class names.

    Args:
        embedder: with a text branch.
        classes: different names.
        modality: of what will be classified.
        templates: sentences with `{}` for the name; a class is the mean of their embeddings. None
            takes the usual ones of the modality.

    Raises:
        ValueError: if the modality is another one, names are missing or equal, or a template lacks
            `{}`.
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
        twice = [name for name, count in Counter(classes).items() if count > 1]
        wrong = [t for t in templates if "{}" not in t]
        if not classes or twice or not templates or wrong:
            raise ValueError(
                f"{len(classes)} classes, of which {twice} occur twice; {len(templates)} "
                f"templates, of which {wrong} lack {{}}; expected different class names, and "
                "sentences such as 'a photo of a {}'."
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


WORST_CLASSES, CONFUSIONS = 20, 10  # lines of a report


class Evaluation(NamedTuple):
    """How well predictions agree with labels; shares are of 1.

    Attributes:
        top1: share of items whose best class is right.
        top5: share of items with the right class among the best five; None for up to five classes.
        mean: top1, but each class that occurs counts alike.
        chance: top1 of a guess.
        majority: top1 of always naming the most frequent class.
        classes: name -> (right, all), for classes that occur.
        confusions: (truth, prediction, count), the most frequent first.
    """

    top1: float
    top5: float | None
    mean: float
    chance: float
    majority: float
    classes: dict[str, tuple[int, int]]
    confusions: list[tuple[str, str, int]]

    def report(self) -> str:
        """A text with the main numbers, the classes from the worst on, and the confusions."""
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.2%}"
        lines = [
            f"top-1 {self.top1:.2%}{top5}, mean over classes {self.mean:.2%}",
            f"for comparison: a guess {self.chance:.2%}, the most frequent class {self.majority:.2%}",
        ]
        worst = sorted(self.classes.items(), key=lambda c: (c[1][0] / c[1][1], -c[1][1]))
        rows = [(name, f"{good / n:.1%}", good, n) for name, (good, n) in worst[:WORST_CLASSES]]
        lines += ["", table(("class", "top-1", "right", "of"), rows, "lrrr")]
        if len(worst) > len(rows):
            lines.append(f"... and {len(worst) - len(rows):,} better ones")
        if self.confusions:
            confusions = self.confusions[:CONFUSIONS]
            lines += ["", table(("was", "taken for", "times"), confusions, "llr")]
        return "\n".join(lines)


def evaluate(
    probabilities: np.ndarray, labels: Sequence[str], classes: Sequence[str]
) -> Evaluation:
    """Compare predictions with labels.

    Args:
        probabilities: (N, C), of `ZeroShotClassifier.predict`, without NaN rows.
        labels: N names out of `classes`.
        classes: C names.

    Raises:
        ValueError: if there are no items, or a label is no class.
    """
    unknown = sorted(set(labels) - set(classes))
    if unknown or not len(probabilities) or np.isnan(probabilities).any():
        raise ValueError(
            f"{len(probabilities)} predictions, with NaN or without; labels that are no class: "
            f"{', '.join(unknown[:5]) or 'none'}. Expected readable items with labels out of the "
            f"{len(classes)} classes."
        )
    position = {name: i for i, name in enumerate(classes)}
    truth = np.array([position[label] for label in labels])
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    right = ranked[:, 0] == truth
    totals = Counter(labels)
    per_class = {
        name: (int(right[truth == i].sum()), totals[name])
        for i, name in enumerate(classes)
        if name in totals
    }
    wrong = Counter(
        (classes[t], classes[p]) for t, p in zip(truth[~right], ranked[~right, 0], strict=True)
    )
    return Evaluation(
        top1=float(right.mean()),
        top5=float((ranked[:, :5] == truth[:, None]).any(1).mean()) if len(classes) > 5 else None,
        mean=float(np.mean([good / count for good, count in per_class.values()])),
        chance=1 / len(classes),
        majority=max(totals.values()) / len(labels),
        classes=per_class,
        confusions=[(t, p, count) for (t, p), count in wrong.most_common()],
    )
