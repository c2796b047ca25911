"""Embedders behind the interfaces of sentence-transformers and of mteb, neither of which is imported.

Seen: sentence-transformers 6.2.0, mteb 2.26.24.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmonepeace.apis.embedder import Embedder
from mmonepeace.datasets.file_folders import SUFFIXES
from mmonepeace.spec import MAX_TEXT_TOKENS


class SentenceTransformerModule(nn.Module):
    """The one module of a `SentenceTransformer`: `SentenceTransformer(modules=[module])`.

    It encodes texts, images (Pillow's, arrays and tensors of three dimensions, paths of files),
    audio clips (`{"array": ..., "sampling_rate": ...}`, paths of files) and dictionaries from modality
    to one of these, whose embeddings are combined. It gives no gradient: it is not for training.

    Args:
        embedder: its model becomes a submodule, which the library moves to its device.
    """

    max_seq_length = MAX_TEXT_TOKENS

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder, self.model = embedder, embedder.model

    @property
    def modalities(self) -> list[str]:
        """What it takes."""
        return list(self.embedder.model.backbone.adapters)

    @property
    def tokenizer(self) -> Any:
        """Of texts; None without."""
        return self.embedder.reader.tokenizer

    def get_embedding_dimension(self) -> int:
        """Width of embeddings."""
        return self.embedder.model.backbone.arch.embed_dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """What `forward` takes, of a batch; a prompt is put in front of texts.

        Files are decoded in `forward`. A ValueError says if an input is of no modality.
        """
        rows = [_row(item) for item in inputs]
        if prompt:
            rows = [row | {"text": prompt + row["text"]} if "text" in row else row for row in rows]
        return {"rows": rows}

    tokenize = preprocess  # of sentence-transformers before 5.2

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, (B, D) float32 of unit length, on the device of the model."""
        device = next(self.model.parameters()).device
        return {**features, "sentence_embedding": embed(self.embedder, features["rows"]).to(device)}

    def save(self, output_path: str, **_: Any) -> None:
        """Write the folder of the embedder, see `Embedder.save_pretrained`."""
        self.embedder.save_pretrained(output_path)

    @classmethod
    def load(cls, input_path: str) -> SentenceTransformerModule:
        """Read a folder that `save` wrote."""
        return cls(Embedder.from_pretrained(input_path))


class MtebEncoder:
    """An encoder of mteb: `mteb.evaluate(MtebEncoder(embedder), tasks)`.

    Samples of several modalities get the sum of their embeddings, scaled to unit length. There are no
    prompts: the model was trained without.

    Args:
        model: an embedder, or what `Embedder.from_pretrained` takes.
        revision: of a repository of the hub.
        device: see `Embedder.from_pretrained`.
        options: the same, of a name.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, Embedder):
            self.embedder = model
        else:
            name = f"{model}@{revision}" if revision else model
            self.embedder = Embedder.from_pretrained(name, device, **options)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb chooses tasks by; it needs mteb."""
        from mteb.models import ModelMeta

        facts = {
            "embed_dim": self.embedder.model.backbone.arch.embed_dim,
            "max_tokens": MAX_TEXT_TOKENS,
            "modalities": list(self.embedder.model.backbone.adapters),
            "similarity_fn_name": "cosine",
            "framework": ["PyTorch"],
        }
        return ModelMeta.create_empty(facts)

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, batch_size: int | None = None, **_: Any
    ) -> np.ndarray:
        """(N, D) float32 of unit length, of batches that map modalities to lists of N items.

        The batch size is that of the embedder; facts of the task change nothing.

        Raises:
            ValueError: if a batch has no modality that the model has.
        """
        known = tuple(self.embedder.model.backbone.adapters)
        results = []
        for batch in inputs:
            columns = {name: batch[name] for name in known if name in batch}
            if not columns:
                raise ValueError(
                    f"a batch has {', '.join(batch)}; the model has {', '.join(known)}."
                )
            rows = [
                {name: _item(name, value) for name, value in zip(columns, row, strict=True)}
                for row in zip(*columns.values(), strict=True)
            ]
            results.append(embed(self.embedder, rows))
        width = self.embedder.model.backbone.arch.embed_dim
        return torch.cat([torch.zeros(0, width), *results]).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N, M) cosines of (N, D) and (M, D); a single (D,) counts as one row."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N,) cosines of (N, D) and (N, D)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


def embed(embedder: Embedder, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """(N, D) float32 of unit length, of items modality -> value: the sum over their modalities."""
    places, items = defaultdict(list), defaultdict(list)
    for i, row in enumerate(rows):
        for name, value in row.items():
            places[name].append(i)
            items[name].append(value)
    total = torch.zeros(len(rows), embedder.model.backbone.arch.embed_dim)
    for name, values in items.items():
        total.index_add_(
            0, torch.tensor(places[name]), torch.as_tensor(embedder.encode(name, values))
        )
    return F.normalize(total, dim=1)


def _row(item: Any) -> dict[str, Any]:
    """An input of sentence-transformers: modality -> what an embedder takes."""
    if isinstance(item, Mapping) and "array" not in item:
        if item and set(item) <= set(SUFFIXES) | {"text"}:
            return {name: _item(name, value) for name, value in item.items()}
        raise ValueError(
            f"an input has {', '.join(map(str, item))}; expected text, image, audio or video."
        )
    name = _modality(item)
    return {name: _item(name, item)}


def _modality(item: Any) -> str:
    if isinstance(item, str | Path):
        suffix = Path(item).suffix.lower()
        named = (name for name, known in SUFFIXES.items() if suffix in known)
        # A text may end like the name of a file.
        return next(named, "text") if suffix and Path(item).is_file() else "text"
    if isinstance(item, Mapping):
        return "audio"
    if isinstance(item, Image.Image) or getattr(item, "ndim", 0) == 3:
        return "image"
    raise ValueError(
        f"an input is {type(item).__name__}; expected a string, an image, or audio as "
        "{'array': ..., 'sampling_rate': ...}."
    )


def _item(name: str, value: Any) -> Any:
    """A value as an embedder takes it: audio is a pair of samples, channels last, and their rate."""
    if name != "audio" or not isinstance(value, Mapping):
        return value
    samples = np.asarray(value["array"])
    return samples.T if samples.ndim == 2 else samples, int(value["sampling_rate"])


def _unit(embeddings: Any) -> Tensor:
    rows = torch.as_tensor(embeddings).float()
    return F.normalize(rows if rows.ndim > 1 else rows[None], dim=-1)
