"""Colours of classes, and the legend that explains them."""

import colorsys
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLUMN_INCHES, LINE_INCHES = 1.9, 0.25


def class_colours(palette: Any, num_classes: int) -> np.ndarray:
    """Colours (num_classes, 3) in 0..255: those of a palette, or hues if it is not long enough.

    Args:
        palette: of a data set: a list of RGB colours, or anything else, such as "random" or None.
        num_classes: number of colours.
    """
    if isinstance(palette, (list, tuple, np.ndarray)) and len(palette) >= num_classes:
        return np.array(palette[:num_classes], np.uint8)
    hues = [colorsys.hsv_to_rgb(i / max(num_classes, 1), 0.8, 0.9) for i in range(num_classes)]
    return np.round(np.array(hues).reshape(num_classes, 3) * 255).astype(np.uint8)


def legend_columns(width: float) -> int:
    """Number of entries side by side in a figure of `width` inches."""
    return int(width / COLUMN_INCHES)


def legend_height(num_entries: int, width: float) -> float:
    """Inches that a legend needs at the top of a figure of `width` inches."""
    return LINE_INCHES * (1 + -(-num_entries // legend_columns(width)))


def add_legend(figure: Figure, colours: Mapping[str, np.ndarray]) -> None:
    """Put names beside their colours at the top of a figure.

    Args:
        figure: with `legend_height` of free space.
        colours: name -> RGB in 0..255.
    """
    handles = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="grey", label=name)
        for name, colour in colours.items()
    ]
    if handles:
        columns = legend_columns(figure.get_figwidth())
        figure.legend(handles=handles, loc="upper center", ncols=columns, fontsize=9)
