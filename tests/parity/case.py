"""A case of the parity set: what it stores, and what was found to differ."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]


class Case:
    """One folder of the parity set."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.folder = root, root / name
        self.manifest = json.loads((root / name / "case.json").read_text())
        self.inputs = self._group("inputs")
        self.outputs = self._group("outputs")
        self.config = self.manifest.get("config", {})
        tolerance = self.manifest["tolerance"]
        self.atol, self.rtol = tolerance.get("atol", 0.0), tolerance.get("rtol", 0.0)
        self.error = 0.0
        self.failures: list[str] = []

    def _group(self, name: str) -> Tensors:
        entries = self.manifest.get(name, {})
        return {k: load_file(self.root / e["file"])[e["key"]] for k, e in entries.items()}

    def weights(self, name: str = "weights") -> Tensors:
        """The state dict stored under `name`, with the reference key names."""
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
        """Record the error of one tensor, where it has a meaning."""
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

    def check_that(self, holds: bool, message: str) -> None:
        """Record a fact that is no tensor."""
        if not holds:
            self.failures.append(message)
