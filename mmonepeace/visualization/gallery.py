"""Search results as one page that needs nothing else: no server, no network, no framework.

The page is `gallery.html` beside this file, its look `gallery.css`. Its security policy lets a browser fetch nothing but
what is embedded in it, and linked audio files.
"""

import base64
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile
from matplotlib import colormaps
from PIL import Image

from mmonepeace.atomic_file import atomic_file
from mmonepeace.datasets import audio_io, image_io
from mmonepeace.spec import SAMPLE_RATE
from mmonepeace.visualization.log_mel import log_mel

THUMBNAIL = 480  # pixels of the longer side
MAX_EMBEDDED_BYTES = 2_000_000  # of an audio file; longer ones are linked
MAX_ENLARGED = 2  # times, for images smaller than a card
LONG_TEXT = 120  # characters; set smaller
MINUS, TIMES = "\u2212", "\u00d7"
# Formats that every browser plays; others are embedded as the wav that the model gets.
AUDIO_TYPES = {
    ".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg",
}  # fmt: skip


Link = Callable[[Path], str]  # the address of a file, for a page


class Entry(NamedTuple):
    """Part of a query with its weight, or a result with its cosine."""

    number: float
    modality: str
    content: str | Path  # a text, or the path of a file


def write_gallery(
    path: str | Path,
    query: Sequence[Entry],
    results: Sequence[Entry],
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a page that shows the parts of a query and its results, best first.

    Images are embedded as thumbnails and audio files as they are, except for long ones; file names
    link to the files, relative to the page. The card of a file that cannot be read says why. Facts
    go into the footer, such as `dict(checkpoint="onepeace.safetensors")`.
    """
    link = link_from(path)
    best = max((entry.number for entry in results), default=0.0)
    write_page(
        path,
        facts,
        title=escape(" ".join(_spoken(part, i) for i, part in enumerate(query))),
        heading="Most like",
        query="".join(_part(part, i, len(query), link) for i, part in enumerate(query)),
        filters=_filters(results),
        count=f"{len(results)} match{'' if len(results) == 1 else 'es'}",
        results="".join(draw_card(rank, e, best, link) for rank, e in enumerate(results, 1)),
        note="Bars: cosine, relative to the best match",
    )


def write_page(path: str | Path, facts: Mapping[str, str] | None, **markup: str) -> None:
    """Write a page: facts in its footer, and what `gallery.html` has places for, as it is."""
    path = Path(path)
    now = datetime.now().astimezone()
    lines = [f"<span>{escape(k)} <b>{escape(v)}</b></span>" for k, v in (facts or {}).items()]
    # Values go in as they are: each is markup made below, or escaped.
    page = Template(resources.files(__package__).joinpath("gallery.html").read_text("utf-8"))
    html = page.substitute(
        markup,
        style=style_sheet(),
        facts="".join(lines),
        date=f'<time datetime="{now.isoformat(timespec="seconds")}">{now:%d %B %Y, %H:%M}</time>',
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Bytes in names that are not UTF-8 become question marks; their links keep the bytes.
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


def style_sheet() -> str:
    """The look of all pages, as CSS."""
    return resources.files(__package__).joinpath("gallery.css").read_text("utf-8")


def link_from(page: str | Path) -> Link:
    """Links of a page to files, relative to its own."""
    return partial(_link, folder=Path(page).resolve().parent)


def _spoken(part: Entry, position: int) -> str:
    """A part of the query as plain text."""
    sign = f"{MINUS} " if part.number < 0 else "+ " if position else ""
    return sign + (f"“{part.content}”" if part.modality == "text" else Path(part.content).name)


def _part(part: Entry, position: int, count: int, link: Link) -> str:
    sign = MINUS if part.number < 0 else "+" if position else ""
    weight = "" if count == 1 else f'<span class="weight">{TIMES} {abs(part.number):g}</span>'
    word = "minus" if sign == MINUS else "plus"
    operator = f'<span class="sign" role="img" aria-label="{word}">{sign}</span>' if sign else ""
    return (
        f'<div class="term">{operator}<div class="part {part.modality}">{draw_entry(part, link)}'
        f'<div class="of">{name_of(part, link)}{weight}</div></div></div>'
    )


def draw_card(rank: int, result: Entry, best: float, link: Link) -> str:
    """A result as markup, with a bar relative to the `best` cosine."""
    relative = min(max(result.number / best, 0), 1) if best > 0 else 0
    score = f"{result.number:.3f}".replace("-", MINUS)
    return (
        f'<li class="card {result.modality}"><div class="body">{draw_entry(result, link)}</div>'
        f'<div class="facts"><span class="rank">{rank}</span>{name_of(result, link)}'
        f'<span class="score" title="cosine similarity">{score}</span>'
        f'<span class="bar"><i style="width:{relative:.1%}"></i></span></div></li>'
    )


def name_of(entry: Entry, link: Link) -> str:
    """What a card calls an entry: a link to its file."""
    if entry.modality == "text":
        return '<span class="name">text</span>'
    name, full = (escape(str(x)) for x in (Path(entry.content).name, entry.content))
    return f'<a class="name" href="{link(Path(entry.content))}" title="{full}">{name}</a>'


def _filters(results: Sequence[Entry]) -> str:
    """Radio buttons; the style sheet does the rest, without a script."""
    counts = Counter(entry.modality for entry in results)
    if len(counts) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="show" id="show-{name}"'
        f"{' checked' if name == 'all' else ''}><span>{name} <small>{count}</small></span></label>"
        for name, count in {"all": len(results), **counts}.items()
    )
    return f'<fieldset class="filters"><legend>Show</legend>{buttons}</fieldset>'


def draw_entry(entry: Entry, link: Link) -> str:
    """The content of an entry as markup; for a file that cannot be read, why."""
    draw = {"text": _draw_text, "image": _draw_image, "audio": _draw_audio}[entry.modality]
    try:
        return draw(entry.content, link)
    except ValueError as error:  # a file that cannot be read
        return f'<p class="missing">{escape(str(error))}</p>'


def _draw_text(content: str | Path, _link: Link) -> str:
    length = "long" if len(str(content)) > LONG_TEXT else "short"
    return f'<blockquote class="{length}" dir="auto">{escape(str(content))}</blockquote>'


def _draw_image(content: str | Path, _link: Link) -> str:
    return draw_pixels(image_io.to_rgb(content), Path(content).stem)


def draw_pixels(image: Image.Image, alt: str) -> str:
    """An image, which becomes a thumbnail."""
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    # Not optimised: Pillow refuses that for noise, whose code is longer than it expects.
    image.save(file, "JPEG", quality=86, subsampling=0)
    width, height = image.size
    return (
        f'<div class="frame" style="background:{_backdrop(image)}">'
        f'<img src="{_data("image/jpeg", file.getvalue())}" width="{width}" height="{height}" '
        f'style="max-width:{MAX_ENLARGED * width}px;max-height:{MAX_ENLARGED * height}px" '
        f'alt="{escape(alt)}" loading="lazy"></div>'
    )


def _backdrop(image: Image.Image) -> str:
    """The colour of the image's edge if it is uniform: the frame then has no visible border."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(int)
    colour = np.median(edge, axis=0)
    uniform = (np.abs(edge - colour).max(axis=1) < 12).mean() > 0.6
    return "rgb({:.0f} {:.0f} {:.0f})".format(*colour) if uniform else "none"


def _draw_audio(content: str | Path, link: Link) -> str:
    path = Path(content)
    wave = audio_io.load_audio(path)
    kind = AUDIO_TYPES.get(path.suffix.lower())
    data = path.read_bytes() if kind else _to_wav(wave)
    small = len(data) <= MAX_EMBEDDED_BYTES
    source = _data(kind or "audio/wav", data) if small else link(path)
    seconds = round(len(wave) / SAMPLE_RATE, 1)
    minutes = f"{int(seconds // 60)}:{int(seconds % 60):02} min"
    length = f"{seconds:g} s" if seconds < 60 else minutes
    return (
        f'<figure><div class="sound">{_picture(wave)}<span>8 kHz</span><span>40 Hz</span>'
        f"<span>{length}</span></div><audio controls "
        f'preload="{"metadata" if small else "none"}" aria-label="{escape(path.name)}" '
        f'src="{source}"></audio></figure>'
    )


def _picture(wave: np.ndarray) -> str:
    """The log-mel spectrogram of an audio clip."""
    pixels = colormaps["magma"](log_mel(wave), bytes=True)[..., :3]
    image = Image.fromarray(np.ascontiguousarray(pixels)).quantize(64, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    width, height = image.size
    return (
        f'<img class="mel" src="{_data("image/png", file.getvalue())}" width="{width}" '
        f'height="{height}" alt="spectrogram, low to high" loading="lazy">'
    )


def _to_wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave.clip(-1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _link(path: Path, folder: Path) -> str:
    """A link from the page to a file; another drive needs its full address."""
    path = path.resolve()
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    except ValueError:
        return path.as_uri()
