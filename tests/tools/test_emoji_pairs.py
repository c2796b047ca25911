"""Pictures and names of the demo data, made from small packages: nothing is downloaded."""

import argparse
import json
import sys

import numpy as np
import pytest
from PIL import Image

from mmonepeace.datasets.manifest import read_manifest
from tests.conftest import ROOT
from tests.tools.test_emoji_sets import archives  # noqa: F401

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_pairs
import emoji_sets
from downloads import DataError


@pytest.fixture
def build(tmp_path, monkeypatch, archives):  # noqa: F811
    """Run the converter on the small packages."""
    monkeypatch.setattr(emoji_pairs, "fetch_npm", lambda packages, folder: archives)

    def run(size=32):
        out = tmp_path / "out"
        emoji_pairs.build(argparse.Namespace(out=out, size=size, jobs=2, downloads=None))
        return out

    return run


def test_tables_list_images_and_their_captions(build):
    out = build()
    rows = read_manifest(out / "train.tsv", dict(image="image", text="caption"))
    assert [row["text"] for row in rows] == ["cat"] * len(emoji_sets.ARTISTS["train"])
    assert rows[0]["image"] == "images/noto/1f408.png"
    image = Image.open(out / rows[0]["image"])
    assert image.mode == "RGB"
    assert image.size == (32, 32)
    header, *lines = (out / "val.tsv").read_text().splitlines()
    assert header.split("\t") == list(emoji_pairs.COLUMNS)
    assert [line.split("\t") for line in lines] == [
        ["images/twemoji/1f408.png", "cat", "pet, x", "animals & nature", "mammals", "twemoji"]
    ]


def test_a_drawing_is_centred_on_white(tmp_path):
    svg = emoji_sets.as_svg({"body": '<path d="M0 0h32v16H0z"/>', "width": 32}, {})
    emoji_pairs.draw(tmp_path / "wide.png", svg, 32)
    pixels = np.array(Image.open(tmp_path / "wide.png"))
    assert (pixels[:7] == 255).all()
    assert (pixels[9:23] == 0).all()
    assert (pixels[25:] == 255).all()


def test_a_second_run_draws_only_what_is_missing(build):
    out = build()
    paths = sorted(out.glob("images/*/*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[0].unlink()
    build()
    assert paths[0].read_bytes() == before[paths[0]][0]
    assert all(path.stat().st_mtime_ns == before[path][1] for path in paths[1:])
    assert not list(out.rglob("*.part"))


def test_a_damaged_image_is_named_and_drawn_again(build):
    out = build()
    path = out / "images/twemoji/1f408.png"
    good = path.read_bytes()
    path.write_bytes(good[:40])
    with pytest.raises(DataError, match=r"twemoji/1f408\.png.*Run again"):
        build()
    build()
    assert path.read_bytes() == good


def test_other_options_are_refused(build):
    out = build()
    assert json.loads((out / "meta.json").read_text())["size"] == 32
    with pytest.raises(DataError, match="other options"):
        build(size=64)
