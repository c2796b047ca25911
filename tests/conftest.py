"""What all tests use: seeds, a tiny architecture, a tiny data set, rules for skipping."""

import gc
import multiprocessing
import os
from pathlib import Path

# Before torch is imported: the models are too small for several threads, which would only compete
# with those of tests that run at the same time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import yapf.yapflib.yapf_api
from PIL import Image

multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.preload"])


def _parse(code: str, **_: object) -> tuple[str, bool]:
    """In place of yapf, with which MMEngine formats a config each time it is shown or saved.

    That takes a second, eight times in a run. Runs in a new interpreter still format.
    """
    compile(code, "config", "exec")
    return code, False


yapf.yapflib.yapf_api.FormatCode = _parse

ROOT = Path(__file__).resolve().parents[1]
SEGMENTATION = ROOT / "tests/assets/upernet.py"  # a recipe for tests alone
TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "ffn_dim": 48}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights under which each parameter matters, and the output depends on the input."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(-0.3, 0.3)
            if "gamma" in name or (parameter.ndim == 1 and name.endswith("weight")):
                parameter.add_(1)
            elif parameter.ndim > 1:
                parameter.mul_(0.2 if "cls" in name else 2)
            elif name.endswith("bias"):
                parameter.mul_(0.3)
    return model


def has_compiled_ops() -> bool:
    """Whether mmcv was built with its operators."""
    try:
        import mmcv.ops  # noqa: F401
    except ImportError:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: the longest files first
        items.sort(key=lambda item: "journeys" not in item.path.parts)
    skips = {"gpu": (torch.cuda.is_available(), "needs a CUDA device")}
    if any(item.get_closest_marker("ops") for item in items):
        skips["ops"] = (has_compiled_ops(), "needs mmcv with compiled ops: make test")
    for item in items:
        for marker, (available, reason) in skips.items():
            if item.get_closest_marker(marker) and not available:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    gc.freeze()  # MMEngine collects garbage for each data set: not among all that is imported


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def seg_data(tmp_path_factory) -> Path:
    """Twelve small images of coloured rectangles, nine classes, in mmsegmentation's layout."""
    root = tmp_path_factory.mktemp("seg_data")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (9, 3))
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("img_dir", "ann_dir"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((90 + 10 * i, 150), np.uint8)
            for _ in range(6):
                y, x = rng.integers(0, 80), rng.integers(0, 120)
                labels[y : y + 40, x : x + 40] = rng.integers(0, 9)
            noise = rng.integers(-10, 10, (*labels.shape, 3))
            image = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "img_dir" / split / f"{i}.png")
            Image.fromarray(labels).save(root / "ann_dir" / split / f"{i}.png")
    return root
