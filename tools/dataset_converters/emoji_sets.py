"""Emoji drawings of seven artist sets, and Unicode's names of what they show.

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT.
"""

import json
import re
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

# Package -> (version, SHA-256 of its archive).
PACKAGES = {
    "@iconify-json/noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "@iconify-json/noto-v1": ("1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "@iconify-json/twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "@iconify-json/openmoji": ("1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    "@iconify-json/emojione": ("1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "@iconify-json/emojione-v1": ("1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
    "@iconify-json/fxemoji": ("1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    "emojibase-data": ("17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}  # fmt: skip
ARTISTS = {
    "train": ("noto", "noto-v1", "openmoji", "emojione", "emojione-v1", "fxemoji"),
    "val": ("twemoji",),
}
# Unicode's groups without components (2) and flags (9).
GROUPS = {
    0: "smileys-emotion", 1: "people-body", 3: "animals-nature", 4: "food-drink",
    5: "travel-places", 6: "activities", 7: "objects", 8: "symbols",
}  # fmt: skip


class Emoji(NamedTuple):
    """What Unicode says about an emoji."""

    name: str
    keywords: tuple[str, ...]
    group: int
    """A key of `GROUPS`."""
    group_name: str
    subgroup: str


def read_json(archive: Path, name: str) -> Any:
    """One JSON file of a package."""
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile(f"package/{name}"))


def read_emoji(archive: Path) -> dict[str, Emoji]:
    """Names and groups, without skin tones.

    Args:
        archive: of emojibase-data.

    Returns:
        hexcode -> emoji, in Unicode's order.
    """
    messages = read_json(archive, "en/messages.json")
    groups, subgroups = (
        {entry["order"]: entry["message"] for entry in messages[kind]}
        for kind in ("groups", "subgroups")
    )
    return {
        entry["hexcode"]: Emoji(
            entry["label"], tuple(entry.get("tags", ())), entry["group"], groups[entry["group"]],
            subgroups[entry["subgroup"]],
        )
        for entry in read_json(archive, "en/data.json")
        if entry.get("group") in GROUPS
    }  # fmt: skip


def as_svg(icon: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """A complete SVG document of one icon."""
    left, top, width, height = (
        icon.get(key, defaults.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def read_drawings(archive: Path, emoji: Mapping[str, Emoji]) -> dict[str, str]:
    """Drawings of an artist set, matched by code, or by name where the set has no code.

    Args:
        archive: of the artist set.
        emoji: hexcode -> emoji to look for.

    Returns:
        hexcode -> SVG document.
    """

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    icons = read_json(archive, "icons.json")
    by_code = {code.upper(): name for code, name in read_json(archive, "chars.json").items()}
    by_name = {plain(name): name for name in icons["icons"]}
    drawn = {}
    for code, entry in emoji.items():
        key = by_code.get(code) or by_name.get(plain(entry.name))
        if key in icons["icons"]:
            drawn[code] = as_svg(icons["icons"][key], icons)
    return drawn


def load(archives: Mapping[str, Path]) -> tuple[dict[str, Emoji], dict[str, dict[str, str]]]:
    """Emoji that the validation sets and at least three of the training sets draw.

    Args:
        archives: package -> archive.

    Returns:
        hexcode -> emoji, and artist set -> hexcode -> SVG document.
    """
    emoji = read_emoji(archives["emojibase-data"])
    drawn = {
        artist: read_drawings(archives[f"@iconify-json/{artist}"], emoji)
        for artists in ARTISTS.values()
        for artist in artists
    }
    kept = {
        code: entry
        for code, entry in emoji.items()
        if all(code in drawn[artist] for artist in ARTISTS["val"])
        and sum(code in drawn[artist] for artist in ARTISTS["train"]) >= 3
    }
    return kept, {
        artist: {code: svgs[code] for code in kept if code in svgs}
        for artist, svgs in drawn.items()
    }


def render(svg: str, size: int) -> Image.Image:
    """A drawing as an RGBA image; its longer side has `size` pixels."""
    import resvg_py

    # Without dpi, lengths in mm, in or pt are zero.
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, skip_system_fonts=True, dpi=96
    )
    return Image.open(BytesIO(bytes(png))).convert("RGBA")
