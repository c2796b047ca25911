"""Run-length encodings of masks, read without pycocotools: it makes the expected ones."""

import numpy as np
import pytest

from mmonepeace.checks import masks
from mmonepeace.checks.boxes import Boxes
from mmonepeace.checks.coco import Coco
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import Split


def texts_of(number):
    """Encoded masks, noise and blocks of many sizes, and their pixels."""
    rle = pytest.importorskip("pycocotools.mask", reason="needs pycocotools: make env-full")
    rng = np.random.default_rng(0)
    texts, pixels = [], []
    for i in range(number):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
        mask = np.kron(mask, np.ones((9, 9))) if i % 2 else mask
        texts.append(rle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode())
        pixels.append(mask.size)
    return texts, pixels


@pytest.mark.parametrize("batch", [1, 10**6])
def test_run_lengths_of_pycocotools_cover_their_masks(monkeypatch, batch):
    monkeypatch.setattr(masks, "_BATCH", batch)
    texts, pixels = texts_of(200)
    assert masks._decode(texts) == pixels
    cut = masks._decode([text[:-1] for text in texts])
    assert all(total != expected for total, expected in zip(cut, pixels, strict=True))


def test_what_is_no_encoding_has_no_pixels():
    nothing = ["", "`", "12 13", "b'12'", "é", "o" * 30 + "0", [1, -1], ["1"], [1.5]]
    assert masks._decode(nothing) == [None] * len(nothing)
    assert masks._decode([[1, 2], "", [1.0, 2]]) == [3, None, 3]


def test_masks_that_nothing_decodes_are_a_warning():
    entry = dict(id=1, image_id=0, category_id=1, bbox=[0, 0, 5, 5], area=25, segmentation=[3])
    coco = Coco("x.json", {0: dict(file_name="0.png")}, {1: "cat"}, annotations=[entry])
    boxes = Boxes(coco, {0: (10, 10)})
    for needed, level in ((True, "error"), (False, "warning")):
        report = Report()
        usable = masks.check_forms(Split("train", [], report), boxes, needed)
        assert usable.tolist() == [False]
        (finding,) = report.findings
        assert (finding.code, finding.level) == ("mask-malformed", level)
        assert finding.where[0].startswith("x.json: annotation 1 of 0.png: bbox [0, 0, 5, 5]")
