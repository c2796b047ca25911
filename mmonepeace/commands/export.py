"""Export an encoder, a segmentor or a classifier to ONNX or torch.export, and measure the file.

Run:  mmonepeace export CKPT OUT.onnx --to onnx --modality image [--verify 5] [--report JSON]
      mmonepeace export CKPT OUT.pt2 --to torch --config CONFIG       of a segmentor
      mmonepeace export CKPT OUT.onnx --to onnx --task                of a fine-tuned model

Files run without mmonepeace. With --dynamic, batch and sizes may be any in the ranges that are
printed and stored in the file. The table compares it with PyTorch in float32. ONNX needs
pip install -e .[export].
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import checkpoint, checks, export
from mmonepeace.commands.options import exit_code, make_parser, positive
from mmonepeace.console import printable, table

if TYPE_CHECKING:
    from mmonepeace.export import Graph

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
NOT_DYNAMIC = "none"


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="file, or work directory with one")
    parser.add_argument("out", metavar="OUT", type=Path, help="an .onnx or a .pt2")
    parser.add_argument("--to", required=True, choices=SUFFIXES)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--modality", choices=("image", "text", "audio"), help="of the encoder")
    kind.add_argument("--task", action="store_true", help="the fine-tuned model with its head")
    kind.add_argument("--config", metavar="CONFIG", help="recipe of the segmentor")
    help = "what may vary: batch,size (the default), batch, size or none"
    parser.add_argument("--dynamic", default="batch,size", metavar="WHAT", help=help)
    help = "pixels, of files without dynamic size, and of the speed; default: the model's own"
    parser.add_argument(
        "--image-size", nargs=2, type=positive, metavar=("HEIGHT", "WIDTH"), help=help
    )
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16", "int8"))
    help = "random inputs that are compared with PyTorch (5)"
    parser.add_argument("--verify", type=positive, default=5, metavar="N", help=help)
    parser.add_argument("--report", type=Path, metavar="JSON", help="write all measured values")
    args = parser.parse_args()
    if args.out.suffix != SUFFIXES[args.to]:
        parser.error(f"{args.out}: expected a file that ends with {SUFFIXES[args.to]}")
    args.dynamic = args.dynamic.split(",")
    if set(args.dynamic) - {"batch", "size"} and args.dynamic != [NOT_DYNAMIC]:
        parser.error(
            f"--dynamic {','.join(args.dynamic)}: expected batch,size, batch, size or none"
        )
    if args.dtype == "int8" and args.to != "onnx":
        parser.error("--dtype int8 is ONNX Runtime's: it needs --to onnx")
    if not (args.modality or args.task or args.config):
        args.modality = "image"
    return args


def build_graph(args: argparse.Namespace) -> Graph:
    """What the arguments name, on the CPU."""
    from mmonepeace.apis.loading import load_predictor, load_retriever

    size = tuple(args.image_size) if args.image_size else None
    path = Path(args.checkpoint)
    if args.config:
        return export.segmentor_graph(_load_segmentor(args.config, path), size)
    if args.task:
        return export.classifier_graph(load_predictor(path)[0], size)
    return export.encoder_graph(load_retriever(path, projections=True)[0], args.modality, size)


def _load_segmentor(config: str, path: Path) -> object:
    from mmengine.registry import init_default_scope

    from mmonepeace.apis.dense_prediction import load_dense_model

    cfg = checks.read_config(config)
    init_default_scope(cfg.default_scope)
    with checks.explain(cfg):
        return load_dense_model(cfg, checkpoint.find(path), "cpu")


def run(args: argparse.Namespace) -> None:
    """Export, measure, and print the table."""
    if args.to == "onnx":
        export.check_packages()
    graph = build_graph(args)
    dynamic = [
        name for name in graph.axes if ("batch" if name == "batch" else "size") in args.dynamic
    ]
    exact = graph.module
    if args.dtype == "fp16":
        graph.module = copy.deepcopy(exact).half()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.to == "onnx":
        export.export_onnx(graph, args.out, dynamic, quantise=args.dtype == "int8")
    else:
        export.export_torch(graph, args.out, dynamic)
    measured = export.measure(graph, exact, args.out, dynamic, args.verify)
    print(table(("", printable(str(args.out))), measured.rows()))
    if args.report:
        args.report.write_text(measured.to_json() + "\n")


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
