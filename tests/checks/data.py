"""What healthy data sets are made of."""

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmonepeace.checks import examine
from mmonepeace.checks.catalogue import LEVELS

SIZE = (48, 64)  # height, width
CLASSES = ("ground", "tree", "house")
PALETTE = [(0, 0, 0), (0, 200, 0), (200, 0, 0)]


def codes(report, *levels):
    return {f.code for f in report.findings if f.level in (levels or LEVELS)}


def picture(seed):
    """A picture that is like no other."""
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
        return examine(self.cfg, limit)

    def each_dataset(self, **options):
        for name in ("train", "val", "test"):
            for key, value in options.items():  # update() of a config would merge
                self.cfg[f"{name}_dataloader"].dataset[key] = value
