"""How well an exported file does: differences from PyTorch, speed and size."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmonepeace.export.exporting import META
from mmonepeace.export.graphs import Graph, weight_bytes

_ROUNDS = 5

Run = Callable[[Sequence[Tensor]], Tensor]


@dataclass
class Measured:
    """What `measure` finds.

    Attributes:
        checks: inputs that were compared.
        largest_difference: from PyTorch in float32, of any output.
        largest_output: for comparison.
        lowest_cosine: between the outputs of any sample.
        seconds: of a batch of the traced size.
        eager_seconds: of PyTorch for the same.
        bytes: of the file.
        eager_bytes: of PyTorch's weights.
        ranges: lengths of the dynamic axes, as the file has them.
        sizes: lengths of all checks.
        left_out: of the model.
    """

    checks: int
    largest_difference: float
    largest_output: float
    lowest_cosine: float
    seconds: float
    eager_seconds: float
    bytes: int
    eager_bytes: int
    ranges: dict[str, dict[str, int]]
    sizes: list[dict[str, int]]
    left_out: list[str]

    def rows(self) -> list[tuple[str, str]]:
        """A table for people."""
        megabytes, eager = (n / 1e6 for n in (self.bytes, self.eager_bytes))
        ranges = [
            f"{name} {r['min']} to {r['max']}"
            + (f" in multiples of {r['multiple_of']}" if r["multiple_of"] > 1 else "")
            for name, r in self.ranges.items()
        ]
        return [
            ("lengths", "; ".join(ranges) or "fixed"),
            ("inputs compared", str(self.checks)),
            ("largest difference", f"{self.largest_difference:.2g} of {self.largest_output:.2g}"),
            ("lowest cosine", f"{self.lowest_cosine:.7f}"),
            ("time", f"{self.seconds:.4f} s, PyTorch {self.eager_seconds:.4f} s"),
            ("speed", f"{self.eager_seconds / self.seconds:.2f} times PyTorch's"),
            ("file", f"{megabytes:.1f} MB, {megabytes / eager:.2f} times PyTorch's weights"),
            ("left out", ", ".join(self.left_out) or "nothing"),
        ]

    def to_json(self) -> str:
        """All values."""
        return json.dumps(asdict(self), indent=1)


def measure(
    graph: Graph, module: nn.Module, path: Path, dynamic: Sequence[str], checks: int, seed: int = 0
) -> Measured:
    """Run a file next to PyTorch.

    Args:
        graph: that was exported.
        module: its module in float32.
        path: the file, .pt2 or .onnx.
        dynamic: its dynamic axes.
        checks: random inputs to compare: the first of the shortest lengths, the second of the traced ones.
        seed: of them.
    """
    run, ranges = (_onnx_runner if path.suffix == ".onnx" else _torch_runner)(path)
    generator = torch.Generator().manual_seed(seed)
    sizes, differences, outputs, cosines = [], [0.0], [0.0], [1.0]
    for turn in range(checks):
        lengths = graph.lengths()
        if turn != 1:
            for name in dynamic:
                axis = graph.axes[name]
                lengths[name] = axis.draw(generator) if turn else axis.low
        inputs = graph.draw(lengths, generator)
        expected, got = _eager(module, inputs), run(inputs)
        sizes.append(lengths)
        differences.append((expected - got).abs().max().item())
        outputs.append(expected.abs().max().item())
        a, b = (x.double().flatten(1) for x in (expected, got))
        cosines.append(torch.cosine_similarity(a, b).min().item())
    inputs = graph.draw(graph.lengths(), generator)
    times = {"file": [0.0], "eager": [0.0]}
    for _ in range(_ROUNDS):
        times["file"].append(_seconds(lambda: run(inputs)))
        times["eager"].append(_seconds(lambda: _eager(module, inputs)))
    seconds, eager = (statistics.median(each[2:]) for each in times.values())
    # NaN, which no comparison finds, is the largest difference.
    return Measured(
        checks, float(np.max(differences)), max(outputs), float(np.min(cosines)), seconds, eager,
        path.stat().st_size, weight_bytes(module), ranges, sizes, graph.left_out,
    )  # fmt: skip


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def _eager(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    return module(*inputs)


def _onnx_runner(path: Path) -> tuple[Run, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    meta = json.loads(session.get_modelmeta().custom_metadata_map[META])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        arrays = [x.numpy() for x in inputs]
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run, meta["axes"]


def _torch_runner(path: Path) -> tuple[Run, dict[str, Any]]:
    files = {f"{META}.json": ""}
    module = torch.export.load(path, extra_files=files).module()

    @torch.inference_mode()
    def run(inputs: Sequence[Tensor]) -> Tensor:
        return module(*inputs)

    return run, json.loads(files[f"{META}.json"])["axes"]
