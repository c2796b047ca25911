"""What healthy data sets are made of, and how their faults are checked."""

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmonepeace import checks
from mmonepeace.checks.catalogue import CATALOGUE, LEVELS

SIZE = (48, 64)  # height, width
CLASSES = ("ground", "tree", "house")
PALETTE = [(0, 0, 0), (0, 200, 0), (200, 0, 0)]


def codes(report, *levels):
    return {f.code for f in report.findings if f.level in (levels or LEVELS)}


def check(data, expected):
    """The full check finds these codes; the quick one stops at those that stop a run.

    In the same words, so that a fault is tested once for both.
    """
    report = data.examine()
    assert codes(report) == expected
    stops = [f for f in report.of("error") if CATALOGUE[f.code].stops]
    if not stops:
        checks.check_data(data.cfg)
        return
    with pytest.raises(checks.CheckError) as error:
        checks.check_data(data.cfg)
    for finding in stops:
        assert finding.briefly() in str(error.value)


def random_image(seed):
    """An image that is like no other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def save(array, path, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)


def edit(path, change, **options):
    """Change the array of a file."""
    save(change(np.array(Image.open(path))), path, **options)


class Data:
    """A data set in a folder, and the config that trains on it."""

    def __init__(self, root):
        self.root = root
        self.cfg = Config(self.config())

    def examine(self, limit=None):
        return checks.examine(self.cfg, limit)

    def each_dataset(self, **options):
        for name in ("train", "val", "test"):
            for key, value in options.items():  # update() of a config would merge
                self.cfg[f"{name}_dataloader"].dataset[key] = value
