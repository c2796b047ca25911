"""What a GPU must compute, move and keep for attention with a trained bias, by count, without a GPU.

Run:  python benchmarks/roofline.py [--arch giant] [--sizes 256 512 896 1280] [--batch 1]

A training step of the image encoder, in bfloat16. Ways to get the bias of all pairs of tokens:

expanded    it is written for each sample and kept for the backward pass, as in the official code
stored      one copy for all samples, kept for the backward pass
recomputed  one copy, gathered in the forward pass and again in the backward pass (`attention="auto"`)
looked up   by FlexAttention: read from the table in the caches, and its gradient added to the table by
            atomic operations, one for each pair, head and sample; they are not part of the time here

The least time of each is that of its operations at the peak, or of its bytes at the bandwidth, whichever
is longer for each of: linear layers, attention, and what prepares the bias and adds up its gradient.
Caches are taken to serve the table and the index of pairs, and nothing else.
"""

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmonepeace.layers.gpu_attention import SAMPLE_BYTES
from mmonepeace.spec import PATCH_SIZE, Arch, get_arch


class Gpu(NamedTuple):
    """Without sparsity, of the SXM version."""

    flops: float  # per second, products in bfloat16 with sums in float32
    bandwidth: float  # bytes per second
    memory: float  # bytes
    source: str


GPUS = {
    "A100": Gpu(312e12, 2.039e12, 80e9, "NVIDIA A100 datasheet, 80 GB SXM"),
    "H100": Gpu(989e12, 3.35e12, 80e9, "NVIDIA H100 datasheet, SXM"),
    "H200": Gpu(989e12, 4.8e12, 141e9, "NVIDIA H200 datasheet, SXM"),
}
NUMBER = 2  # bytes of a bfloat16


class Bias(NamedTuple):
    """Bytes of the bias of one block.

    Attributes:
        kept: from the forward to the backward pass.
        most: at once, while the block is computed backward.
        moved_by_kernel: that the kernels of attention read and write.
        moved: beside these.
    """

    kept: float
    most: float
    moved_by_kernel: float
    moved: float


def biases(pairs: float, batch: int) -> dict[str, Bias]:
    """Way -> bytes; `pairs` is heads times tokens squared."""
    one = pairs * NUMBER
    each = batch * one
    # Forward reads the bias, backward reads it and writes its gradient, sample by sample.
    kernel = 3 * each
    # The gradient is summed over samples, copied with as many zeros again, and summed over queries.
    gradient = each + one + 2 * 2 * one + one
    return {
        "expanded": Bias(each, 2 * each, kernel, each + gradient),
        "stored": Bias(one, one + each, kernel, one + gradient),
        "recomputed": Bias(0, one + max(one, min(each, SAMPLE_BYTES)), kernel, 2 * one + gradient),
        "looked up": Bias(0, 0, 0, 0),
    }


def operations(arch: Arch, tokens: int, batch: int) -> tuple[int, int]:
    """Of the linear layers, and of the two products of attention, in a forward pass."""
    width = arch.embed_dim
    linear = 2 * batch * tokens * (4 * width**2 + 3 * width * arch.ffn_dim)
    return arch.depth * linear, arch.depth * 4 * batch * tokens**2 * width


def step(
    arch: Arch, size: int, batch: int, gpu: Gpu
) -> dict[str, tuple[float, float, float, float]]:
    """Way -> least seconds of a step, of these for the bias, bytes of bias kept, most at once."""
    tokens = (size // PATCH_SIZE) ** 2 + 1
    linear, attention = operations(arch, tokens, batch)
    # Backward, linear layers have two products for one; attention has five for two, since its
    # weights are computed again.
    computed, attention_seconds = 3 * linear / gpu.flops, 3.5 * attention / gpu.flops
    found = {}
    for name, bias in biases(arch.num_heads * tokens**2, batch).items():
        in_kernel = max(attention_seconds, arch.depth * bias.moved_by_kernel / gpu.bandwidth)
        extra = in_kernel - attention_seconds + arch.depth * bias.moved / gpu.bandwidth
        total = computed + attention_seconds + extra
        found[name] = total, extra, arch.depth * bias.kept, bias.most
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="giant")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 896, 1280], metavar="PX")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    arch = get_arch(args.arch)
    print(f"# Bias of attention on GPUs, by count: {args.arch}, batch {args.batch}, bfloat16\n")
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `{' '.join(['python benchmarks/roofline.py', *sys.argv[1:]])}`")
    for name, gpu in GPUS.items():
        print(
            f"- {name}: {gpu.flops / 1e12:g} TFLOP/s, {gpu.bandwidth / 1e12:g} TB/s, "
            f"{gpu.memory / 1e9:g} GB ({gpu.source})"
        )
    print()
    print("| px | tokens | bias | kept, GB | at once, GB | atomics |", end="")
    print("".join(f" {name}: step, ms | for the bias, ms |" for name in GPUS))
    print("|---" * (6 + 2 * len(GPUS)) + "|")
    for size in args.sizes:
        tokens = (size // PATCH_SIZE) ** 2 + 1
        each = {name: step(arch, size, args.batch, gpu) for name, gpu in GPUS.items()}
        for way, (_, _, kept, most) in each["H100"].items():
            count = args.batch * arch.num_heads * tokens**2 * arch.depth
            atomics = f"{count:.1e}" if way == "looked up" else "0"
            cells = [size, tokens, way, f"{kept / 1e9:.2f}", f"{most / 1e9:.2f}", atomics]
            for found in each.values():
                cells += [f"{1e3 * x:.1f}" for x in found[way][:2]]
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
