"""Search results as one page that needs nothing else: no server, no network, no framework."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile
from PIL import Image

from mmonepeace.datasets import audio_io, image_io
from mmonepeace.spec import SAMPLE_RATE

THUMBNAIL = 480  # pixels of the longer side
MAX_EMBEDDED_BYTES = 2_000_000  # of a sound; longer ones are linked
MAX_ENLARGED = 2  # times, for pictures smaller than a card
WAVE_BARS = 96
LONG_TEXT = 120  # characters; set smaller
MINUS, TIMES = "\u2212", "\u00d7"
# Formats that every browser plays; others are embedded as the wav that the model hears.
AUDIO_TYPES = {
    ".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg",
}  # fmt: skip
# Nothing may be fetched but what lies in the page, and linked sounds.
POLICY = (
    "default-src 'none'; img-src data:; media-src data: 'self' file:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


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
    """Write a page that shows a query and what was found.

    Pictures are embedded as thumbnails and sounds as they are, long ones excepted; file names link
    to the files, relative to the page. A file that cannot be read has a card that says so.

    Args:
        path: the page.
        query: its parts.
        results: best first.
        facts: for the footer, such as `dict(checkpoint="onepeace.safetensors")`.
    """
    path = Path(path)
    folder = path.resolve().parent
    best = max((entry.number for entry in results), default=0.0)
    present = list(dict.fromkeys(entry.modality for entry in results))
    now = datetime.now().astimezone()
    lines = [f"<span>{escape(k)} <b>{escape(v)}</b></span>" for k, v in (facts or {}).items()]
    title = " ".join(_spoken(part, i) for i, part in enumerate(query))
    page = _PAGE.format(
        policy=POLICY,
        title=escape(title),
        style=_STYLE,
        query="".join(_part(part, i, len(query), folder) for i, part in enumerate(query)),
        filters=_filters(present, results) if len(present) > 1 else "",
        count=len(results),
        s="" if len(results) == 1 else "es",
        results="".join(_card(rank, e, best, folder) for rank, e in enumerate(results, 1)),
        facts="".join(lines),
        date=f'<time datetime="{now.isoformat(timespec="seconds")}">{now:%d %B %Y, %H:%M}</time>',
        script=_SCRIPT,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names that are no characters become question marks; their links keep the bytes.
    path.write_text(page, encoding="utf-8", errors="replace")


# ------------------------------------------------------------------------------- query and results


def _spoken(part: Entry, position: int) -> str:
    """A part of the query in words."""
    sign = f"{MINUS} " if part.number < 0 else "+ " if position else ""
    return sign + (f"“{part.content}”" if part.modality == "text" else Path(part.content).name)


def _part(part: Entry, position: int, count: int, folder: Path) -> str:
    sign = MINUS if part.number < 0 else "+" if position else ""
    weight = "" if count == 1 else f'<span class="weight">{TIMES} {abs(part.number):g}</span>'
    word = "minus" if sign == MINUS else "plus"
    operator = f'<span class="sign" role="img" aria-label="{word}">{sign}</span>' if sign else ""
    body = _DRAW[part.modality](part.content, folder)
    return (
        f'<div class="term">{operator}<div class="part {part.modality}">{body}'
        f'<div class="of">{_name(part, folder)}{weight}</div></div></div>'
    )


def _card(rank: int, result: Entry, best: float, folder: Path) -> str:
    share = min(max(result.number / best, 0), 1) if best > 0 else 0
    score = f"{result.number:.3f}".replace("-", MINUS)
    body = _DRAW[result.modality](result.content, folder)
    return (
        f'<li class="card {result.modality}"><div class="body">{body}</div>'
        f'<div class="facts"><span class="rank">{rank}</span>{_name(result, folder)}'
        f'<span class="score" title="cosine similarity">{score}</span>'
        f'<span class="bar"><i style="width:{share:.1%}"></i></span></div></li>'
    )


def _name(entry: Entry, folder: Path) -> str:
    if entry.modality == "text":
        return '<span class="name">text</span>'
    name, full = (escape(str(x)) for x in (Path(entry.content).name, entry.content))
    return f'<a class="name" href="{_link(Path(entry.content), folder)}" title="{full}">{name}</a>'


def _filters(present: Sequence[str], results: Sequence[Entry]) -> str:
    """Radio buttons; the style sheet does the rest, without a script."""
    counts = {"all": len(results)}
    counts |= {name: sum(e.modality == name for e in results) for name in present}
    buttons = "".join(
        f'<label><input type="radio" name="show" id="show-{name}"'
        f"{' checked' if name == 'all' else ''}><span>{name} <small>{count}</small></span></label>"
        for name, count in counts.items()
    )
    return f'<fieldset class="filters"><legend>Show</legend>{buttons}</fieldset>'


# ------------------------------------------------------------------------------------- modalities


def _draw_text(content: str | Path, _folder: Path) -> str:
    length = "long" if len(str(content)) > LONG_TEXT else "short"
    return f'<blockquote class="{length}" dir="auto">{escape(str(content))}</blockquote>'


def _draw_image(content: str | Path, _folder: Path) -> str:
    try:
        picture = image_io.to_rgb(content)
    except ValueError as error:
        return _missing(error)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=86, optimize=True, subsampling=0)
    width, height = picture.size
    return (
        f'<div class="frame" style="background:{_backdrop(picture)}">'
        f'<img src="{_data("image/jpeg", file.getvalue())}" width="{width}" height="{height}" '
        f'style="max-width:{MAX_ENLARGED * width}px;max-height:{MAX_ENLARGED * height}px" '
        f'alt="{escape(Path(content).stem)}" loading="lazy"></div>'
    )


def _backdrop(picture: Image.Image) -> str:
    """The colour of a picture's edge, if it has one, so that a cut-out stands on no patch."""
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(int)
    colour = np.median(edge, axis=0)
    plain = (np.abs(edge - colour).max(axis=1) < 12).mean() > 0.6
    return "rgb({:.0f} {:.0f} {:.0f})".format(*colour) if plain else "none"


