"""Phrases of the demo data hold for one object each, says a reader who knows only words and boxes."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmonepeace.datasets.manifest import read_manifest
from tests.tools.emoji_discs import (
    centre,
    is_beyond,
    is_clearly,
    make_builder,
    read_objects,
    read_table,
)

import emoji_phrases  # isort: skip
import emoji_sets  # isort: skip
from downloads import DataError  # isort: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield make_builder(patch, emoji_phrases, tmp_path_factory.mktemp("phrases"))()


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def find_referents(text, objects):
    """Boxes that a phrase may mean, the clear one first; others are those that a person might."""

    def named(name):
        return [o["box"] for o in objects if o["name"] == name]

    if found := re.fullmatch(r"the (.+) (left of|right of|above|below) the (.+)", text):
        name, word, other = found.groups()
        (reference,) = named(other)
        boxes = [box for box in named(name) if is_beyond(box, word, reference)]
        assert all(is_clearly(box, word, reference) for box in boxes)
        return boxes
    if found := re.fullmatch(r"the (left|right|top|bottom)most (.+)", text):
        side, name = found.groups()
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
        boxes = sorted(named(name), key=lambda box: sign * centre(box)[axis])
        extreme = sign * centre(boxes[0])[axis]
        return [box for box in boxes if sign * centre(box)[axis] < extreme + 64 / 20]
    if found := re.fullmatch(r"the (largest|smallest) (.+)", text):
        size, name = found.groups()
        boxes = sorted(named(name), key=area, reverse=size == "largest")
        first = area(boxes[0])
        return [box for box in boxes if max(area(box) / first, first / area(box)) < 1.3]
    return named(re.fullmatch("the (.+)", text)[1])


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_phrase_holds_for_one_object_and_has_its_box(out, split):
    objects, templates = read_objects(out, split), Counter()
    for row in read_table(out / f"{split}.tsv"):
        box = [int(value) for value in row["region_coord"].split(",")]
        assert find_referents(row["text"], objects[row["image"]]) == [box], row
        assert 0 <= box[0] < box[2] <= 64
        assert 0 <= box[1] < box[3] <= 64
        templates[row["template"]] += 1
    assert len(templates) == 11
    assert min(templates.values()) >= 3


def test_the_table_is_read_as_pairs(out):
    rows = read_manifest(out / "val.tsv", {"image": "image", "text": "text"})
    assert Image.open(out / rows[0]["image"]).size == (64, 64)
    assert len(list((out / "val").glob("*.png"))) == 200


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_part_of_each_scene_shows_what_its_name_says(out, split):
    objects = read_objects(out, split)
    rows = read_table(out / f"names_{split}.tsv")
    assert len(rows) == len(objects)
    for row, (scene, items) in zip(rows, objects.items(), strict=True):
        assert row["image"] == f"names/{scene}"
        whole, part = (np.array(Image.open(out / name)) for name in (scene, row["image"]))
        assert part.shape == (32, 32, 3)
        windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32, 3))[:, :, 0]
        ((top, left),) = np.argwhere((windows == part).all((2, 3, 4)))
        named = [item for item in items if row["caption"] == f"the {item['name']}"]
        # The middle of one of them is inside.
        assert any(
            left <= x <= left + 32 and top <= y <= top + 32
            for x, y in (centre(item["box"]) for item in named)
        ), row


def test_templates_are_the_texts_with_their_names_left_out(out):
    names = sorted(emoji_phrases.object_scenes.KIND_OF, key=len, reverse=True)
    for row in read_table(out / "val.tsv"):
        text = re.sub("|".join(names), "X", row["text"])
        assert text == row["template"].replace("Y", "X")


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (area(a) + area(b) - inside)


def test_baselines_are_what_the_tables_give(out):
    rows = {
        split: [
            (row, [int(v) for v in row["region_coord"].split(",")])
            for row in read_table(out / f"{split}.tsv")
        ]
        for split in ("train", "val")
    }
    baselines = json.loads((out / "meta.json").read_text())["results"]["baselines"]

    def accuracy(guess):
        """Of a function of the row and its objects to a weighted list of boxes."""
        total = 0.0
        for row, box in rows["val"]:
            boxes = guess(row)
            total += sum(overlap(box, other) >= 0.5 for other in boxes) / len(boxes)
        return pytest.approx(100 * total / len(rows["val"]), abs=0.01)

    mean = np.mean([box for _, box in rows["train"]], 0).tolist()
    assert baselines["mean_box"] == accuracy(lambda row: [mean])
    objects = read_objects(out, "val")
    assert baselines["any_object"] == accuracy(lambda r: [o["box"] for o in objects[r["image"]]])

    def fit(source, template):
        boxes = [box for row, box in rows[source] if row["template"] == template]
        return max(boxes, key=lambda box: sum(overlap(box, other) >= 0.5 for other in boxes))

    for source, name in (("train", "box_per_template"), ("val", "box_per_template_bound")):
        best = {t: fit(source, t) for t in {row["template"] for row, _ in rows["val"]}}
        assert baselines[name] == accuracy(lambda row, best=best: [best[row["template"]]])
    assert baselines["box_per_template"] <= baselines["box_per_template_bound"] < 30
    assert baselines["largest_object"] < 45


def test_validation_has_another_artist_and_other_photographs(out):
    meta = json.loads((out / "meta.json").read_text())
    assert meta["artists"] == json.loads(json.dumps(emoji_sets.ARTISTS))
    for key in ("artists", "photographs"):
        assert not set(meta[key]["train"]) & set(meta[key]["val"])


def test_the_same_seed_gives_the_same_files_and_a_run_goes_on(tmp_path, monkeypatch):
    build = make_builder(monkeypatch, emoji_phrases, tmp_path)
    few = {"train": 30, "val": 20}
    first, second = build("a", **few), build("b", jobs=1, **few)
    files = [p.relative_to(first) for p in sorted(first.rglob("*.*"))]
    assert len(files) == 2 * (30 + 20) + 7
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    kept = (first / "val/00003.png").stat().st_mtime_ns
    (first / "val/00004.png").unlink()
    build("a", **few)
    assert (first / "val/00003.png").stat().st_mtime_ns == kept
    assert (first / "val/00004.png").read_bytes() == (second / "val/00004.png").read_bytes()
    other = build("c", seed=1, **few)
    assert (other / "val.tsv").read_bytes() != (first / "val.tsv").read_bytes()
    (first / "val/00005.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"00005\.png.*Run again"):
        build("a", **few)
    build("a", **few)


def test_other_options_and_other_data_are_refused(tmp_path, monkeypatch, capsys):
    build = make_builder(monkeypatch, emoji_phrases, tmp_path)
    build("a", train=8, val=8)
    for options in ({"seed": 1}, {"size": 96}, {"train": 9}):
        with pytest.raises(DataError, match="other options"):
            build("a", **{"train": 8, "val": 8, **options})
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other data \(notes.txt\)"):
        build("b")
    with pytest.raises(DataError, match="--size is 10, expected 48 or more"):
        build("c", size=10)

    def fail() -> None:
        build("a", train=0)

    assert emoji_phrases.run_converter(fail) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: --train is 0, expected 1 or more."
