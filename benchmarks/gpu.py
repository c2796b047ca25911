"""One run on a GPU, in ten minutes at most: tests, then speed and memory in bfloat16.

Run:  python benchmarks/gpu.py [--minutes 9] [--archs base large giant] [--sizes 256 512 896] > REPORT.md

First the tests that need a GPU, then forward passes and training steps of the image encoder (autocast,
without an optimiser), the largest first while there is time:

plain      matrix products and a softmax of all pairs of tokens, with the bias copied for each sample, as in
           the official code
ours       as recipes train it; "compiled" with `compiled=True`, "checkpointed" with `with_cp=True`
timm       its BEiT of the base size, if timm is installed

Memory is the most that is allocated above weights and gradients. "Of peak" compares operations per second
with those of products of large matrices in the same run; recomputation is not counted.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from bench import PEAK_OPERATIONS, matrix_product
from peers import timm_beit
from runs import Built, seconds, vit_run
from torch import Tensor

from mmonepeace.layers import kernels
from mmonepeace.layers.relative_position_bias import AttentionBias
from mmonepeace.models import OnePeace

_BATCH = {256: 16, 512: 4, 896: 1}  # others: 1
_TESTS = ("tests/layers/test_kernels.py", "tests/layers/test_gpu_attention.py")
OURS = {
    "plain": dict(attention="eager"),
    "ours": {},
    "ours, compiled": dict(compiled=True),
    "ours, checkpointed": dict(with_cp=True),
}


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None
) -> Tensor:
    """Attention with a copy of the bias for each sample."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    dense = bias.dense()
    assert dense is not None  # images have a bias
    return (logits + dense.expand_as(logits).contiguous()).softmax(-1) @ v


def build(way: str, arch: str, size: int, train: bool, args: argparse.Namespace) -> Built | None:
    """A step or a forward pass; None if there is no such model."""
    batch = _BATCH.get(size, 1)
    if way == "timm":
        return timm_beit(args, size, batch, train) if arch == "base" else None
    options = dict(img_size=256, rpb="per_block", layer_scale_init=0.1, with_cp=False) | OURS[way]
    with torch.device(args.device):
        model = OnePeace(arch, **options)
        images = torch.randn(batch, 3, size, size)
    adapter = model.adapters["image"]
    return vit_run(model, adapter, images, model.arch.depth, model.arch.embed_dim, train)


def measure(built: Built, args: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds to the first result, median of three more, and bytes above weights and gradients."""
    cast = torch.autocast(args.device, torch.bfloat16)

    def run() -> None:
        with cast:
            built.run()

    first = seconds(run, args.device)
    before = most = 0
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    taken = [seconds(run, args.device) for _ in range(3)]
    if args.device == "cuda":
        most = torch.cuda.max_memory_allocated()
    return first, statistics.median(taken), most - before


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--archs", nargs="+", default=["base", "large", "giant"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 896], metavar="PX")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    kernels._BACKENDS["eager"] = plain_attention
    is_gpu = args.device == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else "CPU, to try the script"
    print(f"# The image encoder in bfloat16: {name}\n\n- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/gpu.py', *sys.argv[1:]])}`")
    print(f"- Versions: torch {torch.__version__}, CUDA {torch.version.cuda}")
    if is_gpu:
        command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", *_TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"- Tests: {(done.stdout.splitlines() or ['no output'])[-1]}")
    product = matrix_product(torch.bfloat16, args.device, 8192 if is_gpu else 256)
    operations = PEAK_OPERATIONS * ((8192 if is_gpu else 256) / 2048) ** 3
    seconds(product, args.device)
    peak = operations / min(seconds(product, args.device) for _ in range(3))
    print(f"- Peak: {peak / 1e12:.0f} TFLOP/s, products of matrices\n")
    print("| model | px | batch | what | way | first, s | s | of peak | GB | time / plain |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    cases = [
        (arch, size, train)
        for arch in reversed(args.archs)
        for train in (True, False)
        for size in reversed(args.sizes)
    ]
    for arch, size, train in cases:
        plain = None
        for way in (*OURS, "timm"):
            if time.monotonic() > end:
                print(f"\nStopped after {args.minutes:g} minutes.")
                return
            if way == "ours, checkpointed" and not train:
                continue
            what = "step" if train else "forward"
            cells = [arch, size, _BATCH.get(size, 1), what, way]
            try:
                built = build(way, arch, size, train, args)
                if built is None:
                    continue
                first, middle, memory = measure(built, args)
                plain = middle if way == "plain" else plain
                share = built.operations / middle / peak
                ratio = f"{middle / plain:.2f}" if plain else ""
                cells += [
                    f"{first:.2f}",
                    f"{middle:.4f}",
                    f"{share:.0%}",
                    f"{memory / 1e9:.2f}",
                    ratio,
                ]
            except torch.OutOfMemoryError:
                cells += ["out of memory", "", "", "", ""]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            built = None
            gc.collect()
            if is_gpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
