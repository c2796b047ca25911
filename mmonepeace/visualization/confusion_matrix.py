"""Confusion matrices, drawn.

Shapes: C classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmonepeace.console import printable
from mmonepeace.evaluation.classification import Evaluation
from mmonepeace.visualization.tile_grid import TileGrid

CELL_INCHES, MARGIN_INCHES = 0.42, 2.6
SIDE_INCHES = (3.0, 16.0)  # of a matrix, at least and at most
MAX_PRINTED = 30  # classes up to which each cell has its value
MAX_NAMED = 120  # classes up to which they are named
NAME_LENGTH = 24


def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> np.ndarray:
    """(C, C) items of each true class (row) that were predicted as each class (column)."""
    index = {name: i for i, name in enumerate(classes)}
    count_CC = np.zeros((len(classes), len(classes)), int)
    for name, (correct, _) in evaluation.classes.items():
        count_CC[index[name], index[name]] = correct
    for label, prediction, count in evaluation.confusions:
        count_CC[index[label], index[prediction]] = count
    return count_CC


def draw_confusions(
    path: str | Path, panels: Sequence[tuple[str, Evaluation]], classes: Sequence[str]
) -> None:
    """Draw the confusion matrices of titled evaluations side by side.

    Colours are fractions of a true class; cells of up to 30 classes have the numbers of items.
    `path` is an image file to write; classes are all names, in the order of rows and columns.
    """
    side = float(np.clip(CELL_INCHES * len(classes), *SIDE_INCHES))
    size = (len(panels) * (side + 0.6) + MARGIN_INCHES, side + MARGIN_INCHES)
    grid = TileGrid(1, len(panels), size, dpi=130, layout="constrained")
    names = [
        n if len(n) <= NAME_LENGTH else f"{n[: NAME_LENGTH - 1]}…" for n in map(printable, classes)
    ]
    ticks = range(len(classes)) if len(classes) <= MAX_NAMED else ()
    font = dict(fontsize=min(9.0, 60 * side / len(classes)), parse_math=False)
    for column, (tile, (title, evaluation)) in enumerate(zip(grid.tiles[0], panels, strict=True)):
        count_CC = confusion_matrix(evaluation, classes)
        totals = count_CC.sum(1, keepdims=True)
        fraction_CC = np.where(totals > 0, count_CC / np.maximum(totals, 1), np.nan)
        image = tile.imshow(100 * fraction_CC, cmap="Blues", vmin=0, vmax=100)
        tile.axis("on")
        tile.set_facecolor("0.85")  # rows of classes that do not occur
        tile.set_title(title, fontsize=10, parse_math=False)
        tile.set_xlabel("taken for")
        tile.set_xticks(ticks, names[: len(ticks)], rotation=90, **font)
        tile.set_yticks(ticks, [] if column else names[: len(ticks)], **font)
        tile.tick_params(length=0)
        if not column:
            tile.set_ylabel("is")
        if len(classes) <= MAX_PRINTED:
            for (i, j), fraction in np.ndenumerate(fraction_CC):
                if fraction > 0:
                    colour = "white" if fraction > 0.5 else "black"
                    centred = dict(ha="center", va="center", fontsize=8, color=colour)
                    tile.text(j, i, f"{count_CC[i, j]:,}", **centred)
    grid.add_colour_bar(image, "per cent of the true class", aspect=30, fraction=0.03)
    grid.save(path, bbox_inches="tight", pad_inches=0.15)
