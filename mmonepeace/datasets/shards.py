"""Data sets in tar files of the WebDataset layout: read sequentially, shuffled in memory."""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info
from torch.utils.data import IterableDataset, get_worker_info

from mmonepeace.datasets import shard_io
from mmonepeace.datasets.broken_samples import BrokenSamples
from mmonepeace.datasets.manifest import MODALITIES
from mmonepeace.datasets.sample_errors import CaptionError, MissingError, SampleError
from mmonepeace.datasets.shard_io import MEMBER_SUFFIXES, Members
from mmonepeace.registry import DATASETS

Contents = Members | SampleError  # what a shard has of a sample, or why it has none
# Modality -> key of its content in a record.
CONTENT_KEYS = {"image": "img", "text": "text", "audio": "audio"}


@DATASETS.register_module()
class ShardDataset(IterableDataset[dict[str, Any]]):
    """An endless stream of samples from shards; each process reads its own part of an epoch.

    Each epoch has the shards in a new order and divides their sequence of samples into runs of
    equal length, one for each stream of all processes; the remainder, less than one sample per
    stream and different in each epoch, is left out. A stream shuffles within a buffer. The batches
    of a process come from its streams in turn, so that neither their order nor their content
    depends on the number of workers. Every process always has a next batch.

    A broken sample is replaced by the one that its stream would give a batch later. A record has a
    `seed` as in `PairDataset`. In a config, the data loader has `sampler=None`.

    Args:
        shards: a folder, or paths with braces (`train-{000..012}.tar`) or wildcards, one or more.
        modalities: of a sample; the suffix of a member gives its modality, see `MEMBER_SUFFIXES`.
        batch_size: that of the data loader.
        pipeline: transforms; they get images and audio as the bytes of a file.
        text_key: read texts from this key of a .json member, instead of from .txt.
        data_root: folder that `shards` are relative to.
        streams: shards that each process reads at a time, a multiple of the number of workers.
        buffer_size: encoded samples that each stream keeps in memory.
        seed: of all orders, and of everything random in a sample.
        max_broken: fraction of broken samples above which the run ends, see `BrokenSamples`.

    Raises:
        FileNotFoundError: if there are no shards.
        ValueError: if a modality is unknown, or there are fewer samples than streams.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        modalities: Sequence[str],
        batch_size: int,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        text_key: str | None = None,
        data_root: str = "",
        streams: int = 4,
        buffer_size: int = 1000,
        seed: int = 0,
        max_broken: float = 0.05,
    ) -> None:
        unknown = set(modalities) - set(MODALITIES)
        if unknown or not modalities:
            raise ValueError(f"modalities are {tuple(modalities)}; choose from {MODALITIES}.")
        sizes = {"batch_size": batch_size, "streams": streams, "buffer_size": buffer_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1.")
        self.metainfo: dict[str, Any] = {}  # MMEngine's loops read it
        self.modalities = tuple(modalities)
        self.batch_size = batch_size
        self.pipeline = Compose(pipeline)
        self.text_key = text_key
        self.streams = streams
        self.buffer_size = buffer_size
        self.seed = seed
        self.start = 0
        # Here, because a worker may not have the process group.
        self.rank, self.world_size = get_dist_info()
        self.shards = shard_io.find_shards(shards, data_root)
        self.counts = np.array(shard_io.count_samples(self.shards))
        self.ends = np.cumsum(self.counts)  # of the shards, among the samples of all
        self.total = int(self.ends[-1])
        self.stream_size = self.total // (streams * self.world_size)
        if not self.stream_size:
            raise ValueError(
                f"{self.total} samples are too few for {streams} streams in each of "
                f"{self.world_size} processes. Lower streams."
            )
        self.broken = BrokenSamples(self.total, max_broken)

    def skip(self, num_samples: int) -> None:
        """Start after this many samples of this process, to resume; call it before iterating.

        The rest is exactly that of the interrupted run if `streams`, `batch_size`, `seed`, the
        shards and the number of processes are the same.

        Raises:
            ValueError: if the number is not a multiple of the batch size.
        """
        if num_samples < 0 or num_samples % self.batch_size:
            fault = f"{num_samples} samples are not a multiple of the batch size {self.batch_size}"
            raise ValueError(f"{fault}: cannot resume.")
        self.start = num_samples // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if self.streams % workers:
            raise ValueError(
                f"{self.streams} streams cannot be divided among {workers} workers. Set streams of "
                "ShardDataset to a multiple of num_workers."
            )
        streams: dict[int, Iterator[Any]] = {}
        for batch in itertools.count(self.start + worker, workers):
            stream = batch % self.streams
            if stream not in streams:
                streams[stream] = self._stream(stream, batch // self.streams * self.batch_size)
            yield from itertools.islice(streams[stream], self.batch_size)

    def _stream(self, stream: int, skip: int) -> Iterator[Any]:
        """Prepared samples of a stream after the first `skip`."""
        raw = self._shuffled(stream, skip)
        ahead: deque[tuple[int, int, Contents]] = deque()
        while True:
            for later in itertools.count(0, self.batch_size):
                while len(ahead) <= later:
                    ahead.append(next(raw))
                sample = self._prepare(*ahead[later])
                if sample is not None:
                    break
            ahead.popleft()
            yield sample

    def _shuffled(self, stream: int, skip: int) -> Iterator[tuple[int, int, Contents]]:
        """(epoch, index, members) of a stream after the first `skip`, shuffled."""
        first_epoch, skip = divmod(skip, self.stream_size)
        for epoch in itertools.count(first_epoch):
            indices = self._indices(stream, epoch)
            rng = np.random.default_rng((self.seed, epoch, self._global_stream(stream) + 1))
            order = shuffle_in_buffer(len(indices), self.buffer_size, rng)[skip:]
            wanted = np.zeros(len(indices), dtype=bool)
            wanted[order] = True
            read = self._read(indices, wanted)
            buffer: dict[int, Contents] = {}
            for position in map(int, order):
                while position not in buffer:
                    other, members = next(read)
                    buffer[other] = members
                yield epoch, int(indices[position]), buffer.pop(position)
            skip = 0

    def _indices(self, stream: int, epoch: int) -> np.ndarray:
        """Indices of the samples of a stream in an epoch, in the order of the shards."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.counts))
        ends = np.cumsum(self.counts[order])  # of the shards in this order
        first = rng.integers(self.total) + self._global_stream(stream) * self.stream_size
        positions = (first + np.arange(self.stream_size)) % self.total
        shard = np.searchsorted(ends, positions, side="right")
        return self.ends[order[shard]] - (ends[shard] - positions)

    def _global_stream(self, stream: int) -> int:
        """Number of a stream among those of all processes."""
        return self.rank * self.streams + stream

    def _read(self, indices: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[int, Contents]]:
        """(position, members) of the wanted positions in `indices`; or what is wrong with them."""
        shard_of = np.searchsorted(self.ends, indices, side="right")
        borders = np.flatnonzero((np.diff(shard_of) != 0) | (np.diff(indices) != 1)) + 1
        for run in np.split(np.arange(len(indices)), borders):
            positions = run[wanted[run]]
            if len(positions):
                shard = shard_of[run[0]]
                inside = indices[positions] - (self.ends - self.counts)[shard]
                samples = shard_io.read_samples(self.shards[shard], inside.tolist())
                yield from zip(positions.tolist(), samples, strict=True)

    def _prepare(self, epoch: int, index: int, members: Contents) -> Any:
        """A sample for the model, or None if it is broken."""
        if index in self.broken:
            return None
        record: dict[str, Any] = {"sample_idx": index, "seed": (self.seed, epoch, index)}
        try:
            if isinstance(members, SampleError):
                raise members
            record["key"] = members["__key__"]
            for modality in self.modalities:
                record[CONTENT_KEYS[modality]] = self._value(modality, members)
            sample = self.pipeline(record)
        except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
            self.broken.add(index, error, self._name)
            return None
        self.broken.add_usable(index)
        return sample

    def _value(self, modality: str, members: Members) -> Any:
        from_json = modality == "text" and self.text_key
        suffixes = ("json",) if from_json else MEMBER_SUFFIXES[modality]
        content = next((members[suffix] for suffix in suffixes if suffix in members), None)
        if isinstance(content, SampleError):
            raise content
        if content is None:
            order = "Members of a sample must follow each other, as tar --sort=name writes them."
            raise MissingError(
                f"{members['__key__']} has no member .{' or .'.join(suffixes)}; it has "
                f"{', '.join(name for name in members if not name.startswith('__'))}. "
                f"{order if members['__scattered__'] else ''}".rstrip()
            )
        if modality != "text":
            return content
        try:
            text = json.loads(content)[self.text_key] if from_json else content.decode()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CaptionError(f"{members['__key__']} has no text: {error!r}.") from None
        if not isinstance(text, str) or not text.strip():
            raise CaptionError(f"{members['__key__']} has the text {text!r}.")
        return text

    def _name(self, index: int) -> str:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return f"{index - (self.ends - self.counts)[shard]} of {self.shards[shard]}"


def shuffle_in_buffer(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """0..count-1 shuffled with a buffer of `size`: each number that enters replaces a random one."""
    size = min(size, count)
    buffer = np.arange(size)
    leaving = np.empty(count, dtype=np.int64)
    for i, slot in enumerate(rng.integers(size, size=count - size)):
        leaving[i] = buffer[slot]
        buffer[slot] = size + i
    leaving[count - size :] = rng.permutation(buffer)
    return leaving
