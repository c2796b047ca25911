"""Predictions drawn beside the ground truth: label maps, or boxes and masks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmonepeace.visualization.legend import add_legend, legend_height
from mmonepeace.visualization.tile_grid import TileGrid

WIDTH_INCHES, DPI = 14.5, 110  # of the figure: 1,595 pixels
TITLE_INCHES = 0.3
SAMPLES = 2  # in each row
MASK_OPACITY = 0.5


class Instances(NamedTuple):
    """Boxes in an image, and their masks if there are any."""

    boxes_N4: np.ndarray  # left, upper, right and lower edge in pixels
    labels_N: np.ndarray
    scores_N: np.ndarray | None = None
    masks_NHW: np.ndarray | None = None

    def keep(self, which: np.ndarray) -> "Instances":
        """Select some of them by mask or index."""
        return Instances._make(None if value is None else value[which] for value in self)


def true_instances(sample: dict[str, Any]) -> Instances:
    """What mmdet's LoadAnnotations has loaded."""
    masks = sample["gt_masks"].to_ndarray() > 0 if "gt_masks" in sample else None
    return Instances(sample["gt_bboxes"].numpy(), sample["gt_bboxes_labels"], None, masks)


def predicted_instances(data_sample: Any, score_thr: float) -> Instances:
    """What a detector of mmdet has predicted, from a score on."""
    predicted = data_sample.pred_instances.cpu().numpy()
    masks = predicted.masks > 0 if "masks" in predicted else None
    instances = Instances(predicted.bboxes, predicted.labels, predicted.scores, masks)
    return instances.keep(predicted.scores >= score_thr)


def draw_label_maps(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    colours: np.ndarray,
    ignore_index: int = 255,
) -> Figure:
    """Draw for each sample: ground truth | prediction | prediction over the image, with its mIoU.

    Rows are name, image (H, W, 3), true labels (H, W) and predicted labels (H, W). Classes have
    colours from `class_colours`. True labels of `ignore_index` count as neither right nor wrong.
    """
    legend = dict(zip(classes, colours, strict=True))
    figure, tiles_of = _make_figure(len(rows), 3, rows[0][1].shape, legend)
    for tiles, (name, image, truth, predicted) in zip(tiles_of, rows, strict=True):
        painted = paint(predicted, colours)
        mixed = image + MASK_OPACITY * (painted.astype(np.float32) - image)
        _show(tiles[0], f"{name}: ground truth", paint(truth, colours))
        _show(tiles[1], f"prediction ({_rate(predicted, truth, ignore_index)})", painted)
        _show(tiles[2], "over the image", mixed.astype(np.uint8))
    return figure


def draw_instances(
    rows: Sequence[tuple[str, np.ndarray, Instances, Instances]],
    classes: Sequence[str],
    colours: np.ndarray,
) -> Figure:
    """Draw for each sample: image with true boxes | with predicted boxes, their masks and scores.

    Rows are name, image (H, W, 3), ground truth and prediction. Classes have colours from
    `class_colours`; the legend has those that occur.
    """
    labels = np.concatenate([instances.labels_N for row in rows for instances in row[2:]])
    legend = {classes[i]: colours[i] for i in np.unique(labels).astype(int)}
    figure, tiles_of = _make_figure(len(rows), 2, rows[0][1].shape, legend)
    for tiles, (name, image, truth, predicted) in zip(tiles_of, rows, strict=True):
        _outline(tiles[0], f"{name}: ground truth", image, truth, colours)
        _outline(tiles[1], "prediction", image, predicted, colours)
    return figure


def _make_figure(
    samples: int, tiles: int, shape: tuple[int, ...], legend: Mapping[str, np.ndarray]
) -> tuple[Figure, list[np.ndarray]]:
    """A figure, and the tiles of each sample, for images of about a shape (H, W, ...).

    Above them is a legend of name -> colour.
    """
    columns, rows = tiles * SAMPLES, math.ceil(samples / SAMPLES)
    inches = WIDTH_INCHES / columns
    width = inches * tiles * min(samples, SAMPLES)
    tile_height = min(max(inches * shape[0] / shape[1], inches / 3), 2 * inches)
    top = legend_height(len(legend), width)
    height = (tile_height + TITLE_INCHES) * rows + top
    grid = TileGrid(rows, tiles * min(samples, SAMPLES), (width, height), DPI)
    grid.figure.set_layout_engine("tight", rect=(0, 0, 1, 1 - top / height))
    add_legend(grid.figure, legend)
    in_order = list(grid.tiles.reshape(-1, tiles))
    for tile in grid.tiles.reshape(-1)[samples * tiles :]:
        tile.remove()
    return grid.figure, in_order[:samples]


def _rate(predicted: np.ndarray, truth: np.ndarray, ignore_index: int) -> str:
    """Mean over the classes that are there or predicted: what is missed counts, however small."""
    known = truth != ignore_index
    predicted, truth = predicted[known], truth[known]
    ious = [
        ((predicted == k) & (truth == k)).sum() / ((predicted == k) | (truth == k)).sum()
        for k in np.union1d(predicted, truth)
    ]
    return f"mIoU {np.mean(ious):.0%}" if ious else "no labels"


def _show(tile: Axes, title: str, image: np.ndarray) -> None:
    tile.imshow(image)
    tile.set_title(title, fontsize=9, parse_math=False)


def paint(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Label map (H, W) to colours (H, W, 3); labels outside the classes are white."""
    image = np.full((*labels.shape, 3), 255, np.uint8)
    inside = labels < len(colours)
    image[inside] = colours[labels[inside]]
    return image


def _outline(
    tile: Axes, title: str, image: np.ndarray, instances: Instances, colours: np.ndarray
) -> None:
    """Draw an image with boxes, masks and scores, the most certain ones on top."""
    if instances.scores_N is not None:
        instances = instances.keep(np.argsort(instances.scores_N))
    boxes_N4, labels_N, scores_N, masks_NHW = instances
    tinted = image.astype(np.float32)
    for mask, label in zip(() if masks_NHW is None else masks_NHW, labels_N, strict=False):
        tinted[mask] += MASK_OPACITY * (colours[label] - tinted[mask])
    _show(tile, f"{title} ({len(labels_N)})", tinted.astype(np.uint8))
    for i, ((x0, y0, x1, y1), label) in enumerate(zip(boxes_N4, labels_N, strict=True)):
        colour = tuple(colours[label] / 255)
        tile.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, lw=1.2))
        if scores_N is not None:
            box = dict(facecolor=colour, edgecolor="none", pad=0.6, alpha=0.8)
            above = y0 > 0.05 * len(image)  # or else it would leave the image
            va = "bottom" if above else "top"
            tile.text(x0, y0, f"{scores_N[i]:.2f}", fontsize=5, va=va, bbox=box)
