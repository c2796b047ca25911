"""Retrieval, drawn: some queries, what each of them retrieves, and which of it matches.

Lengths are in inches; inside a tile, y grows downwards from its top.
"""

import random
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmonepeace.choices import Rule
from mmonepeace.console import printable
from mmonepeace.datasets.audio_io import load_audio
from mmonepeace.datasets.image_io import to_rgb
from mmonepeace.evaluation.retrieval import Direction, Item, find_directions, items_of
from mmonepeace.registry import HOOKS
from mmonepeace.spec import SAMPLE_RATE
from mmonepeace.visualization.log_mel import log_mel
from mmonepeace.visualization.tile_grid import TileGrid

DPI = 120
TILE, GAP, MARGIN = 1.5, 0.16, 0.3
BELOW, ABOVE = 0.66, 1.0  # for what is written under a tile, and over all of them
INK, SOFT, PALE, RIGHT = "#1d1c1a", "#6b6862", "#d9d6cf", "#12834a"
PAPER = "#f6f5f2"
TEXT_SIZES = (12, 10.5, 9, 7.5)  # points; a text has the largest one that it fits into
CAPTION_LETTERS, CAPTION_LINES = 27, 2


@HOOKS.register_module()
class RetrievalGalleryHook(Hook):
    """After each validation, draw some queries of each direction and what they retrieve.

    The visualizer gets one image per direction, `retrieval_A_to_B`: TensorBoard shows them under
    "images", and they are saved in `vis_data/vis_image` of the run. The queries are the same each
    time. Only samples of the main process are drawn and compared, so that the titles equal the
    metrics of `RecallAtK` by the same rule for one process and up to `max_samples` samples.

    Args:
        num_queries: rows of an image.
        num_results: items in a row.
        max_samples: the first ones of the data set that are kept in memory.
        seed: of the choice of queries.
        rule: what is a query, see `evaluation/retrieval.py`.
    """

    def __init__(
        self,
        num_queries: int = 6,
        num_results: int = 5,
        max_samples: int = 2000,
        seed: int = 0,
        rule: Rule = "distinct",
    ) -> None:
        self.options = num_queries, num_results, seed
        self.max_samples = max_samples
        self.rule: Rule = rule
        self.samples: list[dict[str, Item]] = []

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the last validation."""
        self.samples = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Keep the items of data samples with `embeddings`."""
        if is_main_process():
            missing = self.max_samples - len(self.samples)
            self.samples += [items_of(sample) for sample in outputs[:missing]]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw each direction."""
        directions = find_directions(self.samples, self.rule)
        self.samples = []
        for a, b in directions:
            image = draw_direction(directions, (a, b), *self.options)
            # Without a slash: the name becomes that of a file.
            runner.visualizer.add_image(f"retrieval_{a}_to_{b}", image, runner.iter)


def draw_direction(
    directions: Mapping[tuple[str, str], Direction],
    which: tuple[str, str],
    num_queries: int = 6,
    num_results: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Draw a row for each of some queries: itself, then the most similar items, best first.

    Items that match have a green frame and a tick. Images and audio clips have the first text that
    they are paired with under them. Their identities are paths; what is not a file is written
    instead of drawn. The other arguments are those of `RetrievalGalleryHook`.

    Returns:
        (H, W, 3) uint8. Images of equally many results have the same width.

    Raises:
        ValueError: if there is no such direction.
    """
    if which not in directions:
        known = ", ".join(f"{a}_to_{b}" for a, b in directions)
        raise ValueError(f"there is no direction {'_to_'.join(which)}; choose from {known}.")
    direction = directions[which]
    captions = {name: _captions(directions.get((name, "text"))) for name in which}
    total = len(direction.queries)
    queries = sorted(random.Random(seed).sample(range(total), min(num_queries, total)))
    grid = _make_grid(len(queries), num_results)
    _write_title(grid, which, direction)
    for query, (query_tile, *tiles) in zip(queries, grid.tiles, strict=True):
        identity = direction.queries[query]
        _draw_item(query_tile, which[0], identity)
        rank = f"right at rank {int(direction.rank_Q[query]) + 1:,}"
        _write_below(query_tile, rank, captions[which[0]].get(identity, ""))
        best = direction.best(query, num_results)
        for tile, (item, cosine, matches) in zip(tiles, best, strict=False):
            identity = direction.items[item]
            _draw_item(tile, which[1], identity)
            colour, width = (RIGHT, 3.5) if matches else (PALE, 1)
            frame = Rectangle((0, 0), TILE, TILE, fill=False, edgecolor=colour, lw=width)
            tile.add_patch(frame).set(zorder=3, clip_on=False)
            score = f"{cosine:.3f}".replace("-", "\u2212") + (" \u2713" if matches else "")
            caption = captions[which[1]].get(identity, "")
            _write_below(tile, score, caption, RIGHT if matches else SOFT)
    return grid.to_array()


