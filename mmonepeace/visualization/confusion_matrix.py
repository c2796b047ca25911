"""Confusion matrices, drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmonepeace.apis.zero_shot import Evaluation

CELL_INCHES, MARGIN_INCHES = 0.42, 2.6
SIDE_INCHES = (3.0, 16.0)  # of a matrix, at least and at most
MAX_NUMBERS = 30  # classes up to which cells have numbers
MAX_NAMES = 120  # classes up to which they have names
NAME_LENGTH = 24


def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> np.ndarray:
    """(C, C) shares of each true class (row) that were taken for a class (column).

    Args:
        evaluation: from `evaluate`.
        classes: C names. A row of a class that does not occur is NaN.
    """
    position = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    for name, (right, _) in evaluation.classes.items():
        counts[position[name], position[name]] = right
    for truth, taken, count in evaluation.confusions:
        counts[position[truth], position[taken]] = count
    totals = counts.sum(1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def draw_confusions(
    path: str | Path, panels: Sequence[tuple[str, Evaluation]], classes: Sequence[str]
) -> None:
    """EpochIndex confusion matrices side by side, in per cent of each true class.

    Args:
        path: file to write, such as a .png.
        panels: title and evaluation of each.
        classes: names of all classes, in the order of rows and columns.
    """
    from matplotlib.figure import Figure

    side = float(np.clip(CELL_INCHES * len(classes), *SIDE_INCHES))
    size = (len(panels) * (side + 0.6) + MARGIN_INCHES, side + MARGIN_INCHES)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = [n if len(n) <= NAME_LENGTH else f"{n[: NAME_LENGTH - 1]}…" for n in classes]
    ticks = range(len(classes)) if len(classes) <= MAX_NAMES else ()
    font = dict(fontsize=min(9.0, 60 * side / len(classes)), parse_math=False)
    for axis, (title, evaluation) in zip(axes, panels, strict=True):
        shares = confusion_matrix(evaluation, classes)
        picture = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        axis.set_facecolor("0.85")  # rows of classes that do not occur
        axis.set_title(title, fontsize=10, parse_math=False)
        axis.set_xlabel("taken for")
        axis.set_xticks(ticks, names[: len(ticks)], rotation=90, **font)
        axis.set_yticks(ticks, names[: len(ticks)] if axis is axes[0] else [], **font)
        axis.tick_params(length=0)
        if len(classes) > MAX_NUMBERS:
            continue
        for (i, j), share in np.ndenumerate(shares):
            if share > 0:
                colour = "white" if share > 0.5 else "black"
                text = dict(ha="center", va="center", fontsize=8, color=colour)
                axis.text(j, i, f"{100 * share:.0f}", **text)
    axes[0].set_ylabel("is")
    bar = figure.colorbar(picture, ax=list(axes), pad=0.015, aspect=30, fraction=0.03)
    bar.set_label("per cent of the true class", fontsize=9)
    bar.outline.set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
