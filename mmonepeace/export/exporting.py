"""The files: torch.export's program (.pt2) and ONNX."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmonepeace.atomic_file import atomic_file
from mmonepeace.export.graphs import Graph, weight_bytes

META = "mmonepeace"  # key of `Graph.metadata` in ONNX; with .json a file in a .pt2
_LARGEST = 1_900_000_000  # bytes of weights in one ONNX file, which protobuf limits to 2 GiB
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Raise a ValueError if ONNX files cannot be written or run here."""
    missing = [name for name in _ONNX_PACKAGES if not find_spec(name)]
    if missing:
        raise ValueError(
            f"--to onnx needs {' and '.join(missing)}, missing here: pip install -e .[export]."
        )


def export_torch(graph: Graph, path: Path, dynamic: Sequence[str] = ()) -> None:
    """Write a .pt2, which `torch.export.load(path).module()` runs.

    Args:
        graph: what is exported.
        path: of the file.
        dynamic: axes of any length in their range.
    """
    program = trace(graph, dynamic)
    files = {f"{META}.json": graph.metadata(dynamic)}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files=files)


def export_onnx(
    graph: Graph, path: Path, dynamic: Sequence[str] = (), quantise: bool = False
) -> None:
    """Write an ONNX file, with its ranges in the metadata: an ONNX graph does not check them.

    Args:
        graph: what is exported.
        path: of the file.
        dynamic: axes of any length in their range.
        quantise: linear layers in int8, by ONNX Runtime's dynamic quantisation.
    """
    program = trace(graph, dynamic)
    names = [each.name for each in graph.inputs]
    with _quietly(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        converted: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names, output_names=[graph.output]
        )
    converted.model.metadata_props[META] = graph.metadata(dynamic)
    _name_axes(converted.model, graph, dynamic)
    if weight_bytes(graph.module) > _LARGEST and not quantise:
        converted.save(str(path), external_data=True)  # its weights beside it, in OUT.data
        return
    with atomic_file(path) as temporary:
        converted.save(str(temporary), external_data=False)
        if quantise:
            _quantise(temporary)


def trace(graph: Graph, dynamic: Sequence[str]) -> ExportedProgram:
    """The program of a graph. A length that the exporter would burn in is an error."""
    batch = {"batch"} & set(dynamic)
    base = {
        name: Dim(name if axis.step == 1 else f"{name}_{axis.step}",
                  min=axis.low // axis.step, max=axis.high // axis.step)
        for name, axis in graph.axes.items() if name in dynamic
    }  # fmt: skip
    for name in base:
        if name not in batch:
            graph.axes[name].check(name, graph.axes[name].length)

    def dim(name: str, times: int) -> Any:
        times *= graph.axes[name].step
        return base[name] if times == 1 else times * base[name]

    shapes = tuple(
        {i: dim(*n) for i, n in enumerate(each.shape) if not isinstance(n, int) and n[0] in base}
        for each in graph.inputs
    )
    inputs = graph.draw(graph.lengths(), torch.Generator().manual_seed(0))
    # The layout of what flash attention returns, a graph without it would not have.
    with _quietly(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        nested: Any = shapes if _is_fixed(graph) else (shapes,)
        return torch.export.export(
            graph.module, inputs, dynamic_shapes=nested, strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )  # fmt: skip


def _is_fixed(graph: Graph) -> bool:
    """Whether the module names its inputs; otherwise they are *inputs."""
    code: Any = type(graph.module).forward.__code__
    return not code.co_flags & 0x04


def _name_axes(model: Any, graph: Graph, dynamic: Sequence[str]) -> None:
    """Give dimensions of inputs their names, in place of the symbols of the exporter."""
    names: dict[str, str] = {}
    for value, each in zip(model.graph.inputs, graph.inputs, strict=True):
        for i, n in enumerate(each.shape):
            if not isinstance(n, int) and n[0] in dynamic:
                new = n[0] if n[1] == 1 else f"{n[1]}*{n[0]}"
                names[str(value.shape[i])] = new
                value.shape[i] = new
    for value in model.graph.outputs:
        for i, symbol in enumerate(value.shape):
            if str(symbol) in names:
                value.shape[i] = names[str(symbol)]


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quietly():
        quantize_dynamic(
            path, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters warn of in passing; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
