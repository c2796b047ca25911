"""Colours of classes, and the legend that explains them."""

import colorsys
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLUMN_INCHES, LINE_INCHES = 1.9, 0.25


def class_colours(palette: Any, num_classes: int) -> np.ndarray:
    """(num_classes, 3) colours in 0..255: those of a data set's palette, or hues if it is too short.

    A palette is a list of RGB colours; "random" or None count as none.
    """
    if isinstance(palette, (list, tuple, np.ndarray)) and len(palette) >= num_classes:
        return np.array(palette[:num_classes], np.uint8)
    hues = [colorsys.hsv_to_rgb(i / max(num_classes, 1), 0.8, 0.9) for i in range(num_classes)]
    return np.round(np.array(hues).reshape(num_classes, 3) * 255).astype(np.uint8)


def legend_height(num_entries: int, width: float) -> float:
    """Inches that `add_legend` needs at the top of a figure of `width` inches."""
    return LINE_INCHES * (1 + -(-num_entries // int(width / COLUMN_INCHES)))


def add_legend(figure: Figure, colours: Mapping[str, np.ndarray]) -> None:
    """Write names beside their RGB colours in 0..255, at the top of a figure."""
    handles = [
        Patch(facecolor=(np.array(colour) / 255).tolist(), edgecolor="grey", label=name)
        for name, colour in colours.items()
    ]
    if handles:
        columns = int(figure.get_figwidth() / COLUMN_INCHES)
        figure.legend(handles=handles, loc="upper center", ncols=columns, fontsize=9)