def _draw_audio(content: str | Path, folder: Path) -> str:
    path = Path(content)
    try:
        wave = audio_io.load_audio(path)
    except ValueError as error:
        return _missing(error)
    kind = AUDIO_TYPES.get(path.suffix.lower())
    data = path.read_bytes() if kind else _to_wav(wave)
    small = len(data) <= MAX_EMBEDDED_BYTES
    source = _data(kind or "audio/wav", data) if small else _link(path, folder)
    seconds = round(len(wave) / SAMPLE_RATE, 1)
    length = (
        f"{seconds:g} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02} min"
    )
    return (
        f"<figure>{_wave_form(wave)}<figcaption>{length}</figcaption><audio controls "
        f'preload="{"metadata" if small else "none"}" aria-label="{escape(path.name)}" '
        f'src="{source}"></audio></figure>'
    )


_DRAW: dict[str, Callable[[str | Path, Path], str]] = {
    "text": _draw_text,
    "image": _draw_image,
    "audio": _draw_audio,
}


def _wave_form(wave: np.ndarray) -> str:
    """The loudness of a sound as bars around a middle line."""
    peaks = np.array([np.abs(part).max(initial=0) for part in np.array_split(wave, WAVE_BARS)])
    heights = np.maximum(np.sqrt(peaks / max(peaks.max(), 1e-9)) * 30, 0.6)
    path = "".join(f"M{2 * i + 1} {32 - h:.1f}v{2 * h:.1f}" for i, h in enumerate(heights))
    return (
        f'<svg viewBox="0 0 {2 * WAVE_BARS} 64" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{path}"/></svg>'
    )


def _to_wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave.clip(-1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _missing(error: ValueError) -> str:
    return f'<p class="missing">{escape(str(error))}</p>'


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _link(path: Path, folder: Path) -> str:
    """A link from the page to a file; another drive needs its full address."""
    path = path.resolve()
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    except ValueError:
        return path.as_uri()


# ------------------------------------------------------------------------------------------ page

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1><span>Most like</span><span class="hidden"> {title}</span></h1>
<div class="query">{query}</div>
</header>
<main>
<div class="above"><h2>{count} match{s}</h2>{filters}</div>
<ol class="results">{results}</ol>
</main>
<footer class="page"><span>Bars: cosine, relative to the best match</span>{facts}{date}</footer>
<script>{script}</script>
</body>
</html>
"""

# One sound at a time.
_SCRIPT = """
document.addEventListener("play", event => {
  for (const other of document.querySelectorAll("audio"))
    if (other !== event.target) other.pause();
}, true);
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #fff; --well: #eeece7; --ink: #1d1c1a; --soft: #6b6862;
  --line: #e2dfd8; --accent: #0b6e5f; --minus: #b3402a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131414; --card: #1d1f1f; --well: #272a2a; --ink: #ecebe7; --soft: #a09e98;
    --line: #303333; --accent: #4fc7b0; --minus: #f0917c;
  }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink); }
