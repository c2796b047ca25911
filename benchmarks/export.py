"""Exported models next to PyTorch: differences, speed, size of files. Random weights.

Run:  python benchmarks/export.py [--models image upernet] [--arch tiny] [--threads 1] [--size 224]

Fixed sizes but for fp32 with --dynamic: `mmonepeace export` does the same for a checkpoint.
"""

import argparse
import copy
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmonepeace import checks, export
from mmonepeace.models import OnePeaceClassifier, OnePeaceRetriever

WAYS = (("torch", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"))
SUFFIXES = {"torch": "pt2", "onnx": "onnx"}


def backbone(arch: str, *modalities: str) -> dict[str, Any]:
    """An encoder in which all blocks matter."""
    return dict(arch=arch, modalities=modalities, final_norm=True, layer_scale_init=0.1)


def encoder(modality: str, arch: str, size: int) -> export.Graph:
    """The encoder of a modality."""
    model = OnePeaceRetriever(backbone(arch, modality))
    return export.encoder_graph(model, modality, (size, size))


def classifier(arch: str, size: int) -> export.Graph:
    """Answers to questions about images."""
    model = OnePeaceClassifier(backbone(arch, "text", "image"), dict(num_classes=3129), "text")
    return export.classifier_graph(model, (size, size))


def segmentor(recipe: str, arch: str, size: int) -> export.Graph:
    """The segmentor of a recipe."""
    cfg = checks.read_config(recipe)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(arch=arch, img_size=size, layer_scale_init=0.1, init_cfg=None)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    return export.segmentor_graph(model, (size, size))


MODELS_OF: dict[str, tuple[str, Callable[[str, int], export.Graph]]] = {
    "image": ("image encoder", partial(encoder, "image")),
    "text": ("text encoder", partial(encoder, "text")),
    "audio": ("audio encoder", partial(encoder, "audio")),
    "classifier": ("classifier of image and text", classifier),
    "upernet": ("UPerNet", partial(segmentor, "onepeace-base_upernet_ade20k-512")),
    "vit-adapter": (
        "ViT-Adapter + UPerNet", partial(segmentor, "onepeace-base_vit-adapter_upernet_ade20k-512")
    ),
}  # fmt: skip


def rows(name: str, arch: str, size: int, sizes: bool, folder: Path) -> None:
    """Print the lines of the table for one model."""
    title, build = MODELS_OF[name]
    for target, dtype in WAYS:
        torch.manual_seed(0)
        graph = build(arch, size)
        exact, path = graph.module, folder / f"{name}.{SUFFIXES[target]}"
        dynamic = [*graph.axes] if sizes and dtype == "fp32" else []
        if dtype == "fp16":
            graph.module = copy.deepcopy(exact).half()
        if target == "torch":
            export.export_torch(graph, path, dynamic)
        else:
            export.export_onnx(graph, path, dynamic, quantise=dtype == "int8")
        found = export.measure(graph, exact, path, dynamic, 3)
        print(
            f"| {title} | {arch} | {target} | {dtype} | {'all' if dynamic else 'none'} "
            f"| {found.largest_difference:.1e} of {found.largest_output:.2g} "
            f"| {found.lowest_cosine:.6f} | {found.eager_seconds / found.seconds:.2f} "
            f"| {found.bytes / 1e6:.1f} | {found.bytes / found.eager_bytes:.2f} |",
            flush=True,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*MODELS_OF], choices=MODELS_OF)
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--dynamic", action="store_true", help="all sizes, in fp32; takes minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")
    versions = [f"{name} {version(name)}" for name in packages]
    print(f"- Date: {date.today()}")
    print(f"- Hardware: {platform.machine()} CPU, {args.threads} threads")
    print(f"- Versions: Python {platform.python_version()}, {', '.join(versions)}\n")
    print(
        "| model | size | file | dtype | dynamic | largest difference | lowest cosine | speed | MB "
        "| of weights |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rows(name, args.arch, args.size, args.dynamic, Path(folder))


if __name__ == "__main__":
    main()
