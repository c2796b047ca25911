"""Drawings and names matched to each other, on packages small enough to read."""

import io
import json
import sys
import tarfile

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_sets

RED = '<path fill="#ff0000" d="M0 0h16v16H0z"/>'
WIDE = '<path fill="#0000ff" d="M0 0h32v16H0z"/>'


def pack(path, **files):
    """An archive as npm makes them; a file's name has `__` for a slash."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name.replace('__', '/')}.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def archives(tmp_path):
    """A cat that all draw, a dog that two training sets draw, a flag."""

    def emoji(code, label, group):
        return {
            "hexcode": code,
            "label": label,
            "group": group,
            "subgroup": 5,
            "tags": ["pet", "x"],
        }

    entries = [emoji("1F408", "cat", 3), emoji("1F415", "Dog!", 3), emoji("1F3C1", "flag", 9)]
    found = {
        "emojibase-data": pack(
            tmp_path / "names.tgz",
            en__data=[*entries, {"hexcode": "1F1E6", "label": "letter A"}],
            en__messages={
                "groups": [{"order": 3, "message": "animals & nature"}],
                "subgroups": [{"order": 5, "message": "mammals"}],
            },
        )
    }
    for number, artist in enumerate((*emoji_sets.ARTISTS["train"], *emoji_sets.ARTISTS["val"])):
        icons = {"kitty": {"body": RED}, "flag": {"body": RED}}
        if artist in ("noto", "openmoji", "twemoji"):
            icons["d-o-g"] = {"body": WIDE, "width": 32}
        found[f"@iconify-json/{artist}"] = pack(
            tmp_path / f"{number}.tgz",
            icons={"icons": icons, "width": 16, "height": 16},
            chars={"1f408": "kitty"},
        )
    return found


def test_drawings_are_found_by_code_and_by_name(archives):
    emoji = emoji_sets.read_emoji(archives["emojibase-data"])
    drawn = emoji_sets.read_drawings(archives["@iconify-json/noto"], emoji)
    assert set(drawn) == {"1F408", "1F415"}
    assert 'viewBox="0 0 16 16"' in drawn["1F408"]
    assert 'viewBox="0 0 32 16"' in drawn["1F415"]


def test_flags_components_and_what_few_draw_are_left_out(archives):
    emoji, drawn = emoji_sets.load(archives)
    assert list(emoji) == ["1F408"]
    assert emoji["1F408"] == ("cat", ("pet", "x"), 3, "animals & nature", "mammals")
    assert set(drawn) == {*emoji_sets.ARTISTS["train"], *emoji_sets.ARTISTS["val"]}
    assert all(set(svgs) == {"1F408"} for svgs in drawn.values())


def test_a_render_keeps_the_shape_of_the_drawing():
    svg = emoji_sets.as_svg({"body": WIDE, "width": 32}, {})
    image = emoji_sets.render(svg, 64)
    assert image.size == (64, 32)
    assert image.getpixel((60, 30)) == (0, 0, 255, 255)


def test_splits_share_no_artist():
    assert not set(emoji_sets.ARTISTS["train"]) & set(emoji_sets.ARTISTS["val"])


def test_lengths_in_millimetres_are_drawn():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96">'
        '<rect width="25.4mm" height="0.5in" fill="#00ff00"/></svg>'
    )
    assert emoji_sets.render(svg, 96).getbbox() == (0, 0, 96, 48)
