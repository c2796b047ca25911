"""Photographs of 12 megapixels in the pipeline that trains on ADE20K: what a sample and a step wait for.

Run:  OMP_NUM_THREADS=1 python benchmarks/data_time.py [--images 12] [--rounds 3] [--batches 12]
      [--steps 0.25 0.5 1 2] [--folder DIR]

"largest_scale" is the recipe with mmonepeace.LoadImageFromFile, which decodes JPEG files at a fraction of
their sides. Makes JPEG files of 4000 x 3000 px with label maps, and reads them as the recipe does, in three parts:
seconds of the processor by transform, in one process with one thread; samples a second of its loader with
0, 1 and 2 workers; the time that a step of some seconds waits for its batch. A step is a pause of the main
process, as it is while a GPU computes. Prints a Markdown report.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

import mmonepeace.datasets.tolerant_dataset  # noqa: F401  (a type of the config)
from mmonepeace.engine.terminal import quiet_terminal

CONFIG = ROOT / "configs/seg/onepeace-base_upernet_ade20k-512.py"
WIDTH, HEIGHT = 4000, 3000
_CLASSES = 150
_WORKERS = (0, 1, 2)
_FIRST = 4  # batches that fill the queues, not timed


def make(folder: Path, images: int) -> tuple[int, int]:
    """Write photographs and label maps in the layout of ADE20K; bytes of an image and of a map."""
    rng, sizes = np.random.default_rng(0), []
    for i in range(images):
        image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for cell in (1000, 250, 50, 10):  # as in photographs, the larger the stronger
            grid = rng.normal(0, 12 + cell**0.5, (HEIGHT // cell, WIDTH // cell, 3))
            image += cv2.resize(grid.astype(np.float32), (WIDTH, HEIGHT))
        image += 120 + rng.normal(0, 5, (HEIGHT, WIDTH, 1)).astype(np.float32)
        fields = [
            cv2.resize(rng.random((9, 12), np.float32), (WIDTH // 2, HEIGHT // 2), interpolation=2)
            for _ in range(12)
        ]
        kinds = rng.choice(_CLASSES + 1, 12, replace=False).astype(np.uint8)  # 0 is ignored
        labels = kinds[np.argmax(fields, 0)].repeat(2, 0).repeat(2, 1)
        paths = []
        for kind, suffix, array in (
            ("images", "jpg", image.clip(0, 255).astype(np.uint8)),
            ("annotations", "png", labels),
        ):
            paths.append(folder / kind / "training" / f"{i:05d}.{suffix}")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            options = dict(quality=92) if suffix == "jpg" else {}
            Image.fromarray(array).save(paths[-1], **options)
        sizes.append([path.stat().st_size for path in paths])
    image_bytes, label_bytes = np.mean(sizes, 0).astype(int)
    return int(image_bytes), int(label_bytes)


def read_config(folder: Path) -> Config:
    """The recipe with these photographs."""
    cfg = Config.fromfile(CONFIG)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(folder)
    cfg.train_dataloader.dataset = dict(
        type="mmonepeace.tolerate_broken", dataset=dataset, max_broken=0.0
    )
    return cfg


def pipelines(cfg: Config) -> dict[str, list[Any]]:
    """The recipe's, and those that are compared with it."""
    recipe = cfg.train_dataloader.dataset.dataset.pipeline
    largest = tuple(round(side * recipe[2].ratio_range[1]) for side in recipe[2].scale)
    reduced = dict(type="mmonepeace.LoadImageFromFile", largest_scale=largest)
    return {"recipe": recipe, "largest_scale": [reduced, *recipe[1:]]}


