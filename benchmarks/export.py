"""Exported encoders next to PyTorch: differences, speed, size of files. Random weights.

Run:  python benchmarks/export.py [--archs tiny base] [--threads 1] [--size 224]

Fixed sizes but for tiny, which has dynamic ones in fp32: `mmonepeace export` does the same for a
checkpoint.
"""

import argparse
import copy
import platform
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from mmonepeace import export
from mmonepeace.models import OnePeaceRetriever

WAYS = (("torch", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"))
SUFFIXES = {"torch": "pt2", "onnx": "onnx"}


def rows(arch: str, size: int, folder: Path) -> list[str]:
    """Lines of the table for one size of the model."""
    lines = []
    for target, dtype in WAYS:
        torch.manual_seed(0)
        options = dict(arch=arch, modalities=("image",), final_norm=True, layer_scale_init=0.1)
        graph = export.encoder_graph(OnePeaceRetriever(options), "image", (size, size))
        exact, path = graph.module, folder / f"{arch}.{SUFFIXES[target]}"
        dynamic = ["batch", "height", "width"] if (arch, dtype) == ("tiny", "fp32") else []
        if dtype == "fp16":
            graph.module = copy.deepcopy(exact).half()
        if target == "torch":
            export.export_torch(graph, path, dynamic)
        else:
            export.export_onnx(graph, path, dynamic, quantise=dtype == "int8")
        found = export.measure(graph, exact, path, dynamic, 3)
        lines.append(
            f"| {arch} | {target} | {dtype} | {'batch, size' if dynamic else 'none'} "
            f"| {found.largest_difference:.1e} | {found.lowest_cosine:.6f} "
            f"| {found.eager_seconds / found.seconds:.2f} | {found.bytes / 1e6:.1f} "
            f"| {found.bytes / found.eager_bytes:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=["tiny", "base"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = [
        f"{name} {version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime")
    ]
    print(f"- Date: {date.today()}")
    print(f"- Hardware: {platform.machine()} CPU, {args.threads} threads")
    print(f"- Versions: Python {platform.python_version()}, {', '.join(versions)}\n")
    print(
        "| size | file | dtype | dynamic | largest difference | lowest cosine | speed | MB | of weights |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.archs:
            rows(arch, args.size, Path(folder))


if __name__ == "__main__":
    main()
