"""Colours have names, and so have tones: tones then find colours that no step saw with them."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace.commands import evaluate_retrieval, pretrain
from mmonepeace.datasets import tokenizer
from tests.conftest import ROOT

NAMES = {
    "red": (200, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 200),
    "white": (230, 230, 230),
}
WIDTHS = [
    f"model.{part}.{key}"
    for part in ("backbone.arch", "decoder")
    for key in ("embed_dim=32", "ffn_dim=48", "num_heads=2")
]


def run(command, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        assert command.main() == 0


def write(path, columns, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in (columns, *rows)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three images and tones of each name to train, one of each to measure, with other noise and pitch."""
    root, rng = tmp_path_factory.mktemp("names"), np.random.default_rng(0)
    images, sounds = {"train": [], "val": []}, {"train": [], "val": []}
    for tone, (name, colour) in enumerate(NAMES.items()):
        for i in range(4):
            split = "train" if i < 3 else "val"
            pixels = np.array(colour) + rng.integers(-40, 40, (32, 32, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f"{name}{i}.png")
            hertz = 250 * 2**tone * (1 + 0.04 * i)
            wave = np.sin(np.arange(24_000) * 2 * np.pi * hertz / 16_000) / 3
            soundfile.write(root / f"{name}{i}.wav", wave, 16_000)
            images[split].append((f"{name}{i}.png", name))
            sounds[split].append((f"{name}{i}.wav", name))
    for split in ("train", "val"):
        write(root / f"images_{split}.tsv", ("image", "caption"), images[split])
        write(root / f"sounds_{split}.tsv", ("audio", "caption"), sounds[split])
    write(root / "other_images_train.tsv", ("image", "caption"), images["train"][:1])
    names = [name for _, name in sounds["train"]]
    control = [(path, names[(i + 4) % 12]) for i, (path, _) in enumerate(sounds["train"])]
    write(root / "sounds_train_shuffled.tsv", ("audio", "caption"), control)
    pairs = [(a, b) for (a, _), (b, _) in zip(sounds["val"], images["val"], strict=True)]
    write(root / "pairs.tsv", ("audio", "image"), pairs)
    tokenizer.train(list(NAMES), 300).save(root / "tokenizer.json")
    return root


def train(data, recipe, work_dir, steps, *options, stage_one=()):
    run(
        pretrain, ROOT / f"configs/tiny/onepeace-tiny_{recipe}.py", "--data-root", data,
        "--tokenizer", data / "tokenizer.json", "--work-dir", work_dir, *stage_one, "--cfg-options",
        *WIDTHS, "model.backbone.modalities.text.vocab_size=300", "train_dataloader.batch_size=12",
        f"train_cfg.max_iters={steps}", f"train_cfg.val_interval={steps}", "param_scheduler.0.end=5",
        f"param_scheduler.1.end={steps}", "param_scheduler.1.begin=5", *options,
    )  # fmt: skip


def recall(data, work_dir):
    out = work_dir / "retrieval.json"
    run(
        evaluate_retrieval, work_dir, "--tokenizer", data / "tokenizer.json", "--table",
        data / "pairs.tsv", "--columns", "audio=audio", "image=image", "--out", out,
    )  # fmt: skip
    return json.loads(out.read_text())["metrics"]["audio_to_image_R@1"]


def test_tones_find_colours_by_their_names_and_only_by_them(data, tmp_path):
    torch.set_num_threads(1)
    train(data, "vl_common-names-32", tmp_path / "vl", 80)
    stage_one = ("--stage-one", (tmp_path / "vl/last_checkpoint").read_text().strip())
    train(data, "al_common-names", tmp_path / "al", 200, stage_one=stage_one)
    assert recall(data, tmp_path / "al") >= 50.0  # by chance 25; 75 seen
    # The control: every tone has the name of another colour.
    control = "train_dataloader.dataset.ann_file=sounds_train_shuffled.tsv"
    train(data, "al_common-names", tmp_path / "control", 200, control, stage_one=stage_one)
    assert recall(data, tmp_path / "control") <= 25.0
