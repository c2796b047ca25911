"""Heat maps: how similar each position of an image is to some queries."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmonepeace.console import printable
from mmonepeace.datasets import image_io
from mmonepeace.visualization.tile_grid import TileGrid

COLUMNS = 4
TILE_INCHES = 3.4
LINE_INCHES = 0.2  # of a title
OPACITY = 0.62
OUTLIERS = 0.5  # per cent of the pixels at each end that get the colour of the end


def draw_heat_maps(
    path: str | Path, image: image_io.ImageInput, maps_QHW: np.ndarray, titles: Sequence[str]
) -> None:
    """Draw the image, and a heat map over a grey copy of it for each query, in an image file.

    Each map, from `Embedder.heat_maps`, has a colour scale of its own, whose ends are in its title: cosines
    of different queries do not compare. Long titles are wrapped.
    """
    rgb = image_io.to_rgb(image)
    names = [image.name if isinstance(image, Path) else "image", *titles]
    names = [textwrap.fill(printable(n), 36, max_lines=3, placeholder=" …") for n in names]
    scales = [np.percentile(values, (OUTLIERS, 100 - OUTLIERS)) for values in maps_QHW]
    names[1:] = [
        f"{name}\n{low:.3f} to {high:.3f}"
        for name, (low, high) in zip(names[1:], scales, strict=True)
    ]
    rows = math.ceil(len(names) / COLUMNS)
    columns = math.ceil(len(names) / rows)
    # Very wide and very high images get tiles of a ratio that leaves room for titles.
    height = TILE_INCHES * min(max(rgb.height / rgb.width, 0.4), 2.5)
    height += LINE_INCHES * (2 + max(name.count("\n") for name in names))
    size = (columns * TILE_INCHES + 0.9, rows * height)
    grid = TileGrid(rows, columns, size, dpi=150, layout="constrained")
    grey = np.asarray(rgb.convert("L"))
    first, *others = grid.tiles.flat
    first.imshow(rgb)
    for tile, values, (low, high) in zip(others, maps_QHW, scales, strict=False):
        tile.imshow(grey, cmap="gray", vmin=-160, vmax=255)  # pale, so that colours stay colours
        overlay = tile.imshow(values, cmap="inferno", vmin=low, vmax=high, alpha=OPACITY)
    for tile, name in zip(grid.tiles.flat, names, strict=False):
        tile.set_title(name, fontsize=11, parse_math=False, pad=7)
    bar = grid.add_colour_bar(overlay, "cosine similarity", aspect=28, fraction=0.04)
    bar.set_ticks([low, high], labels=["lowest", "highest"])
    bar.ax.tick_params(labelsize=8, length=0)
    grid.save(path)


def extremes(maps_QHW: np.ndarray) -> list[tuple[float, float, int, int]]:
    """Of each map its lowest and highest cosine, and the x and y of the highest, in pixels."""
    found = []
    for values in maps_QHW:
        y, x = np.unravel_index(values.argmax(), values.shape)
        found.append((float(values.min()), float(values.max()), int(x), int(y)))
    return found
