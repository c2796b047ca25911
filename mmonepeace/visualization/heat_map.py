"""Drawing where an image is like some queries."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmonepeace.datasets import image_io

COLUMNS = 4
PANEL_INCHES = 3.4
LINE_INCHES = 0.2  # of a title
OPACITY = 0.62
OUTLIERS = 0.5  # per cent of the pixels at each end that have the colour of the end


def draw_heat_maps(
    path: str | Path, image: image_io.Picture, maps_QHW: np.ndarray, titles: Sequence[str]
) -> None:
    """EpochIndex the image and, over a grey copy for each query, how much each place is like it.

    All maps have one colour scale, so that they can be compared.

    Args:
        path: file to write, such as a .png.
        image: see `Embedder.encode_image`.
        maps_QHW: from `Embedder.heat_maps`.
        titles: one for each query; long ones are wrapped.
    """
    from matplotlib.figure import Figure

    picture = image_io.to_rgb(image)
    names = [image.name if isinstance(image, Path) else "image", *titles]
    names = [textwrap.fill(n, 36, max_lines=3, placeholder=" …") for n in names]
    lines = math.ceil(len(names) / COLUMNS)
    columns = math.ceil(len(names) / lines)
    # Very long and very high pictures get panels of a ratio that leaves room for titles.
    height = PANEL_INCHES * min(max(picture.height / picture.width, 0.4), 2.5)
    height += LINE_INCHES * (2 + max(name.count("\n") for name in names))
    size = (columns * PANEL_INCHES + 0.9, lines * height)
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    low, high = np.percentile(maps_QHW, (OUTLIERS, 100 - OUTLIERS))
    grey = np.asarray(picture.convert("L"))
    axes[0].imshow(picture)
    for axis, values in zip(axes[1:], maps_QHW, strict=False):
        axis.imshow(grey, cmap="gray", vmin=-160, vmax=255)  # pale, so that colours stay colours
        overlay = axis.imshow(values, cmap="inferno", vmin=low, vmax=high, alpha=OPACITY)
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name, fontsize=11, parse_math=False, pad=7)
    for axis in axes:
        axis.axis("off")
    bar = figure.colorbar(overlay, ax=list(axes), pad=0.015, aspect=28, fraction=0.04)
    bar.set_label("cosine similarity", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
