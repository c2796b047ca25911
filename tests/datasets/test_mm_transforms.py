import copy

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from PIL import Image

from mmonepeace.datasets import Cached
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


def test_a_tokenizer_within_cached_is_set_like_others():
    steps = [dict(type="mmonepeace.Cached", transforms=[dict(type="Tokenize", tokenizer="old")])]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type="PairDataset", pipeline=steps))))
    run_options.set_tokenizer(cfg, "new.json")
    assert cfg.train_dataloader.dataset.pipeline[0].transforms[0].tokenizer == "new.json"
