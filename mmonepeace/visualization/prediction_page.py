"""What a fine-tuned model said, as a page (images with boxes, players, bars) or as a picture."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mmonepeace.datasets import image_io
from mmonepeace.visualization.gallery import (
    THUMBNAIL,
    Link,
    draw_entry,
    draw_pixels,
    link_from,
    name_of,
    write_page,
)
from mmonepeace.visualization.gallery import Entry as Part
from mmonepeace.visualization.tile_grid import TileGrid

_BOX, _HALO = (255, 64, 64), (255, 255, 255)
_LEAST_SIDE = 240  # pixels of an image that a box is drawn on, unless the other side gets too long
_MOST_LINES = 3  # of a text below a picture


class Answered(NamedTuple):
    """An item, and what a model said about it: answers, or a box."""

    item: Mapping[str, str]  # image, image_2 or audio -> path; text -> what was asked
    answers: Sequence[Any] = ()  # with label and score, the best first
    box: Sequence[float] | None = None  # x0, y0, x1, y1 in pixels of the image


def write_predictions(
    path: str | Path, items: Sequence[Answered], facts: Mapping[str, str] | None = None
) -> None:
    """Write a page with a card for each item, see `write_gallery`.

    A box is drawn into its image. Bars are the scores, which end at 1.
    """
    link = link_from(path)
    write_page(
        path,
        facts,
        title="Predictions",
        heading="Predictions",
        query="",
        filters="",
        count=f"{len(items):,} item{'' if len(items) == 1 else 's'}",
        results="".join(_card(rank, item, link) for rank, item in enumerate(items, 1)),
        note="Bars: scores" if any(item.answers for item in items) else "Boxes: what was named",
    )


def draw_predictions(items: Sequence[Answered], columns: int = 4) -> TileGrid:
    """A grid of images with what was asked and the best answer below, or the box inside.

    Raises:
        ValueError: if an item has no image.
    """
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    grid = TileGrid(rows, columns, (2.6 * columns, 3.1 * rows), dpi=110, layout="constrained")
    for tile, answered in zip(grid.tiles.flat, items, strict=False):
        images = [path for name, path in answered.item.items() if name.startswith("image")]
        if not images:
            raise ValueError("a picture shows images; of audio clips write a page.")
        drawn = [image_io.to_rgb(path) for path in images]
        if answered.box is not None:
            drawn = [with_box(drawn[0], answered.box)]
        for image in drawn:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
        height = min(image.height for image in drawn)
        sides = [i.resize((max(1, i.width * height // i.height), height)) for i in drawn]
        tile.imshow(np.concatenate([np.asarray(image) for image in sides], axis=1))
        text = answered.item.get("text", "")
        lines = wrap(text, 34, max_lines=_MOST_LINES, placeholder=" ...")
        for best in answered.answers[:1]:
            lines += [f"{shorten(best.label, 34, placeholder=' ...')}  {best.score:.2f}"]
        tile.set_title("\n".join(lines), fontsize=9, y=-0.02, va="top", parse_math=False)
    return grid


def _card(rank: int, answered: Answered, link: Link) -> str:
    files = {name: path for name, path in answered.item.items() if name != "text"}
    kind = "audio" if "audio" in files else "image"
    drawn = "".join(_draw(name, file, answered.box, link) for name, file in files.items())
    text = answered.item.get("text")
    asked = f'<p class="asked" dir="auto">{escape(text)}</p>' if text else ""
    names = " ".join(name_of(Part(0, kind, file), link) for file in files.values())
    return (
        f'<li class="card {kind}"><div class="body{" pair" if len(files) > 1 else ""}">{drawn}</div>'
        f'<div class="said">{asked}{draw_answers(answered.answers)}'
        f'<div class="of"><span class="rank">{rank}</span>{names}</div></div></li>'
    )


def draw_answers(answers: Sequence[Any]) -> str:
    """Labels, scores and bars of answers, see `Answered`, as markup."""
    bars = "".join(
        f'<span class="name">{escape(p.label)}</span><span class="score">{p.score:.3f}</span>'
        f'<span class="bar"><i style="width:{min(max(p.score, 0), 1):.1%}"></i></span>'
        for p in answers
    )
    return f'<div class="answers">{bars}</div>'


def _draw(name: str, file: str, box: Sequence[float] | None, link: Link) -> str:
    if box is None:
        return draw_entry(Part(0, name.removesuffix("_2"), file), link)
    try:
        image = image_io.to_rgb(file)
    except ValueError as error:
        return f'<p class="missing">{escape(str(error))}</p>'
    return draw_pixels(with_box(image, box), Path(file).stem)


def with_box(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """A copy of an image with a box x0, y0, x1, y1 in its pixels; small images are enlarged."""
    factor = max(1, min(-(-_LEAST_SIDE // min(image.size)), 4 * _LEAST_SIDE // max(image.size)))
    size = (image.width * factor, image.height * factor)
    drawn = image.resize(size, Image.Resampling.NEAREST) if factor > 1 else image.copy()
    width = max(2, round(min(size) / 120))
    x0, x1 = sorted(factor * x for x in box[0::2])
    y0, y1 = sorted(factor * y for y in box[1::2])
    draw = ImageDraw.Draw(drawn)
    # Red on white is seen on any ground.
    draw.rectangle((x0 - width, y0 - width, x1 + width, y1 + width), outline=_HALO, width=3 * width)
    draw.rectangle((x0, y0, x1, y1), outline=_BOX, width=width)
    return drawn
