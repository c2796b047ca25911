"""Pairs of images and texts read from tar files: ours, and the loader of open_clip, on the same shards.

Run:  python benchmarks/shard_loading.py [--samples 3000] [--rounds 3] [--folder DIR]

Makes JPEG files of 500 x 375 px with captions, packs them with tools/dataset_converters/make_shards.py, and
reads batches of 64 at 256 px with one worker process, which alternate. open_clip's loader is
`open_clip_train.data.get_wds_dataset` with its transform of images, as it is for evaluation; both use our
tokenizer. "decode" opens and resizes the same files in this process and does nothing else. Needs
open_clip_torch and torchvision, and webdataset of at most 0.2.86, as open_clip asks for; without
open_clip only ours is timed.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmonepeace.datasets import ShardDataset, image_io
from mmonepeace.datasets.tokenizer import train

_BATCH, _SIZE, _SHARD = 64, 256, 1000
_WORDS = [
    "a",
    "red",
    "blue",
    "small",
    "large",
    "dog",
    "cat",
    "house",
    "tree",
    "street",
    "near",
    "under",
    "on",
    "the",
    "with",
    "two",
    "birds",
]


def make(folder: Path, samples: int) -> list[str]:
    """Write images, captions, shards and a tokenizer; the captions."""
    random = np.random.default_rng(0)
    captions = [" ".join(random.choice(_WORDS, 9)) for _ in range(samples)]
    rows = ["image\tcaption"]
    (folder / "images").mkdir()
    for i, caption in enumerate(captions):
        small = random.integers(0, 255, (15, 20, 3), np.uint8)
        image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        noise = random.normal(0, 6, (375, 500, 1))  # as large as files of photographs
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
        image.save(folder / f"images/{i}.jpg", quality=90)
        rows.append(f"images/{i}.jpg\t{caption}")
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    command = [sys.executable, "tools/dataset_converters/make_shards.py", str(folder / "pairs.tsv")]
    command += [str(folder / "shards"), "--columns", "image=image", "text=caption"]
    command += ["--shard-size", str(_SHARD)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    train(captions, 300).save(folder / "tokenizer.json")
    return captions


def ours(folder: Path, _: int) -> Iterable[Any]:
    """Batches of `ShardDataset`."""
    pipeline = [
        dict(type="mmonepeace.LoadImage", size=_SIZE),
        dict(type="mmonepeace.Tokenize", tokenizer=str(folder / "tokenizer.json")),
        dict(type="mmonepeace.PackModalities"),
    ]
    dataset = ShardDataset(str(folder / "shards"), ("image", "text"), _BATCH, pipeline)
    return DataLoader(dataset, _BATCH, num_workers=1, collate_fn=pseudo_collate)


def open_clip(folder: Path, samples: int) -> Iterable[Any]:
    """Batches of open_clip's loader."""
    from open_clip.transform import image_transform
    from open_clip_train.data import get_wds_dataset

    from mmonepeace.datasets.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")

    def tokenize(text: str) -> list[torch.Tensor]:
        ids = tokenizer.encode([text])[0][:77]
        return [torch.tensor([*ids, *[0] * (77 - len(ids))])]

    shards = f"{folder}/shards/{{000000..{(samples - 1) // _SHARD:06d}}}.tar"
    options = SimpleNamespace(
        train_data=shards, train_num_samples=samples, dataset_resampled=False, seed=0, workers=1,
        batch_size=_BATCH, world_size=1, train_data_upsampling_factors=None,
    )  # fmt: skip
    transform = image_transform(_SIZE, is_train=False)
    return get_wds_dataset(options, transform, is_train=True, tokenizer=tokenize).dataloader


def decode(folder: Path, samples: int) -> Iterable[Any]:
    """As many images as a batch has, in this process."""
    for start in range(0, samples, _BATCH):
        batch = []
        for i in range(start, min(start + _BATCH, samples)):
            rgb = image_io.to_rgb(folder / f"images/{i}.jpg")
            batch.append(image_io.resize(rgb, _SIZE, keep_ratio=False))
        yield batch


def samples_per_second(
    make_loader: Callable[[Path, int], Iterable[Any]], folder: Path, samples: int
) -> float:
    """Of the batches after the first two, which fill the buffers."""
    batches, start, count = iter(make_loader(folder, samples)), 0.0, samples // _BATCH - 3
    for i in range(count + 2):
        if i == 2:
            start = time.perf_counter()
        next(batches)
    return count * _BATCH / (time.perf_counter() - start)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data are made (a temporary folder)")
    args = parser.parse_args()
    ways = {"ours": ours, "open_clip": open_clip, "decode": decode}
    versions = []
    for name in ("torch", "pillow", "open_clip_torch", "webdataset"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            ways.pop("open_clip", None)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make(folder, args.samples)
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.rounds + 1):
            for way, loader in ways.items():
                speed = samples_per_second(loader, folder, args.samples)
                if turn:  # warm-up
                    speeds[way].append(speed)
        size = sum(path.stat().st_size for path in folder.glob("shards/*.tar")) / args.samples
    print("# Pairs read from tar files\n")
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/shard_loading.py', *sys.argv[1:]])}`")
    print(f"- Hardware: {platform.machine()} CPU, one worker process")
    print(f"- Versions: Python {platform.python_version()}, {', '.join(versions)}")
    print(f"- Data: {args.samples:,} pairs of {size / 1e3:.0f} kB in shards of {_SHARD:,}\n")
    print("| way | samples a second | shards of 10,000 an hour | time / decode |")
    print("|---|---|---|---|")
    middle = {way: statistics.median(values) for way, values in speeds.items()}
    for way, speed in middle.items():
        share = middle["decode"] / speed
        print(f"| {way} | {speed:.0f} | {speed * 0.36:.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
