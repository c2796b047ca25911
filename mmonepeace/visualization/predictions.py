"""Predictions drawn beside the truth: label maps, or boxes and masks. Lengths are in inches."""

import colorsys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

CELL, TITLE = 3.2, 0.3
LEGEND_LINE, LEGEND_COLUMN = 0.25, 1.9
MASK_ALPHA = 0.5


class Instances(NamedTuple):
    """Boxes in an image, and masks if there are any."""

    boxes_N4: np.ndarray
    """Left, upper, right and lower edge in pixels."""
    labels_N: np.ndarray
    scores_N: np.ndarray | None = None
    masks_NHW: np.ndarray | None = None

    def keep(self, which: np.ndarray) -> "Instances":
        """Some of them, by mask or index."""
        return Instances(*(None if value is None else value[which] for value in self))


def true_instances(sample: dict[str, Any]) -> Instances:
    """What mmdet's LoadAnnotations has loaded."""
    masks = sample["gt_masks"].to_ndarray() > 0 if "gt_masks" in sample else None
    return Instances(sample["gt_bboxes"].numpy(), sample["gt_bboxes_labels"], None, masks)


def predicted_instances(data_sample: Any, score_thr: float) -> Instances:
    """What a detector of mmdet has found, from a score on."""
    found = data_sample.pred_instances.cpu().numpy()
    masks = found.masks > 0 if "masks" in found else None
    which = found.scores >= score_thr
    return Instances(found.bboxes, found.labels, found.scores, masks).keep(which)


# A title, and a function that draws below it.
Cell = tuple[str, Callable[[Axes], Any]]


def class_colours(palette: Any, number: int) -> np.ndarray:
    """Colours (number, 3) in 0..255: those of a palette, or hues if it is no list of colours."""
    if isinstance(palette, (list, tuple, np.ndarray)) and len(palette) >= number:
        return np.array(palette[:number], np.uint8)
    hues = [colorsys.hsv_to_rgb(i / max(number, 1), 0.8, 0.9) for i in range(number)]
    return np.round(np.array(hues).reshape(number, 3) * 255).astype(np.uint8)


def draw_label_maps(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    colours: np.ndarray,
    ignore_index: int = 255,
) -> Figure:
    """EpochIndex image | truth | prediction.

    Args:
        rows: name, image (H, W, 3), true labels (H, W) and predicted labels (H, W).
        classes: their names.
        colours: from `class_colours`.
        ignore_index: a label that counts as neither right nor wrong.
    """

    def cells(name: str, image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> list[Cell]:
        right = (predicted == truth)[truth != ignore_index]
        titles = (name, "truth", f"prediction ({right.mean():.0%} of pixels right)")
        pictures = (image, _paint(truth, colours), _paint(predicted, colours))
        return [
            (title, lambda axes, picture=picture: axes.imshow(picture))
            for title, picture in zip(titles, pictures, strict=True)
        ]

    legend = dict(zip(classes, colours, strict=True))
    shape = rows[0][1].shape
    return _draw_table([cells(*row) for row in rows], shape, legend)


def draw_instances(
    rows: Sequence[tuple[str, np.ndarray, Instances, Instances]],
    classes: Sequence[str],
    colours: np.ndarray,
) -> Figure:
    """EpochIndex image with true boxes | image with predicted boxes, their masks and scores.

    Args:
        rows: name, image (H, W, 3), truth and prediction.
        classes: their names; the legend has those that occur.
        colours: from `class_colours`.
    """

    def cell(title: str, image: np.ndarray, found: Instances) -> Cell:
        return f"{title} ({len(found.labels_N)})", lambda axes: _outline(
            axes, image, found, colours
        )

    table = [
        [cell(f"{name}: truth", image, truth), cell("prediction", image, predicted)]
        for name, image, truth, predicted in rows
    ]
    labels = [found.labels_N for *_, truth, predicted in rows for found in (truth, predicted)]
    legend = {classes[i]: colours[i] for i in np.unique(np.concatenate(labels)).astype(int)}
    return _draw_table(table, rows[0][1].shape, legend)


def _paint(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Label map (H, W) to colours (H, W, 3); labels outside the classes are white."""
    picture = np.full((*labels.shape, 3), 255, np.uint8)
    inside = labels < len(colours)
    picture[inside] = colours[labels[inside]]
    return picture


def _outline(axes: Axes, image: np.ndarray, found: Instances, colours: np.ndarray) -> None:
    """EpochIndex an image with boxes, masks and scores, the most certain ones on top."""
    if found.scores_N is not None:
        found = found.keep(np.argsort(found.scores_N))
    picture = image.astype(np.float32)
    for mask, label in zip(
        () if found.masks_NHW is None else found.masks_NHW, found.labels_N, strict=False
    ):
        picture[mask] += MASK_ALPHA * (colours[label] - picture[mask])
    axes.imshow(picture.astype(np.uint8))
    for i, ((x0, y0, x1, y1), label) in enumerate(zip(found.boxes_N4, found.labels_N, strict=True)):
        colour = tuple(colours[label] / 255)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, lw=1.2))
        if found.scores_N is not None:
            box = dict(facecolor=colour, edgecolor="none", pad=0.6, alpha=0.8)
            above = y0 > 0.05 * len(image)  # or else it would leave the image
            score = f"{found.scores_N[i]:.2f}"
            axes.text(x0, y0, score, fontsize=5, va="bottom" if above else "top", bbox=box)


def _draw_table(
    table: Sequence[Sequence[Cell]], shape: tuple[int, ...], legend: dict[str, np.ndarray]
) -> Figure:
    """EpochIndex cells in rows, with a legend above.

    Args:
        table: rows of cells, equally many in each.
        shape: (H, W, ...) of a typical image.
        legend: name -> colour.
    """
    height = min(max(CELL * shape[0] / shape[1], CELL / 3), 2 * CELL) + TITLE
    columns = int(CELL * len(table[0]) / LEGEND_COLUMN)
    top = LEGEND_LINE * (1 + -(-len(legend) // columns))
    size = (CELL * len(table[0]), height * len(table) + top)
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    axes = figure.subplots(len(table), len(table[0]), squeeze=False)
    for row, cells in zip(axes, table, strict=True):
        for axis, (title, draw) in zip(row, cells, strict=True):
            draw(axis)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    handles = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="grey", label=name)
        for name, colour in legend.items()
    ]
    figure.tight_layout(rect=(0, 0, 1, 1 - top / size[1]))
    if handles:
        figure.legend(handles=handles, loc="upper center", ncols=columns, fontsize=9)
    return figure
