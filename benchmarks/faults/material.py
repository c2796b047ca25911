"""Small data sets, recipes and checkpoints that the campaign breaks."""

import csv
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.datasets import tokenizer
from mmonepeace.models import OnePeaceRetriever
from tests.coco_data import make_coco
from tests.conftest import ROOT, SEGMENTATION, has_compiled_ops, randomise

STEPS, INTERVAL = 16, 3
AUDIO = dict(feature_dim=8, num_buckets=16, pos_depth=2, pos_kernel=5, pos_groups=4)
_LOADERS = """
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False{data})
val_dataloader = dict(num_workers=0, persistent_workers=False{data})
test_dataloader = val_dataloader
"""
_SHAPES = ', dataset=dict(metainfo=dict(classes=("ellipse", "rectangle", "triangle")))'
_SCHEDULE = f"""
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={INTERVAL}))
train_cfg = dict(max_iters={STEPS}, val_interval={STEPS})
"""
_SEGMENTATION = """
_base_ = ["{segmentation}"]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=4, num_heads=2), out_indices=[0, 1, 2, 3],
        drop_path_rate=0.2,
    ),
    decode_head=dict(channels=16),
    auxiliary_head=dict(channels=16),
)
"""
_DETECTION = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_mask-rcnn_emoji-160.py"]
model = dict(
    backbone=dict(arch=dict(embed_dim=32, depth=4, num_heads=2)),
    roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
)
"""
_PRETRAINING = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_vl_emoji-64.py"]
model = dict(
    learn_words=False,
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=3, num_heads=2, ffn_dim=48),
        drop_path_rate=0.5,
        modalities=dict(_delete_=True, text=dict(vocab_size=300, num_buckets=8), image={{}}),
    ),
    decoder=dict(embed_dim=32, ffn_dim=48, num_heads=2),
)
"""


@dataclass(frozen=True)
class Journey:
    """A recipe that trains on a CPU in seconds.

    Attributes:
        tool: "train.py" or "pretrain.py".
        recipe: its config.
        options: its data.
    """

    tool: str
    recipe: Path
    options: tuple[str, ...]

    def arguments(self, work_dir: Path, *options: Any) -> list[str]:
        """The command line of a run in a work directory."""
        command = [self.tool, self.recipe, "--work-dir", work_dir, *self.options, *options]
        return list(map(str, command))


def make_journeys(root: Path) -> dict[str, Journey]:
    """Data and recipes of pretraining, segmentation and, with compiled operators, detection."""
    pairs, scenes = make_pairs(root / "pairs"), make_scenes(root / "scenes")
    options: dict[str, tuple[str, str, tuple[str, ...]]] = {
        "pretraining": (
            "pretrain.py",
            _PRETRAINING,
            ("--data-root", str(pairs), "--tokenizer", str(pairs / "tokenizer.json")),
        ),
        "segmentation": ("train.py", _SEGMENTATION, ("--data-root", str(scenes))),
    }
    if has_compiled_ops():
        objects = make_coco(root / "objects")
        options["detection"] = ("train.py", _DETECTION, ("--data-root", str(objects)))
    journeys = {}
    for name, (tool, text, rest) in options.items():
        recipe = root / f"{name}.py"
        data = _SHAPES if name == "detection" else ""
        recipe.write_text(
            text.format(root=ROOT, segmentation=SEGMENTATION)
            + _LOADERS.format(data=data)
            + _SCHEDULE
        )
        journeys[name] = Journey(tool, recipe, rest)
    return journeys


def make_pairs(root: Path, count: int = 12) -> Path:
    """ROOT/{train,val}.tsv of images, captions and tones, and a tokenizer."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        pixels = rng.integers(0, 255, (40, 40 + i, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        tone = np.sin(np.arange(9000 + 500 * i) * 0.02 * (i + 1)) / 3
        soundfile.write(root / f"{i}.wav", tone, 16_000)
        rows.append((f"{i}.png", f"square number {i}", f"{i}.wav", f"class {i % 3}"))
    for split in ("train", "val"):
        with open(root / f"{split}.tsv", "w", newline="") as file:
            header = ("image", "caption", "audio", "label")
            csv.writer(file, delimiter="\t").writerows([header, *rows])
    tokenizer.train([row[1] for row in rows], 300).save(root / "tokenizer.json")
    return root


def make_scenes(root: Path, counts: Mapping[str, int] | None = None) -> Path:
    """Images and label maps of nine classes in mmsegmentation's layout."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 8, "val": 2}).items():
        for kind in ("img_dir", "ann_dir"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = rng.integers(0, 9, (8, 12), np.uint8).repeat(16, 0).repeat(16, 1)
            image = (labels[..., None] * 25 + rng.integers(0, 30, (*labels.shape, 3))).astype("u1")
            Image.fromarray(image).save(root / "img_dir" / split / f"{i}.png")
            Image.fromarray(labels).save(root / "ann_dir" / split / f"{i}.png")
    return root


def make_model(folder: Path) -> Path:
    """A model of three modalities with random weights, its tokenizer beside it."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    words = tokenizer.train([f"square number {i}" for i in range(12)] * 3, 300)
    words.save(folder / "tokenizer.json")
    modalities = {
        "text": dict(vocab_size=words.vocab_size, num_buckets=8), "image": {}, "audio": AUDIO,
    }  # fmt: skip
    arch = dict(embed_dim=32, depth=3, num_heads=2, ffn_dim=48)
    model = randomise(
        OnePeaceRetriever(dict(arch=arch, modalities=modalities, img_size=64, final_norm=True))
    )
    converted = checkpoint.to_own(model.state_dict(), {"format": "mmonepeace"})
    checkpoint.write(folder / "model.safetensors", converted)
    return folder / "model.safetensors"


def make_shard(path: Path, folder: Path, count: int = 8) -> Path:
    """A tar file of images and captions."""
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            tar.add(folder / f"{i}.png", f"{i:04}.png")
            (folder / "caption.txt").write_text(f"square number {i}")
            tar.add(folder / "caption.txt", f"{i:04}.txt")
    return path


class Payload:
    """An object whose pickle makes a folder when it is loaded without restrictions."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        import os

        return os.makedirs, (self.marker,)


def hostile_files(folder: Path, weights: Mapping[str, torch.Tensor], marker: Path) -> list[Path]:
    """Checkpoints of every torch format that make `marker` if they are read carelessly."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Any] = {
        "beside": {"state_dict": dict(weights), "extra": Payload(marker)},
        "meta": {"state_dict": dict(weights), "meta": {"cfg": Payload(marker)}},
        "weights": {"state_dict": {**weights, "backbone.x": Payload(marker)}},
        "alone": Payload(marker),
    }
    paths = []
    for name, content in contents.items():
        for kind in ("zip", "legacy", "pickle"):
            path = folder / f"{name}_{kind}.pth"
            if kind == "pickle":
                path.write_bytes(pickle.dumps(content))
            else:
                torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
            paths.append(path)
    return paths