body > * { max-width: 84rem; margin-inline: auto; padding-inline: clamp(1rem, 4vw, 3rem); }
a { color: inherit; text-decoration-color: var(--line); text-underline-offset: .2em; }
a:hover { text-decoration-color: currentColor; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
img { display: block; max-width: 100%; height: auto; }
audio { width: 100%; height: 2.5rem; display: block; }
svg { display: block; width: 100%; height: 4rem; }
svg path { stroke: var(--accent); stroke-width: 1.1; stroke-linecap: round; }
.missing { color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }

header { padding-block: clamp(1.5rem, 4vw, 3rem) 1rem; }
h1, h2 { font-size: .8125rem; font-weight: 600; letter-spacing: .02em; color: var(--soft); }
.query { display: flex; flex-wrap: wrap; align-items: center; gap: 1rem 1.25rem; margin-top: .75rem; }
.term { display: flex; align-items: center; gap: 1.25rem; min-width: 0; max-width: 100%; }
.part { display: grid; gap: .375rem; min-width: 0; }
.part .frame { border-radius: 8px; overflow: hidden; justify-self: start; }
.part img { width: auto; height: 10rem; min-width: 5rem; object-fit: contain; }
.part.audio { width: 20rem; max-width: 100%; }
.part blockquote { font-size: clamp(1.5rem, 4vw, 2.25rem); line-height: 1.2; font-weight: 600;
  letter-spacing: -.015em; overflow-wrap: anywhere; text-wrap: balance; max-width: 36ch; }
.part blockquote.long { font-size: 1.25rem; line-height: 1.4; max-width: 60ch; }
.part blockquote::before { content: "“"; } .part blockquote::after { content: "”"; }
.of { display: flex; gap: .5rem; font-size: .8125rem; color: var(--soft); max-width: 16rem; }
.part.text .name { display: none; }
.sign { font-size: 2rem; line-height: 1; font-weight: 300; color: var(--soft); width: 1.25rem;
  text-align: center; flex: none; }
.weight { white-space: nowrap; font-variant-numeric: tabular-nums; }

.above { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between;
  gap: .5rem 1rem; min-height: 2.25rem; margin-block: 1rem .75rem; padding-top: 1.25rem;
  border-top: 1px solid var(--line); }
.filters { border: 0; padding: 0; display: flex; gap: .25rem; }
.filters legend { position: absolute; clip-path: inset(50%); }
.filters label { position: relative; font-size: .875rem; cursor: pointer; }
.filters input { position: absolute; inset: 0; opacity: 0; cursor: pointer; }
.filters span { display: block; padding: .25rem .75rem; border-radius: 99px; }
.filters small { color: var(--soft); font-variant-numeric: tabular-nums; }
.filters span::first-letter { text-transform: uppercase; }
.filters label:hover span { background: var(--well); }
.filters :checked + span { background: var(--ink); color: var(--page); }
.filters :checked + span small { color: inherit; opacity: .7; }
.filters :focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
main:has(#show-text:checked) .card:not(.text),
main:has(#show-image:checked) .card:not(.image),
main:has(#show-audio:checked) .card:not(.audio) { display: none; }

.results { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.card { display: flex; flex-direction: column; background: var(--card); border-radius: 12px;
  border: 1px solid var(--line); overflow: hidden; min-width: 0; break-inside: avoid; }
.body { flex: 1; display: grid; align-items: center; padding: 1rem; min-height: 11rem; }
.body > * { min-width: 0; }
.image .body { padding: 0; background: var(--well); aspect-ratio: 4 / 3; position: relative; }
.image .body .missing { padding: 1rem; }
.body .frame { position: absolute; inset: 0; }
.body .frame img { position: absolute; inset: 0; margin: auto; width: 100%; height: 100%;
  object-fit: contain; }
figcaption { font-size: .75rem; color: var(--soft); text-align: right; margin-block: .125rem .5rem;
  font-variant-numeric: tabular-nums; }
.body blockquote { font-size: 1.125rem; line-height: 1.4; overflow-wrap: anywhere; }
.body blockquote.long { font-size: .9375rem; }
.facts { display: grid; grid-template: "rank name score" auto "bar bar bar" auto / auto 1fr auto;
  align-items: baseline; gap: .25rem .625rem; padding: .75rem 1rem .875rem; font-size: .875rem; }
.rank { grid-area: rank; font-weight: 650; font-variant-numeric: tabular-nums; }
.facts .name { grid-area: name; color: var(--soft); }
.score { grid-area: score; font-variant-numeric: tabular-nums; }
.bar { grid-area: bar; height: 3px; border-radius: 3px; background: var(--well); }
.bar i { display: block; height: 100%; border-radius: inherit; background: var(--accent); }

@media (max-width: 36rem) {
  .results { gap: .625rem; }
  .body { min-height: 0; padding-bottom: .25rem; }
  .card.image { flex-direction: row; }
  .card.image .body { flex: 0 0 9rem; aspect-ratio: auto; min-height: 7.5rem; }
  .card.image .facts { flex: 1; min-width: 0; align-content: center; row-gap: .375rem;
    grid-template: "rank score" auto "name name" auto "bar bar" auto / 1fr auto; }
  .card.image .name { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical;
    white-space: normal; overflow-wrap: anywhere; }
}

.page { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .75rem; color: var(--soft);
  padding-block: 2.5rem 2rem; overflow-wrap: anywhere; }
.page b { font-weight: 500; color: var(--ink); }

@media print {
  :root { --page: #fff; --well: #f3f3f3; }
  body > * { max-width: none; padding-inline: 0; }
  .results { grid-template-columns: repeat(4, 1fr); gap: .5rem; }
  .body { min-height: 0; }
  .filters, audio { display: none; }
  .bar, .bar i, .frame { print-color-adjust: exact; }
}
"""
