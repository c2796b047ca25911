"""Pictures of retrieval: some queries, what each of them finds, and which of it is right.

Lengths are in inches, y grows downwards.
"""

import random
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmonepeace.datasets.audio_io import load_audio
from mmonepeace.datasets.image_io import to_rgb
from mmonepeace.evaluation.retrieval import Direction, Item, find_directions, items_of
from mmonepeace.registry import HOOKS
from mmonepeace.spec import SAMPLE_RATE

DPI = 120
TILE, GAP, MARGIN = 1.5, 0.16, 0.3
BELOW, ABOVE = 0.66, 1.0  # for what is written under a tile, and over all of them
INK, SOFT, PALE, RIGHT = "#1d1c1a", "#6b6862", "#d9d6cf", "#12834a"
TEXT_SIZES = (12, 10.5, 9, 7.5)  # points; a text has the largest one that it fits into
CAPTION_LETTERS, CAPTION_LINES = 27, 2
SPECTRUM = np.geomspace(60, SAMPLE_RATE / 2, 96)  # Hz of the rows of a spectrogram
WINDOW, FRAMES, DECIBELS = 1024, 240, 60


@HOOKS.register_module()
class RetrievalGalleryHook(Hook):
    """After each validation, draw some queries of each direction and what they find.

    The visualizer gets one picture for a direction, `retrieval_A_to_B`: TensorBoard shows them
    under "images", and they lie in `vis_data/vis_image` of the run. The queries are the same ones
    each time. Only samples of the main process are drawn and compared, so that the titles equal the
    metrics of `RecallAtK` for one process and up to `max_samples` samples.

    Args:
        num_queries: rows of a picture.
        num_results: items in a row.
        max_samples: the first ones of the data set that are kept in memory.
        seed: of the choice of queries.
    """

    def __init__(
        self,
        num_queries: int = 6,
        num_results: int = 5,
        max_samples: int = 2000,
        seed: int = 0,
    ) -> None:
        self.num_queries = num_queries
        self.num_results = num_results
        self.max_samples = max_samples
        self.seed = seed
        self.samples: list[dict[str, Item]] = []

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the last validation."""
        self.samples = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Keep the items of data samples with `embeddings`."""
        if is_main_process():
            missing = self.max_samples - len(self.samples)
            self.samples += [items_of(sample) for sample in outputs[:missing]]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """EpochIndex."""
        directions = find_directions(self.samples)
        self.samples = []
        for a, b in directions:
            picture = draw_direction(
                directions, (a, b), self.num_queries, self.num_results, self.seed
            )
            # Without a slash: the name becomes that of a file.
            runner.visualizer.add_image(f"retrieval_{a}_to_{b}", picture, runner.iter)


