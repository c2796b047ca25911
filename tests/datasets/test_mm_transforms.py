import copy

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from PIL import ExifTags, Image

from mmonepeace.datasets import Cached, LoadImageFromFile
from mmonepeace.datasets.guarded_loading import guard_loading
from mmonepeace.datasets.sample_errors import ImageError
from mmonepeace.engine import run_options


def test_cached_transforms_run_once_for_each_sample():
    runs = []

    class Half:
        def __call__(self, results):
            runs.append(results["img_path"])
            if results["img_path"] == "empty":
                return None
            results["img"] = results["img"][::2]
            return {**results, "img_shape": results["img"].shape}

    cached = Cached([])
    cached.transforms.append(Half())
    image = np.arange(6)
    samples = [
        {"sample_idx": i, "img_path": path, "img": image + i, "seed": seed}
        for seed, (i, path) in enumerate([(0, "a"), (1, "b"), (0, "a"), (2, "empty"), (0, "a")])
    ]
    made = []
    for sample in samples:
        made.append(cached(sample))
        if made[-1]:
            made[-1]["img"] = made[-1]["img"].copy()
            assert sample["img"].shape == (6,)  # the record is as it was
            cached({**sample})["img"][:] = -1  # a later transform in place
    assert runs == ["a", "b", "empty"]
    assert made[3] is None
    for results, sample in zip(made, samples, strict=True):
        if results:
            np.testing.assert_array_equal(results["img"], sample["img"][::2])
            assert (results["seed"], results["img_shape"]) == (sample["seed"], (3,))


def test_cached_loading_of_mmseg_gives_the_same(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 90, 3), np.uint8)).save(tmp_path / "a.png")
    labels = np.arange(40 * 90, dtype=np.uint8).reshape(40, 90) % 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    steps = [
        dict(type="LoadImageFromFile"),
        dict(type="mmseg.LoadAnnotations"),
        dict(type="Resize", scale=(20, 20)),
    ]
    sample = {
        "sample_idx": 0, "img_path": str(tmp_path / "a.png"), "seg_fields": [],
        "seg_map_path": str(tmp_path / "labels.png"), "reduce_zero_label": False,
    }  # fmt: skip
    expected = Compose(steps)(copy.deepcopy(sample))
    cached = Cached(steps)
    for _ in range(2):
        results = cached(copy.deepcopy(sample))
        assert results.keys() == expected.keys()
        assert results["seg_fields"] == ["gt_seg_map"]
        np.testing.assert_array_equal(results["img"], expected["img"])
        np.testing.assert_array_equal(results["gt_seg_map"], expected["gt_seg_map"])


@pytest.fixture
def photograph(tmp_path):
    """(width, height, options of Pillow) -> the record of a smooth image with its label map."""

    def save(width, height, suffix=".jpg", **options):
        path, labels = tmp_path / f"photo{suffix}", tmp_path / "photo_labels.png"
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
        turned = options.get("exif", {}).get(ExifTags.Base.Orientation, 1) > 4
        size = (height, width) if turned else (width, height)
        fields = Image.fromarray(rng.integers(0, 5, (6, 8), np.uint8))
        fields.resize(size, Image.Resampling.NEAREST).save(labels)
        return {
            "img_path": str(path), "seg_map_path": str(labels), "seg_fields": [],
            "reduce_zero_label": False,
        }  # fmt: skip

    return save


def pipeline(**options):
    return Compose(
        [
            dict(type="mmonepeace.LoadImageFromFile", **options),
            dict(type="mmseg.LoadAnnotations"),
            dict(type="RandomResize", scale=(128, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
        ]
    )


def turn(number):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    return exif


@pytest.mark.parametrize(
    ("width", "height", "options", "divisor"),
    [
        (1600, 1200, {}, 8),
        (1600, 1200, {"exif": turn(6)}, 8),
        (800, 600, {}, 4),
        (808, 600, {}, 4),
        (404, 302, {}, 2),
        (401, 301, {}, 1),
        (128, 96, {}, 1),
        (1600, 1200, {"suffix": ".png"}, 1),
    ],
)
def test_large_jpeg_files_are_decoded_small_and_all_sizes_stay(
    width, height, options, divisor, photograph
):
    record = photograph(width, height, **options)
    loaded = LoadImageFromFile(largest_scale=(256, 128))(copy.deepcopy(record))
    whole = LoadImageFromFile()(copy.deepcopy(record))
    assert loaded["ori_shape"] == whole["ori_shape"]
    assert loaded["img_shape"] == tuple(side // divisor for side in whole["ori_shape"])
    assert loaded["img"].shape[:2] == loaded["img_shape"]
    for seed in range(8):
        made = []
        for scales in ({}, {"largest_scale": (256, 128)}):
            np.random.seed(seed)
            made.append(pipeline(**scales)(copy.deepcopy(record)))
        assert made[0]["img"].shape == made[1]["img"].shape
        np.testing.assert_array_equal(made[0]["gt_seg_map"], made[1]["gt_seg_map"])
        if divisor == 1:
            np.testing.assert_array_equal(made[0]["img"], made[1]["img"])
        else:
            assert np.abs(made[0]["img"].astype(float) - made[1]["img"]).mean() < 2


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no image")
    load = guard_loading(LoadImageFromFile(largest_scale=(64, 64)))
    with pytest.raises(ImageError, match=r"a\.jpg"):
        load({"img_path": str(path)})


@pytest.mark.parametrize("options", [{"color_type": "unchanged"}, {"imdecode_backend": "pillow"}])
def test_reduced_files_are_opencvs_colours(options):
    with pytest.raises(ValueError, match="Leave one of them out"):
        LoadImageFromFile(largest_scale=(64, 64), **options)


def test_a_tokenizer_within_cached_is_set_like_others():
    steps = [dict(type="mmonepeace.Cached", transforms=[dict(type="Tokenize", tokenizer="old")])]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type="PairDataset", pipeline=steps))))
    run_options.set_tokenizer(cfg, "new.json")
    assert cfg.train_dataloader.dataset.pipeline[0].transforms[0].tokenizer == "new.json"
