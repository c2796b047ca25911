"""Attention with the relative position bias of a grid: in blocks, compared with a dense bias.

Run:  python benchmarks/attention.py [--sides 16 24 32 56] [--heads 12] [--batch 1] [--rounds 7]
                                    [--dtype bfloat16]

"dense" gathers the bias of all pairs of tokens and calls PyTorch's attention; "blocks" is
`grid_bias_attention`. Both compute the gradient of the table, in forward and backward passes that
alternate with a product of two square matrices, whose speed is the peak. Memory is what a process of
its own needs above queries, keys, values and the table. Recomputation in the backward pass is not
counted as operations.
"""

import argparse
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
from bench import PEAK_OPERATIONS, matrix_product, print_peak
from runs import Run, seconds

from mmonepeace.layers.cpu.grid_attention import grid_bias_attention
from mmonepeace.layers.relative_position_bias import GridBias
from mmonepeace.layers.resampling import num_rpb_rows

WIDTH = 64  # of a head


def runs(side: int, args: argparse.Namespace) -> dict[str, Run]:
    """Name -> one call, for inference and with gradients."""
    tokens = side**2 + 1
    shape, dtype = (args.batch, tokens, args.heads, WIDTH), getattr(torch, args.dtype)
    tensors = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in "qkv"]
    rows = num_rpb_rows((side, side))
    table = torch.randn(rows, args.heads, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape, dtype=dtype).transpose(1, 2)

    def dense() -> torch.Tensor:
        bias = GridBias(table, (side, side), True).dense()
        return F.scaled_dot_product_attention(*tensors, attn_mask=bias)

    def blocks() -> torch.Tensor:
        return grid_bias_attention(*tensors, GridBias(table, (side, side), True))

    found: dict[str, Run] = {}
    for name, way in (("dense", dense), ("blocks", blocks)):
        found[f"{name}, inference"] = torch.inference_mode()(way)
        found[f"{name}, training"] = lambda way=way: torch.autograd.grad(
            way(), (*tensors, table), weight
        )
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[16, 24, 32, 56])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        side, name = args.memory_of
        print_peak(runs(int(side), args)[name])
        return
    print("# Attention with the bias of a grid\n")
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `python benchmarks/attention.py {' '.join(sys.argv[1:])}`")
    print(f"- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads")
    print(f"- Versions: Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| tokens | what | dense, s | blocks, s | ratio | of peak | dense, GB | blocks, GB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for side in args.sides:
        timed = runs(side, args) | {"peak": matrix_product(getattr(torch, args.dtype), "cpu")}
        times: dict[str, list[float]] = {name: [] for name in timed}
        for turn in range(args.rounds + 1):
            for name, run in timed.items():
                taken = seconds(run, "cpu")
                if turn:  # warm-up
                    times[name].append(taken)
        median = {name: statistics.median(values) for name, values in times.items()}
        peak = PEAK_OPERATIONS / median["peak"]
        tokens = side**2 + 1
        for what, passes in (("inference", 1), ("training", 3)):
            operations = passes * 4 * args.batch * args.heads * WIDTH * tokens**2
            memory = []
            for way in ("dense", "blocks"):
                command = [sys.executable, __file__, "--memory-of", str(side), f"{way}, {what}"]
                command += ["--heads", str(args.heads), "--batch", str(args.batch)]
                command += ["--dtype", args.dtype]
                memory.append(float(subprocess.check_output(command, text=True).split()[-1]))
            old, new = (median[f"{way}, {what}"] for way in ("dense", "blocks"))
            print(
                f"| {tokens} | {what} | {old:.3f} | {new:.3f} | {new / old:.2f} | "
                f"{operations / new / peak:.0%} | {memory[0]:.2f} | {memory[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