def draw_direction(
    directions: Mapping[tuple[str, str], Direction],
    which: tuple[str, str],
    num_queries: int = 6,
    num_results: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """EpochIndex a row for each of some queries: itself, then the most similar items, best first.

    Right items have a green frame and a tick. Pictures and sounds have the first text they belong
    to under them.

    Args:
        directions: from `find_directions`. Identities of images and sounds are paths; what is none
            is written instead of drawn.
        which: the direction to draw.
        num_queries: number of rows.
        num_results: items in a row.
        seed: of the choice of queries.

    Returns:
        (H, W, 3) uint8. Pictures of equally many results have the same width.

    Raises:
        ValueError: if there is no such direction.
    """
    if which not in directions:
        known = ", ".join(f"{a}_to_{b}" for a, b in directions)
        raise ValueError(f"there is no direction {'_to_'.join(which)}; choose from {known}.")
    direction = directions[which]
    captions = {name: _captions(directions.get((name, "text"))) for name in which}
    total = len(direction.queries)
    rows = sorted(random.Random(seed).sample(range(total), min(num_queries, total)))
    width = 2 * MARGIN + (num_results + 1) * TILE + (num_results + 1) * GAP
    height = ABOVE + len(rows) * (TILE + BELOW) + MARGIN / 2
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _write_title(axes, which, direction, num_results)
    for row, query in enumerate(rows):
        y = ABOVE + row * (TILE + BELOW)
        identity = direction.queries[query]
        _draw_tile(axes, which[0], identity, MARGIN, y)
        rank = f"right at rank {int(direction.rank_Q[query]) + 1:,}"
        _write_below(axes, rank, captions[which[0]].get(identity, ""), MARGIN, y)
        for column, (item, cosine, right) in enumerate(direction.best(query, num_results), 1):
            x = MARGIN + column * (TILE + GAP) + GAP
            identity = direction.items[item]
            _draw_tile(axes, which[1], identity, x, y)
            frame = dict(edgecolor=RIGHT, lw=3.5) if right else dict(edgecolor=PALE, lw=1)
            axes.add_patch(Rectangle((x, y), TILE, TILE, fill=False, zorder=3, **frame))
            score = f"{cosine:.3f}".replace("-", "\u2212") + (" \u2713" if right else "")
            caption = captions[which[1]].get(identity, "")
            _write_below(axes, score, caption, x, y, RIGHT if right else SOFT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # those letters are boxes
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _captions(to_text: Direction | None) -> dict[Any, str]:
    """Identity -> the first text that it belongs to."""
    found: dict[Any, str] = {}
    if to_text is not None:
        pairs = zip(to_text.query_P.tolist(), to_text.item_P.tolist(), strict=True)
        for query, item in pairs:
            found.setdefault(to_text.queries[query], to_text.items[item])
    return found


def _write_title(
    axes: Axes, which: tuple[str, str], direction: Direction, num_results: int
) -> None:
    axes.text(
        MARGIN, 0.4, f"{which[0]} \u2192 {which[1]}", size=16, weight="bold", color=INK, va="center"
    )
    numbers = (
        f"R@1 {direction.recall(1):.1f} %, by chance {direction.chance(1):.2g} %     "
        f"{len(direction.queries):,} queries, {len(direction.items):,} items"
    )
    right = axes.get_xlim()[1] - MARGIN
    axes.text(right, 0.4, numbers, size=10, color=SOFT, va="center", ha="right")
    axes.text(MARGIN, ABOVE - 0.1, "query", size=8, color=SOFT)
    for column in range(1, num_results + 1):
        x = MARGIN + column * (TILE + GAP) + GAP
        axes.text(x, ABOVE - 0.1, str(column), size=8, color=SOFT)


def _write_below(
    axes: Axes, line: str, caption: str, x: float, y: float, colour: str = SOFT
) -> None:
    weight = "bold" if colour == RIGHT else "normal"
    axes.text(x, y + TILE + 0.17, line, size=8.5, color=colour, weight=weight)
    options = dict(max_lines=CAPTION_LINES, placeholder=" \u2026")
    short = textwrap.fill(caption, CAPTION_LETTERS, **options)
    axes.text(x, y + TILE + 0.23, short, size=7, color=SOFT, va="top", parse_math=False)


def _draw_tile(axes: Axes, modality: str, identity: Any, x: float, y: float) -> None:
    """EpochIndex an item, or write what cannot be drawn."""
    place = dict(extent=(x, x + TILE, y + TILE, y), aspect="auto", zorder=2)
    axes.add_patch(Rectangle((x, y), TILE, TILE, facecolor="#f6f5f2"))
    try:
        if modality == "image" and Path(str(identity)).is_file():
            axes.imshow(_fit(to_rgb(str(identity))), interpolation="nearest", **place)
        elif modality == "audio" and Path(str(identity)).is_file():
            wave = load_audio(str(identity))
            axes.imshow(spectrogram(wave), cmap="magma", vmin=0, vmax=1, **place)
            seconds = f"{len(wave) / SAMPLE_RATE:.1f} s"
            axes.text(x + 0.07, y + 0.17, seconds, size=7, color="white", zorder=3)
        else:
            _write_text(axes, str(identity), x, y)
    except ValueError as error:  # a file that cannot be read
        _write_text(axes, str(error), x, y)


def _fit(picture: Image.Image) -> np.ndarray:
    """A picture in the middle of a square tile, in the tile's own pixels."""
    side = round(TILE * DPI)
    scale = side / max(picture.size)
    size = [max(round(length * scale), 1) for length in picture.size]
    tile = Image.new("RGB", (side, side), "#f6f5f2")
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), corner)
    return np.asarray(tile)


def _write_text(axes: Axes, text: str, x: float, y: float) -> None:
    longest = max(map(len, text.split()), default=0)
    for size in TEXT_SIZES:
        # A letter is about 0.56 of its size wide, a line 1.2 of it high.
        letters, lines = (int((TILE - 0.2) * 72 / (share * size)) for share in (0.56, 1.2))
        if longest <= letters and len(textwrap.wrap(text, letters)) <= lines:
            break
    short = textwrap.fill(text, letters, max_lines=lines, placeholder=" \u2026")
    middle = dict(ha="center", va="center", parse_math=False)
    axes.text(x + TILE / 2, y + TILE / 2, short, size=size, color=INK, **middle)


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """Loudness of a sound over time and pitch, for drawing.

    Args:
        wave: (S,) at 16 kHz.

    Returns:
        (96, T) in 0..1: from 8 kHz, in the first row, down to 60 Hz, in equal steps of pitch; 1 is
        its loudest place, 0 is 60 dB less.
    """
    padded = np.pad(wave, WINDOW // 2)
    hop = max(len(wave) // FRAMES, 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)))
    rows = np.round(SPECTRUM[::-1] * WINDOW / SAMPLE_RATE).astype(int)
    decibels = 10 * np.log10(power[:, rows].T + 1e-10)
    return np.clip((decibels - decibels.max()) / DECIBELS + 1, 0, 1)