def seconds_by_transform(
    cfg: Config, ways: dict[str, list[Any]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of the processor of each transform of each pipeline, which alternate, for each sample."""
    datasets = {}
    for way, pipeline in ways.items():
        config = deepcopy(cfg.train_dataloader.dataset)
        config.dataset.pipeline = pipeline
        datasets[way] = DATASETS.build(config).dataset
    taken: dict[str, dict[str, list[float]]] = {way: defaultdict(list) for way in ways}
    for turn in range(rounds + 1):
        for i in range(len(datasets["recipe"])):
            for way, dataset in datasets.items():
                np.random.seed(turn * 1000 + i)  # equal crops
                sample = dataset.get_data_info(i)
                for step, given in zip(dataset.pipeline.transforms, ways[way], strict=True):
                    start = time.process_time()
                    sample = step(sample)
                    if turn:  # warm-up
                        taken[way][given["type"]].append(time.process_time() - start)
    return taken


@contextmanager
def batches(cfg: Config, pipeline: list[Any], workers: int) -> Iterator[Iterator[Any]]:
    """Endless batches of the recipe's loader, the first of them read."""
    config = deepcopy(cfg.train_dataloader)
    config.dataset.dataset.pipeline = pipeline
    config.update(num_workers=workers, persistent_workers=bool(workers))
    loader: DataLoader[Any] = Runner.build_dataloader(config, seed=0)
    iterator = iter(loader)
    for _ in range(_FIRST):
        next(iterator)
    yield iterator
    if workers:
        iterator._shutdown_workers()  # type: ignore[attr-defined]


def samples_per_second(cfg: Config, pipeline: list[Any], workers: int, count: int) -> float:
    """Of batches that are taken at once."""
    with batches(cfg, pipeline, workers) as iterator:
        start = time.perf_counter()
        for _ in range(count):
            next(iterator)
        taken = time.perf_counter() - start
    return count * cfg.train_dataloader.batch_size / taken


def data_time(cfg: Config, pipeline: list[Any], workers: int, step: float, count: int) -> float:
    """Mean seconds that a step of some seconds waits for its batch."""
    waited = []
    with batches(cfg, pipeline, workers) as iterator:
        for _ in range(count):
            time.sleep(step)
            start = time.perf_counter()
            next(iterator)
            waited.append(time.perf_counter() - start)
    return statistics.mean(waited)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12, help="that are timed of a loader")
    parser.add_argument("--steps", type=float, nargs="+", default=[0.25, 0.5, 1, 2])
    parser.add_argument("--folder", type=Path, help="where the data are made (a temporary folder)")
    args = parser.parse_args()
    cv2.setNumThreads(0)  # as the recipe does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as name, quiet_terminal():
        folder = Path(name)
        image_bytes, label_bytes = make(folder, args.images)
        cfg = read_config(folder)
        init_default_scope(cfg.default_scope)
        ways = pipelines(cfg)
        costs = seconds_by_transform(cfg, ways, args.rounds)
        speeds: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            for way, pipeline in ways.items():
                for workers in _WORKERS:
                    speed = samples_per_second(cfg, pipeline, workers, args.batches)
                    speeds[way, workers].append(speed)
        waits = {
            (way, workers, step): data_time(cfg, pipeline, workers, step, args.batches)
            for way, pipeline in ways.items()
            for workers in _WORKERS
            for step in args.steps
        }
    versions = [f"{n} {version(n)}" for n in ("torch", "onedl-mmsegmentation", "onedl-mmcv")]
    versions.append(f"OpenCV {cv2.__version__}")
    print("# Photographs of 12 megapixels in the pipeline that trains on ADE20K\n")
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/data_time.py', *sys.argv[1:]])}`")
    print(f"- Hardware: {platform.machine()} CPU, two cores, one thread for each process")
    print(f"- Versions: Python {platform.python_version()}, {', '.join(versions)}")
    print(
        f"- Data: {args.images} JPEG files of {WIDTH} x {HEIGHT} px and {image_bytes / 1e6:.1f} MB, "
        f"label maps of {label_bytes / 1e3:.0f} kB; batches of {cfg.train_dataloader.batch_size}\n"
    )
    print("## Seconds of the processor for a sample\n")
    print("Means, and the largest of all samples; pipelines alternate.\n")
    for way, taken in costs.items():
        rows = [[k, f"{statistics.mean(v):.3f}", f"{max(v):.3f}"] for k, v in taken.items()]
        totals = [sum(each) for each in zip(*taken.values(), strict=True)]
        rows.append(["all", f"{statistics.mean(totals):.3f}", f"{max(totals):.3f}"])
        print(table([way, "mean", "largest"], rows), end="\n\n")
    print("## Samples a second\n")
    print("Medians.\n")
    head = ["pipeline", *(f"{w} worker{'s' * (w != 1)}" for w in _WORKERS)]
    rows = [[w, *(f"{statistics.median(speeds[w, n]):.1f}" for n in _WORKERS)] for w in ways]
    print(table(head, rows), end="\n\n")
    print("## Seconds that a step waits for its batch\n")
    head = ["pipeline", "workers", *(f"step of {step:g} s" for step in args.steps)]
    rows = [
        [way, f"{n}", *(f"{waits[way, n, step]:.3f}" for step in args.steps)]
        for way in ways
        for n in _WORKERS
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
