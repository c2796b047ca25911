"""Tiles in rows and columns: the figure that every drawing of this package is put on."""

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from mmonepeace.atomic_file import atomic_file


class TileGrid:
    """A white figure with a (rows, columns) array of tiles, matplotlib axes without ticks.

    `size` is (width, height) in inches. Without a layout of matplotlib, tiles are where `spacing`
    puts them, the options of matplotlib's `GridSpec`.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        size: tuple[float, float],
        dpi: int,
        layout: Literal["constrained"] | None = None,
        **spacing: float,
    ) -> None:
        self.figure = Figure(figsize=size, dpi=dpi, layout=layout, facecolor="white")
        self.tiles = self.figure.subplots(rows, columns, squeeze=False, gridspec_kw=spacing)
        for tile in self.tiles.flat:
            tile.axis("off")

    def add_colour_bar(self, image: ScalarMappable, label: str, **options: Any) -> Colorbar:
        """Explain the colours of an image, on the right of all tiles."""
        bar = self.figure.colorbar(image, ax=list(self.tiles.flat), pad=0.015, **options)
        bar.set_label(label, fontsize=9)
        bar.outline.set_visible(False)
        return bar

    def save(self, path: str | Path, **options: Any) -> None:
        """Write an image file and the folders above it; options are those of `savefig`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            self.figure.savefig(temporary, format=path.suffix[1:] or "png", **options)

    def to_array(self) -> np.ndarray:
        """The figure as (H, W, 3) uint8."""
        canvas = FigureCanvasAgg(self.figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # those letters are boxes
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