def _make_grid(num_queries: int, num_results: int) -> TileGrid:
    """A column of queries, and their results at some distance from it."""
    columns = num_results + 1
    width = 2 * MARGIN + columns * (GAP + TILE)
    height = ABOVE + num_queries * (TILE + BELOW) + MARGIN / 2
    grid = TileGrid(
        num_queries,
        columns,
        (width, height),
        DPI,
        left=(MARGIN + GAP) / width,
        right=1 - MARGIN / width,
        top=1 - ABOVE / height,
        bottom=(BELOW + MARGIN / 2) / height,
        wspace=GAP / TILE,
        hspace=BELOW / TILE,
    )
    for tile in grid.tiles.flat:
        tile.set(xlim=(0, TILE), ylim=(TILE, 0))
    for tile in grid.tiles[:, 0]:
        box = tile.get_position()
        tile.set_position([MARGIN / width, box.y0, box.width, box.height])
    return grid


def _captions(to_text: Direction | None) -> dict[Any, str]:
    """Identity -> the first text that it is paired with."""
    captions: dict[Any, str] = {}
    if to_text is not None:
        for query, item in zip(to_text.query_P.tolist(), to_text.item_P.tolist(), strict=True):
            captions.setdefault(to_text.queries[query], to_text.items[item])
    return captions


def _write_title(grid: TileGrid, which: tuple[str, str], direction: Direction) -> None:
    top = grid.tiles[0]
    title = dict(size=16, weight="bold", color=INK, va="center")
    top[0].text(0, 0.4 - ABOVE, f"{which[0]} \u2192 {which[1]}", **title)
    metrics = (
        f"R@1 {direction.recall(1):.1f} %, by chance {direction.chance(1):.2g} %     "
        f"{len(direction.queries):,} queries, {len(direction.items):,} items"
    )
    top[-1].text(TILE, 0.4 - ABOVE, metrics, size=10, color=SOFT, va="center", ha="right")
    for column, tile in enumerate(top):
        tile.text(0, -0.1, str(column or "query"), size=8, color=SOFT)


def _write_below(tile: Axes, line: str, caption: str, colour: str = SOFT) -> None:
    weight = "bold" if colour == RIGHT else "normal"
    tile.text(0, TILE + 0.17, line, size=8.5, color=colour, weight=weight)
    short = textwrap.fill(
        printable(caption), CAPTION_LETTERS, max_lines=CAPTION_LINES, placeholder=" \u2026"
    )
    tile.text(0, TILE + 0.23, short, size=7, color=SOFT, va="top", parse_math=False)


def _draw_item(tile: Axes, modality: str, identity: Any) -> None:
    """Draw an item, or write what cannot be drawn."""
    place: dict[str, Any] = dict(extent=(0, TILE, TILE, 0), aspect="auto", zorder=2)
    tile.add_patch(Rectangle((0, 0), TILE, TILE, facecolor=PAPER))
    try:
        if modality == "image" and Path(str(identity)).is_file():
            tile.imshow(_fit(to_rgb(str(identity))), interpolation="nearest", **place)
        elif modality == "audio" and Path(str(identity)).is_file():
            wave = load_audio(str(identity))
            tile.imshow(log_mel(wave), cmap="magma", vmin=0, vmax=1, **place)
            white: dict[str, Any] = dict(size=6, color="white", zorder=3)
            tile.text(0.05, 0.05, "8 kHz", va="top", **white)
            tile.text(0.05, TILE - 0.05, "40 Hz", **white)
            seconds = f"{len(wave) / SAMPLE_RATE:.1f} s"
            tile.text(TILE - 0.05, TILE - 0.05, seconds, ha="right", **white)
        else:
            _write_text(tile, str(identity))
    except ValueError as error:  # a file that cannot be read
        _write_text(tile, str(error))


def _fit(image: Image.Image) -> np.ndarray:
    """An image in the middle of a square tile, in the tile's own pixels."""
    side = round(TILE * DPI)
    scale = side / max(image.size)
    size = [max(round(length * scale), 1) for length in image.size]
    square = Image.new("RGB", (side, side), PAPER)
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    square.paste(image.resize(size, Image.Resampling.LANCZOS), corner)
    return np.asarray(square)


def _write_text(tile: Axes, text: str) -> None:
    text = printable(text)
    longest = max(map(len, text.split()), default=0)
    for size in TEXT_SIZES:
        # A letter is about 0.56 of its size wide, a line 1.2 of it high.
        letters, lines = (int((TILE - 0.2) * 72 / (ratio * size)) for ratio in (0.56, 1.2))
        if longest <= letters and len(textwrap.wrap(text, letters)) <= lines:
            break
    short = textwrap.fill(text, letters, max_lines=lines, placeholder=" \u2026")
    centred: dict[str, Any] = dict(ha="center", va="center", parse_math=False)
    tile.text(TILE / 2, TILE / 2, short, size=size, color=INK, **centred)
