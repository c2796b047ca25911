"""An index brought to the state of files and texts, by one process or several.

Finished work is in OUT.parts/ until the index is complete: shards, and of several processes also the
items that could not be read, failed-*.json, and who is at work, see `work_sharing`.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.feature_cache import (
    SETTINGS,
    Block,
    FeatureCache,
    embedder_settings,
    into_blocks,
)
from mmonepeace.apis.index import EmbeddingIndex, save_index
from mmonepeace.apis.item_list import MODALITIES, ItemList, name_of
from mmonepeace.apis.tensor_file import Rows, as_tensor
from mmonepeace.apis.vector_search import CHUNK
from mmonepeace.apis.work_sharing import Others, at_work
from mmonepeace.atomic_file import atomic_file
from mmonepeace.datasets.feature_shards import Shard, item_keys

INDEX_DTYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
}
POLL_SECONDS = 1.0
Progress = Callable[[int, int], None]


@dataclass
class Built:
    """What `build_index` did, in numbers of items."""

    index: EmbeddingIndex  # as it is saved now
    embedded: int  # went through the model
    kept: int  # known from the old index or from an interrupted run
    dropped: int  # of the old index, but no longer in the sources
    outdated: int  # of the old index, but made with other weights or settings
    failed: dict[str, str]  # path or text -> why it is not in the index


def build_index(
    embedder: Embedder,
    out: str | Path,
    sources: Mapping[str, Iterable[str | Path]],
    meta: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
    index_dtype: str | None = None,
    processes: int = 1,
) -> Built:
    """Bring an index to the state of its sources.

    Items that the file or an interrupted run already has are not embedded again: files of the same
    path, size and modification time, and texts, under the same weights and settings. Finished
    shards are kept in OUT.parts/ until the index is complete.

    Args:
        embedder: the model.
        out: the index. Paths are stored relative to its folder.
        sources: modality -> files or texts. This is all the index will hold; duplicates once.
        meta: more metadata, such as `checkpoint`.
        progress: called with the number of items done so far, and of all that are to be embedded.
        index_dtype: of the stored embeddings, "fp32" or "fp16"; None is that of an existing index,
            or fp32.
        processes: that share the work: this is the first, the others call `build_part`. The index
            is the same to the bit for any number of them, with equal devices and threads.

    Raises:
        ValueError: if `out` is another kind of file, nothing could be embedded, or another process
            has not done its part.
        OSError: if the index or a shard cannot be written.
    """
    build = _Build(embedder, Path(out), sources, meta, index_dtype)
    build.embed(progress, 0, processes)
    if processes > 1:
        build.wait(progress, processes)
    return build.join()


def build_part(
    embedder: Embedder,
    out: str | Path,
    sources: Mapping[str, Iterable[str | Path]],
    meta: Mapping[str, str] | None = None,
    index_dtype: str | None = None,
    *,
    rank: int,
    processes: int,
) -> None:
    """Embed the part of process `rank` of several; see `build_index`, which the first one calls."""
    out = Path(out)
    with at_work(_parts(out), rank):
        build = _Build(embedder, out, sources, meta, index_dtype)
        build.embed(lambda done, total: None, rank, processes)
        build.note_failed(rank)


class _Build:
    """The work on one index."""

    def __init__(
        self,
        embedder: Embedder,
        out: Path,
        sources: Mapping[str, Iterable[str | Path]],
        meta: Mapping[str, str] | None,
        index_dtype: str | None,
    ) -> None:
        self.embedder, self.out, self.parts = embedder, out, _parts(out)
        self.folder = out.resolve().parent
        self.meta = {**(meta or {}), **embedder_settings(embedder)}
        self.failed: dict[str, str] = {}
        self.wanted: dict[str, dict[str, str]] = {}  # modality -> key -> path or text
        for modality, values in sources.items():
            keys = item_keys(modality, values, self.folder, self.failed)
            self.wanted[modality] = {key: value for value, key in keys.items()}
        self.old = EmbeddingIndex.load(out) if out.exists() else None
        self.dtype = self._dtype(index_dtype)
        reusable = _reusable(self.old, self.meta, self.dtype) if self.old else []
        self.reusable = {key for keys, _, _ in reusable for key in keys}
        # The same for all processes, whenever they start and whatever the others have done.
        self.blocks = {
            modality: into_blocks([x for x in items.items() if x[0] not in self.reusable], embedder)
            for modality, items in self.wanted.items()
        }
        self.cache = FeatureCache(self.parts, self._read, self._write, self.failed)
        for shard in reusable:
            self.cache.add(shard)
        self.tried: dict[str, str] = {}  # key -> why a process could not read it
        self._read_failed()
        self.kept = sum(key in self.cache for key in self._keys())

    def embed(self, progress: Progress, rank: int, processes: int) -> None:
        """Embed the share of one process."""
        share = {
            m: map(self._unknown, blocks[rank::processes]) for m, blocks in self.blocks.items()
        }
        todo = {
            modality: [block for block in blocks if block] for modality, blocks in share.items()
        }
        done, total = 0, sum(len(block) for blocks in todo.values() for block in blocks)
        progress(done, total)
        for modality, blocks in todo.items():
            for count in self.cache.compute(
                self.embedder, modality, "embedding", blocks, self.failed
            ):
                done += count
                progress(done, total)

    def wait(self, progress: Progress, processes: int) -> None:
        """Wait until the other processes have done theirs; a ValueError says if they will not."""
        others = Others(self.parts, processes)
        total = sum(map(len, self.wanted.values()))
        theirs = [
            (rank, item)
            for blocks in self.blocks.values()
            for rank in range(1, processes)
            for block in blocks[rank::processes]
            for item in block
        ]
        while True:
            working, lost = others.look()  # before their results: those are all there then
            self.cache.refresh()
            self._read_failed()
            theirs = [(rank, item) for rank, item in theirs if self._unknown([item])]
            lacking = Counter(rank for rank, _ in theirs)
            progress(total - len(theirs), total)
            if not lacking and not working:
                return
            if missing := [rank for rank in lacking if rank in lost]:
                said = "; ".join(
                    f"process {rank} lacks {lacking[rank]:,} items ({lost[rank]})"
                    for rank in missing
                )
                raise ValueError(
                    f"{len(missing)} of {processes} processes have not done their part: {said}. "
                    f"What is done is in {self.parts}: the same command resumes."
                )
            time.sleep(POLL_SECONDS)

    def note_failed(self, rank: int) -> None:
        """Tell the first process what could not be read."""
        reasons = {
            key: self.failed[value]
            for items in self.wanted.values()
            for key, value in items.items()
            if value in self.failed
        }
        if reasons:
            file = self.parts / f"failed-{rank}-{time.time_ns()}.json"
            with atomic_file(file, concurrent=True) as temporary:
                temporary.write_text(json.dumps(reasons))

    def join(self) -> Built:
        """Write the index, of what is known."""
        old, keys = self.old, [key for key in self._keys() if key in self.cache]
        values = {key: value for items in self.wanted.values() for key, value in items.items()}
        failed = self.failed | {
            values[key]: why for key, why in self.tried.items() if key in values
        }
        if not keys:
            reasons = [*failed.values()] or ["there are no items."]
            raise ValueError(
                f"nothing could be embedded, {len(reasons)} failed; first: {reasons[0]}"
            )
        old_keys = [*old.items.keys()] if old else []
        outdated = len(old_keys) - len(self.reusable)
        same = old is not None and (old.meta, old.embeddings.dtype) == (self.meta, self.dtype)
        if not same or outdated or old_keys != keys:
            self._save(keys)
        shutil.rmtree(self.parts, ignore_errors=True)
        gone = [name_of(json.loads(key)) for key in old_keys if key not in values]
        names = {name_of(json.loads(key)) for key in values} if gone else set()
        dropped = sum(name not in names for name in gone)
        index, embedded = EmbeddingIndex.load(self.out), len(keys) - self.kept
        return Built(index, embedded, self.kept, dropped, outdated, failed)

    def _save(self, keys: list[str]) -> None:
        features = self.cache.take(keys)

        def chunks() -> Iterator[np.ndarray]:
            for rows in torch.arange(len(keys)).split(CHUNK):
                yield features.take(rows).vectors().numpy().astype(self.dtype)

        counts = [sum(key in self.cache for key in items) for items in self.wanted.values()]
        codes = np.array([MODALITIES.index(m) for m in self.wanted], np.uint8)
        rows = Rows((len(keys), features.embed_dim), self.dtype, chunks())
        save_index(self.out, rows, ItemList.of_keys(keys, np.repeat(codes, counts)), self.meta)

    def _keys(self) -> Iterator[str]:
        return (key for items in self.wanted.values() for key in items)

    def _unknown(self, block: Block) -> Block:
        return [x for x in block if x[0] not in self.cache and x[0] not in self.tried]

    def _dtype(self, name: str | None) -> np.dtype[Any]:
        if name is None:
            return np.dtype(self.old.embeddings.dtype) if self.old else INDEX_DTYPES["fp32"]
        if name not in INDEX_DTYPES:
            raise ValueError(f"index_dtype is {name!r}; choose one of {', '.join(INDEX_DTYPES)}.")
        return INDEX_DTYPES[name]

    def _read(self, file: Path) -> Shard:
        index = EmbeddingIndex.load(file)
        shards = [shard for shard in _reusable(index, self.meta, self.dtype) if shard[0]]
        if not shards:
            return [], torch.empty(0, 0), np.empty(0, int)
        [(keys, _, lengths)] = shards  # a file of parts is of one modality
        with safe_open(str(file), "pt") as mapped:  # without an open file for each of many shards
            return keys, mapped.get_tensor("embeddings"), lengths

    def _write(self, file: Path, shard: Shard) -> None:
        keys, embeddings, _ = shard
        items = map(json.loads, keys)
        EmbeddingIndex(embeddings.numpy().astype(self.dtype), items, self.meta).save(file)

    def _read_failed(self) -> None:
        for file in self.parts.glob("failed-*.json"):
            self.tried |= json.loads(file.read_text())


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _reusable(index: EmbeddingIndex, meta: Mapping[str, str], dtype: np.dtype[Any]) -> list[Shard]:
    """The items of each modality of an index that has the same settings in `meta`, as precise."""
    shards: list[Shard] = []
    for modality, names in SETTINGS.items():
        fits = all(index.meta.get(name, "") == meta[name] for name in names)
        if not fits or index.embeddings.dtype.itemsize < dtype.itemsize:
            continue
        part = index.select(modality)
        lengths = np.ones(len(part.items), int)
        shards.append(([*part.items.keys()], as_tensor(part.embeddings), lengths))
    return shards
