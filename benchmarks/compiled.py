"""Compiled blocks against eager ones: kernels of a block, and time on a CPU.

Run:  python benchmarks/compiled.py [--archs small base] [--size 256] [--batch 4] [--rounds 5]

Counts what one block launches in a training step, forward and backward: eagerly, operators that compute
or copy something; compiled, generated kernels (each of several fused operators) and calls of libraries.
The CPU's own kernels of `layers/cpu` are off for the counts, as on a GPU; for the times they are on where
nothing is compiled, as in training. Steps of all blocks alternate.
"""

import argparse
import platform
import re
import statistics
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from runs import Run, backward_of, seconds
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from mmonepeace.layers.kernels import CPU_KERNELS
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.models import OnePeace

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class CountOperators(TorchDispatchMode):
    """Counts the operators that compute or copy; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        if not (func.is_view or name in ("empty_like", "_unsafe_view")):
            self.calls[name] += 1
        return out


def block_step(model: OnePeace, tokens: int) -> Run:
    """Forward and backward of one block with a bias that is trained."""
    x = torch.randn(2, tokens, model.arch.embed_dim, requires_grad=True)
    values = torch.randn(1, model.arch.num_heads, tokens, tokens, requires_grad=True)
    layer, scales = model.layers[0].train(), [torch.ones(2, 1, 1)] * 2
    return lambda: layer(x, {"image": tokens}, DenseBias(values), scales).sum().backward()


def launches(arch: str, tokens: int = 64) -> dict[str, tuple[int, int]]:
    """Way -> (products, everything else) that a block's training step launches."""
    options = dict(img_size=256, layer_scale_init=0.1, drop_path_rate=0.1)
    with mock.patch.dict(CPU_KERNELS, clear=True):
        run = block_step(OnePeace(arch, **options), tokens)
        run()  # gradients are there from now on
        with CountOperators() as operators:
            run()
        products = sum(operators.calls[name] for name in _PRODUCTS)
        found = {"eager": (products, operators.calls.total() - products)}
        run = block_step(OnePeace(arch, **options, compiled=True), tokens)
        _, codes = run_and_get_code(run)
        code = "\n".join(codes)
        calls = re.findall(r"extern_kernels\.(\w+)\(", code)
        products = sum(name in _PRODUCTS for name in calls)
        fused = len(re.findall(r"^ +(?:cpp_fused_\w+\(|triton_\w+\.run\()", code, re.MULTILINE))
        found["compiled"] = (products, fused + len(calls) - products)
    return found


def times(arch: str, args: argparse.Namespace) -> dict[str, float]:
    """Way -> seconds of a training step of all blocks, median of alternating rounds."""
    images = torch.randn(args.batch, 3, args.size, args.size)
    options = dict(img_size=args.size, layer_scale_init=0.1, rpb="per_block", with_cp=False)
    runs = {
        way: backward_of(OnePeace(arch, **options, compiled=way == "compiled").train(), images)
        for way in ("eager", "compiled")
    }
    taken: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(args.rounds + 1):
        for way, run in runs.items():
            spent = seconds(run, "cpu")
            if turn:  # warm-up
                taken[way].append(spent)
    return {way: statistics.median(values) for way, values in taken.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=["small", "base"])
    parser.add_argument("--size", type=int, default=256, help="of images, in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("# Compiled blocks\n")
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/compiled.py', *sys.argv[1:]])}`")
    print(f"- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads")
    print(f"- Versions: Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| size of the model | way | products | other kernels | step, s | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for arch in args.archs:
        counted, taken = launches(arch), times(arch, args)
        for way, (products, others) in counted.items():
            ratio = taken[way] / taken["eager"]
            print(
                f"| {arch} | {way} | {products} | {others} | {taken[way]:.3f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
