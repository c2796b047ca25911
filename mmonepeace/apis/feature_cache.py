"""From folders to an index: embed what is new, keep what is known, lose nothing on the way."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.index import EmbeddingIndex

# What the embedding of an item depends on, beside the item; keys of the index's `meta`.
SETTINGS = {
    "text": ("fingerprint", "dtype", "tokenizer_fingerprint"),
    "image": ("fingerprint", "dtype", "image_size", "keep_ratio", "fast_jpeg"),
    "audio": ("fingerprint", "dtype", "window_seconds", "hop_seconds"),
}
PART_SECONDS = 10.0  # of work, which is what a killed run loses
MAX_PART_BATCHES = 64

Item = dict[str, Any]


@dataclass
class Built:
    """What `build_index` did.

    Attributes:
        index: as it is saved now.
        embedded: number of items that went through the model.
        kept: number of items known from the old index or from an interrupted run.
        dropped: number of items of the old index that are wanted no longer.
        outdated: number of items of the old index that were made with other weights or settings.
        failed: path or text -> why it is not in the index.
    """

    index: EmbeddingIndex
    embedded: int
    kept: int
    dropped: int
    outdated: int
    failed: dict[str, str]


def settings(embedder: Embedder) -> dict[str, str]:
    """What embeddings depend on, beside the items, as metadata of an index."""
    reader = embedder.reader
    window, hop = reader.windows
    values = {
        "fingerprint": embedder.fingerprint,
        "dtype": str(embedder.model.logit_scale.dtype).removeprefix("torch."),
        "image_size": reader.image_size or "",
        "keep_ratio": int(reader.keep_ratio),
        "fast_jpeg": int(reader.fast_jpeg),
        "window_seconds": window,
        "hop_seconds": hop,
        "tokenizer_fingerprint": "",
    }
    if reader.tokenizer:
        with TemporaryDirectory() as folder:
            file = Path(folder, "tokenizer.json")
            reader.tokenizer.save(file)
            values["tokenizer_fingerprint"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return {name: str(value) for name, value in values.items()}


def build_index(
    embedder: Embedder,
    out: str | Path,
    sources: Mapping[str, Iterable[str | Path]],
    meta: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Built:
    """Bring an index to the state of its sources.

    Items that the file or an interrupted run already has are not embedded again: files of the same
    path, size and time of change, and texts, under the same weights and settings. Finished parts
    are kept in OUT.parts/ until the index is there, whole.

    Args:
        embedder: the model.
        out: the index. Paths are stored relative to its folder.
        sources: modality -> files or texts. This is all the index will hold; duplicates once.
        meta: more metadata, such as `checkpoint`.
        progress: called with the items done so far, and all that are to be embedded.

    Raises:
        ValueError: if `out` is another kind of file, or nothing could be embedded.
        OSError: if the index or a part cannot be written.
    """
    out = Path(out)
    folder, parts = out.resolve().parent, out.with_name(f"{out.name}.parts")
    meta = {**(meta or {}), **settings(embedder)}
    failed: dict[str, str] = {}
    wanted: dict[tuple, tuple[Item, str | Path]] = {}
    for modality, values in sources.items():
        for value in values:
            try:
                item = describe_item(modality, value, folder)
                wanted[_key(item)] = (item, value)
            except OSError as error:
                failed[str(value)] = f"{value}: {error.strerror}"
    old = EmbeddingIndex.load(out) if out.exists() else None
    reusable = _known(old, meta)
    rows = dict(reusable)
    for file in sorted(parts.glob("*.safetensors")):
        try:
            rows |= _known(EmbeddingIndex.load(file), meta)
        except ValueError as error:
            failed[str(file)] = str(error)
    rows = {key: row for key, row in rows.items() if key in wanted}
    kept = len(rows)
    todo = [entry for key, entry in wanted.items() if key not in rows]
    done = 0
    progress(done, len(todo))
    for modality in sources:
        entries = [entry for entry in todo if entry[0]["modality"] == modality]
        for chunk in in_parts(entries, embedder.batch_size):
            part = _embed(embedder, chunk, meta, failed)
            if part.items:
                part.save(parts / f"{time.time_ns()}.safetensors")
                rows |= _known(part, meta)
            done += len(chunk)
            progress(done, len(todo))
    if not rows:
        reasons = list(failed.values()) or ["there are no items."]
        raise ValueError(f"nothing could be embedded, {len(reasons)} failed; first: {reasons[0]}")
    items = [item for key, (item, _) in wanted.items() if key in rows]
    index = EmbeddingIndex(np.stack([rows[_key(i)] for i in items]), items, meta, folder)
    if old is None or (old.items, old.meta) != (items, meta):
        index.save(out)
    shutil.rmtree(parts, ignore_errors=True)
    names = {_name(item) for item, _ in wanted.values()}
    before = old.items if old else []
    dropped = sum(_name(item) not in names for item in before)
    outdated = len(before) - len(reusable)
    return Built(index, len(rows) - kept, kept, dropped, outdated, failed)


def in_parts(entries: list[Any], batch_size: int) -> Iterator[list[Any]]:
    """Cut work into parts that each take about `PART_SECONDS`, whole batches of entries at least.

    Args:
        entries: what is to be done.
        batch_size: of the model.
    """
    start, count = 0, batch_size
    while start < len(entries):
        began = time.monotonic()
        yield entries[start : start + count]
        start += count
        fitting = int(count * PART_SECONDS / (time.monotonic() - began))
        count = min(max(fitting, batch_size), MAX_PART_BATCHES * batch_size)


def embedder_of(
    index: EmbeddingIndex,
    checkpoint: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str | None = None,
) -> Embedder:
    """The model that made an index, for queries to it.

    Args:
        index: from `build_index`.
        checkpoint: where it is now; None takes the recorded place.
        tokenizer: None takes the recorded one, or `tokenizer.json` beside the checkpoint.
        device: see `Embedder.from_checkpoint`.

    Raises:
        ValueError: if the checkpoint is gone, or is another one.
    """
    meta = index.meta
    path = Path(checkpoint or meta.get("checkpoint", ""))
    if not path.is_file():
        raise ValueError(f"the index was made with {path}, which is gone. Name it: --checkpoint.")
    embedder = Embedder.from_checkpoint(
        path,
        device=device,
        dtype=meta["dtype"],
        tokenizer=tokenizer or meta.get("tokenizer"),
        image_size=int(meta["image_size"] or 0) or None,
        keep_ratio=meta["keep_ratio"] == "1",
        fast_jpeg=meta.get("fast_jpeg") == "1",
        window_seconds=float(meta["window_seconds"]),
        hop_seconds=float(meta["hop_seconds"]),
    )
    ours = settings(embedder)
    for name, option in (("fingerprint", "checkpoint"), ("tokenizer_fingerprint", "tokenizer")):
        if meta[name] and ours[name] and ours[name] != meta[name]:
            raise ValueError(
                f"the index was made with another {option} ({meta[name]}; that of {path} is "
                f"{ours[name]}). Name the right one with --{option}, or run tools/embed.py again."
            )
    return embedder


def describe_item(modality: str, value: str | Path, folder: Path) -> Item:
    """What stands in the index, and tells whether it is still the same."""
    if modality == "text":
        return {"modality": modality, "text": str(value)}
    # Links among the files keep their names; links above them would break `..`.
    path = Path(value).parent.resolve() / Path(value).name
    stat = path.stat()
    try:
        shown = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        shown = path.as_posix()
    return {"modality": modality, "path": shown, "size": stat.st_size, "mtime": stat.st_mtime_ns}


def _key(item: Item) -> tuple:
    return tuple(item.items())


def _name(item: Item) -> tuple[str, str]:
    return item["modality"], item.get("text") or item.get("path", "")


def _known(index: EmbeddingIndex | None, meta: Mapping[str, str]) -> dict[tuple, np.ndarray]:
    """The rows of an index that are as this run would make them."""
    if index is None:
        return {}
    fits = {m: all(index.meta.get(n) == meta[n] for n in names) for m, names in SETTINGS.items()}
    pairs = zip(index.items, index.embeddings, strict=True)
    return {_key(item): row for item, row in pairs if fits[item["modality"]]}


def _embed(
    embedder: Embedder,
    entries: list[tuple[Item, str | Path]],
    meta: dict[str, str],
    failed: dict[str, str],
) -> EmbeddingIndex:
    """Embed entries of one modality; what cannot be read goes to `failed`."""
    errors: dict[int, str] = {}
    encode = getattr(embedder, f"encode_{entries[0][0]['modality']}")
    embeddings = np.asarray(encode([value for _, value in entries], errors))
    for i in np.flatnonzero(~np.isfinite(embeddings).all(1)):
        fix = "its embedding is not finite. Use --dtype bf16 or fp32."
        failed[str(entries[i][1])] = errors.get(int(i), f"{entries[i][1]}: {fix}")
    good = np.flatnonzero(np.isfinite(embeddings).all(1))
    return EmbeddingIndex(embeddings[good], [entries[i][0] for i in good], meta)
