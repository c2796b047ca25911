"""A parity case: what it stores, and which differences were found."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]


class Case:
    """One folder of a parity set.

    Attributes:
        manifest: contents of `case.json`.
        config: the options of the reference model.
        inputs: stored inputs.
        outputs: what the reference computed from them.
        error: largest absolute difference so far.
        comparisons: number of comparisons so far.
        failures: messages of the comparisons that failed.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.folder = root, root / name
        self.manifest = json.loads((root / name / "case.json").read_text())
        self.inputs = self.tensors("inputs")
        self.outputs = self.tensors("outputs")
        self.config = self.manifest.get("config", {})
        self.tolerance = self.manifest["tolerance"]
        self.atol, self.rtol = self.tolerance.get("atol", 0.0), self.tolerance.get("rtol", 0.0)
        self.error = 0.0
        self.comparisons = 0
        self.failures: list[str] = []

    def tensors(self, name: str) -> Tensors:
        """The tensors that the manifest lists under `name`; none where it has no such entry."""
        entries = self.manifest.get(name, {})
        return {k: load_file(self.root / e["file"])[e["key"]] for k, e in entries.items()}

    def weights(self, name: str = "weights") -> Tensors:
        """The state dict stored under `name`, with the key names of the reference."""
        merged: Tensors = {}
        for part in self.manifest[name]["parts"]:
            tensors = load_file(self.root / part["file"])
            names = part["keys"] or {key: key for key in tensors}
            merged.update({new: tensors[old] for new, old in names.items()})
        return merged

    def compare(
        self,
        name: str,
        actual: Tensor,
        expected: Tensor,
        atol: float | None = None,
        where: Tensor | None = None,
    ) -> None:
        """Record the error of one tensor.

        Args:
            name: of the tensor, for messages.
            actual: ours.
            expected: that of the reference.
            atol: absolute tolerance; by default that of the case.
            where: bool mask over the leading dimensions; other positions are not compared.
        """
        self.comparisons += 1
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(actual.shape)} != {tuple(expected.shape)}")
            return
        if where is not None:
            actual, expected = actual[where], expected[where]
        difference = (actual.double() - expected.double()).abs()
        allowed = (self.atol if atol is None else atol) + self.rtol * expected.double().abs()
        self.error = max(self.error, difference.max().item() if difference.numel() else 0.0)
        # `not <=` rather than `>`: a NaN fails.
        if not bool((difference <= allowed).all()):
            self.failures.append(f"{name}: off by {difference.max():.3g}")

    def compare_outputs(
        self, actual: Mapping[str, Tensor], where: Mapping[str, Tensor | None] | None = None
    ) -> None:
        """Compare the outputs that the case has, which may be fewer than ours.

        Args:
            actual: our outputs by name.
            where: see `compare`, by name.
        """
        for name, expected in self.outputs.items():
            if name in actual:
                self.compare(name, actual[name], expected, where=(where or {}).get(name))
            else:
                self.check_that(False, f"{name}: the rule does not compute this output")

    def check_that(self, holds: bool, message: str) -> None:
        """Record a fact that is not a tensor."""
        self.comparisons += 1
        if not holds:
            self.failures.append(message)
