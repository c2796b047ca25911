"""Memory and time of a sliding window over a large image: mmsegmentation's and ours.

Run:  OMP_NUM_THREADS=1 python benchmarks/sliding_window.py [--height 3648] [--width 5472]
      [--classes 150] [--crop 512] [--stride 341] [--channels 64] [--small 1024 1536]

ONE-PEACE tiny with UPerNet, random weights, from a file through `mmseg.apis.inference_model`. Each
run has a process of its own; its peak is the largest resident set. mmsegmentation's window holds
several copies of the logits: it runs on the small image, where both are compared, and its peak on the
large one is computed from that. Writes a dated table beside this script.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/seg/onepeace-base_upernet_ade20k-512.py"
GB = 10**9


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def draw(path: Path, height: int, width: int) -> None:
    """Write an image of coloured fields with noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    fields = rng.integers(0, 200, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
    image = np.array(Image.fromarray(fields).resize((width, height), Image.Resampling.BICUBIC))
    image += rng.integers(0, 50, image.shape, np.uint8)
    Image.fromarray(image).save(path)


def measure(args: Namespace, image: Path, test_cfg: dict | None, out: Path) -> dict[str, float]:
    """Segment an image.

    Args:
        args: of the command line.
        image: file.
        test_cfg: options of our window, None for mmsegmentation's.
        out: folder for `labels.npy` and, if there are any, `logits.npy`.

    Returns:
        bytes of the resident set before the call and at its peak, and the processor's seconds of
        the call, which others on the machine lengthen little.
    """
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmseg.apis import inference_model, init_model

    from mmonepeace.models.widths import fill_widths

    cfg = Config.fromfile(CONFIG)
    cfg.test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
    cfg.model.backbone.arch = "tiny"
    cfg.model.decode_head.update(channels=args.channels, num_classes=args.classes)
    cfg.model.auxiliary_head = None
    cfg.model.test_cfg = dict(
        mode="slide", crop_size=[args.crop] * 2, stride=[args.stride] * 2, **(test_cfg or {})
    )
    if test_cfg is None:
        # mmseg's own type does not fill in widths.
        cfg.model = {**fill_widths(cfg.model), "type": "mmseg.EncoderDecoder"}
    torch.manual_seed(0)
    model = revert_sync_batchnorm(init_model(cfg, device="cpu"))
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)  # so that labels differ
    before = peak_of_this_process()
    start = time.process_time()
    result = inference_model(model, str(image))
    seconds = time.process_time() - start
    peak = peak_of_this_process()
    out.mkdir()
    np.save(out / "labels.npy", result.pred_sem_seg.data[0].numpy())
    if "seg_logits" in result:
        np.save(out / "logits.npy", result.seg_logits.data.numpy())
    return dict(before=before, peak=peak, seconds=seconds)


def peak_of_this_process() -> int:
    """Largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(theirs: Path, ours: Path) -> str:
    """A sentence about labels, and logits if there are any."""
    labels = [np.load(folder / "labels.npy") for folder in (theirs, ours)]
    same = (labels[0] == labels[1]).mean()
    text = f"{same:.5%} of the labels are equal ({len(np.unique(labels[0]))} classes occur)"
    if (ours / "logits.npy").exists():
        pairs = zip(
            *(np.load(f / "logits.npy", mmap_mode="r") for f in (theirs, ours)), strict=True
        )
        largest = difference = 0.0
        for a, b in pairs:
            largest, difference = max(largest, abs(a).max()), max(difference, abs(a - b).max())
        text += f"; logits up to {largest:.1f} differ by {difference:.1e} at most"
    return text


def table(args: Namespace, folder: Path) -> str:
    """Measure everything; the rows, and what follows from them."""
    sizes = {"small": tuple(args.small), "large": (args.height, args.width)}
    for name, size in sizes.items():
        draw(folder / f"{name}.png", *size)
    runs = {
        "mmseg": ("small", None),
        "ours, logits kept": ("small", dict(max_logits_gb=100)),
        "ours, labels only": ("small", dict(max_logits_gb=0)),
        "ours": ("large", dict()),
    }
    lines = [
        "| window | image | logits, GB | peak, GB | of it before the call | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    found = {}
    for title, (name, test_cfg) in runs.items():
        height, width = sizes[name]
        image = folder / f"{name}.png"
        print(f"{title}, {height} x {width} ...", file=sys.stderr, flush=True)
        found[title] = run = in_own_process(measure, args, image, test_cfg, folder / title)
        lines.append(
            f"| {title} | {height} x {width} | {4 * args.classes * height * width / GB:.2f} | "
            f"{run['peak'] / GB:.2f} | {run['before'] / GB:.2f} | {run['seconds']:.0f} |"
        )
    small, large = (4 * args.classes * h * w for h, w in sizes.values())
    copies = (found["mmseg"]["peak"] - found["mmseg"]["before"]) / small
    needed = found["mmseg"]["before"] + copies * large
    lines.append(
        f"\nmmseg's window takes {copies:.1f} times its logits; on the large image the peak would "
        f"be {needed / GB:.0f} GB (by arithmetic, not run). Compared with it, on the small image:\n"
    )
    for title in ("ours, logits kept", "ours, labels only"):
        lines.append(f"- {title}: {compare(folder / 'mmseg', folder / title)}.")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=3648)
    parser.add_argument("--width", type=int, default=5472)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--stride", type=int, default=341)
    parser.add_argument(
        "--channels",
        type=int,
        default=64,
        help="of UPerNet; the recipe's 512 take ten times longer",
    )
    parser.add_argument("--small", type=int, nargs=2, default=(1024, 1536), help="height and width")
    args = parser.parse_args()
    today = date.today().isoformat()
    import mmseg
    import torch

    with tempfile.TemporaryDirectory() as folder:
        rows = table(args, Path(folder))
    text = f"""# A sliding window over a large image

- Date: {today}
- Command: `{" ".join(["python benchmarks/sliding_window.py", *sys.argv[1:]])}`
- Hardware: {platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads used
- Versions: Python {platform.python_version()}, torch {torch.__version__}, mmseg {mmseg.__version__}
- Model: ONE-PEACE tiny, UPerNet of {args.channels} channels, {args.classes} classes, float32;
  crops of {args.crop} px, stride {args.stride}, default options otherwise

{rows}
"""
    path = ROOT / f"benchmarks/sliding_window_cpu_{today}.md"
    path.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
