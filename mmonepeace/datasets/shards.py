"""Data sets in tar files of the WebDataset layout: read in sequence, mixed in memory."""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info
from torch.utils.data import IterableDataset, get_worker_info

from mmonepeace.datasets.broken import SAMPLE_ERRORS, BrokenSamples, CaptionError, MissingError
from mmonepeace.datasets.manifest import MODALITIES
from mmonepeace.datasets.shard_io import (
    SUFFIXES,
    Members,
    count_samples,
    find_shards,
    read_samples,
)
from mmonepeace.registry import DATASETS

KEYS = {"image": "img", "text": "text", "audio": "audio"}


@DATASETS.register_module()
class ShardDataset(IterableDataset):
    """An endless stream of samples out of shards; each process reads its own part of an epoch.

    In each epoch the shards are put in a new order, and their samples, one after the other, dealt
    in equal runs to the streams of all processes; what does not divide, less than one sample a
    stream and never the same, is left out. A stream shuffles within a buffer. The batches of a
    process come from its streams in turn, so that neither their order nor what they hold depends on
    the number of workers. Every process always has a next batch.

    A broken sample is replaced by the one that its stream would give a batch later. `broken.counts`
    tells how many there were. A record has a `seed` for its random transforms: `seed` of the data
    set, epoch and number of the sample.

    In a config, the data loader has `sampler=None`.

    Args:
        shards: a folder, or paths with braces (`train-{000..012}.tar`) or wildcards, one or more.
        modalities: those of a sample; members are told by their suffixes, see `SUFFIXES`.
        batch_size: that of the data loader.
        pipeline: transforms; images and sounds reach them as the bytes of a file.
        text_key: read texts from this key of a .json member, instead of from .txt.
        data_root: folder that `shards` are relative to.
        streams: shards that each process reads side by side, a multiple of the number of workers.
        buffer_size: samples that each stream holds in memory, encoded.
        seed: of all orders, and of everything random in a sample.
        max_broken: share of broken samples that ends the run, see `broken.BrokenSamples`.

    Raises:
        FileNotFoundError: if there are no shards.
        ValueError: if a modality is unknown, or there are fewer samples than streams.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        modalities: Sequence[str],
        batch_size: int,
        pipeline: Sequence[dict[str, Any] | Callable] = (),
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
        self.metainfo: dict[str, Any] = {}  # MMEngine's loops ask for it
        self.modalities = tuple(modalities)
        self.batch_size = batch_size
        self.pipeline = Compose(pipeline)
        self.text_key = text_key
        self.streams = streams
        self.buffer_size = buffer_size
        self.seed = seed
        self.start = 0
        # Now, because a worker may know nothing of the other processes.
        self.rank, self.world_size = get_dist_info()
        self.shards = find_shards(shards, data_root)
        self.ends = np.cumsum(count_samples(self.shards))
        self.total = int(self.ends[-1])
        self.stream_size = self.total // (streams * self.world_size)
        if not self.stream_size:
            raise ValueError(
                f"{self.total} samples are too few for {streams} streams in each of "
                f"{self.world_size} processes. Lower streams."
            )
        self.broken = BrokenSamples(self.total, max_broken)

    def skip(self, num_samples: int) -> None:
        """Begin after so many samples of this process, to resume; call it before iterating.

        The rest is exactly that of the run that was left, if `streams`, `batch_size`, `seed`, the
        shards and the number of processes are the same.

        Raises:
            ValueError: if these are no whole batches.
        """
        if num_samples < 0 or num_samples % self.batch_size:
            raise ValueError(
                f"{num_samples} samples are no whole batches of {self.batch_size}: cannot resume."
            )
        self.start = num_samples // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if self.streams % workers:
            raise ValueError(
                f"{workers} workers cannot share {self.streams} streams. Set streams of "
                "ShardDataset to a multiple of num_workers."
            )
        streams: dict[int, Iterator[Any]] = {}
        for batch in itertools.count(self.start + worker, workers):
            stream = batch % self.streams
            if stream not in streams:
                streams[stream] = self._stream(stream, batch // self.streams * self.batch_size)
            yield from itertools.islice(streams[stream], self.batch_size)

    def _stream(self, stream: int, skip: int) -> Iterator[Any]:
        """Samples of a stream after the first `skip`, prepared."""
        raw = self._endless(stream, skip)
        ahead: deque[tuple[int, int, Members | None]] = deque()
        while True:
            for later in itertools.count(0, self.batch_size):
                while len(ahead) <= later:
                    ahead.append(next(raw))
                sample = self._prepare(*ahead[later])
                if sample is not None:
                    break
            ahead.popleft()
            yield sample

    def _endless(self, stream: int, skip: int) -> Iterator[tuple[int, int, Members | None]]:
        """(epoch, number, members) of a stream after the first `skip`, shuffled."""
        first_epoch, skip = divmod(skip, self.stream_size)
        for epoch in itertools.count(first_epoch):
            numbers = self._numbers(stream, epoch)
            rng = np.random.default_rng((self.seed, epoch, self._number_of(stream) + 1))
            order = shuffle_in_buffer(len(numbers), self.buffer_size, rng)[skip:]
            wanted = np.zeros(len(numbers), dtype=bool)
            wanted[order] = True
            read = self._read(numbers, wanted)
            held: dict[int, Members | None] = {}
            for place in map(int, order):
                while place not in held:
                    found, members = next(read)
                    held[found] = members
                yield epoch, int(numbers[place]), held.pop(place)
            skip = 0

    def _numbers(self, stream: int, epoch: int) -> np.ndarray:
        """Numbers of the samples of a stream in an epoch, as they lie in the shards."""
        rng = np.random.default_rng((self.seed, epoch))
        counts = np.diff(self.ends, prepend=0)
        order = rng.permutation(len(counts))
        starts = np.cumsum(counts[order])  # of the shard after it, in this order
        first = rng.integers(self.total) + self._number_of(stream) * self.stream_size
        positions = (first + np.arange(self.stream_size)) % self.total
        place = np.searchsorted(starts, positions, side="right")
        return self.ends[order[place]] - (starts[place] - positions)

    def _number_of(self, stream: int) -> int:
        """Among the streams of all processes."""
        return self.rank * self.streams + stream

    def _read(
        self, numbers: np.ndarray, wanted: np.ndarray
    ) -> Iterator[tuple[int, Members | None]]:
        """(place, members) of the wanted places of `numbers`; None where a shard is cut."""
        shard_of = np.searchsorted(self.ends, numbers, side="right")
        borders = np.flatnonzero((np.diff(shard_of) != 0) | (np.diff(numbers) != 1)) + 1
        for run in np.split(np.arange(len(numbers)), borders):
            places = run[wanted[run]]
            if len(places):
                shard = shard_of[run[0]]
                inside = numbers[places] - self._begin(shard)
                samples = read_samples(self.shards[shard], inside.tolist())
                yield from zip(places.tolist(), samples, strict=True)

    def _prepare(self, epoch: int, number: int, members: Members | None) -> Any:
        """A sample for the model, or None if it is broken."""
        if number in self.broken:
            return None
        record: dict[str, Any] = {"sample_idx": number, "seed": (self.seed, epoch, number)}
        try:
            if members is None:
                raise MissingError("the shard ends before it. Make the shard again.")
            record["key"] = members["__key__"]
            for modality in self.modalities:
                record[KEYS[modality]] = self._value(modality, members)
            sample = self.pipeline(record)
        except SAMPLE_ERRORS as error:
            self.broken.add(number, error, self._name)
            return None
        self.broken.add_usable(number)
        return sample

    def _value(self, modality: str, members: Members) -> Any:
        suffixes = SUFFIXES[modality]
        if modality == "text" and self.text_key:
            suffixes = ("json",)
        content = next((members[suffix] for suffix in suffixes if suffix in members), None)
        if content is None:
            raise MissingError(
                f"{members['__key__']} has no member .{' or .'.join(suffixes)}; it has "
                f"{', '.join(name for name in members if not name.startswith('__'))}."
            )
        if modality != "text":
            return content
        try:
            text = json.loads(content)[self.text_key] if self.text_key else content.decode()
        except (ValueError, TypeError, KeyError) as error:
            raise CaptionError(f"{members['__key__']} holds no text: {error!r}.") from None
        if not isinstance(text, str) or not text.strip():
            raise CaptionError(f"{members['__key__']} has the text {text!r}.")
        return text

    def _name(self, number: int) -> str:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return f"{number - self._begin(shard)} of {self.shards[shard]}"

    def _begin(self, shard: int) -> int:
        return int(self.ends[shard - 1]) if shard else 0


def shuffle_in_buffer(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """0..count-1 as they leave a buffer of `size`: for each that comes in, one goes at random."""
    size = min(size, count)
    buffer = np.arange(size)
    leaving = np.empty(count, dtype=np.int64)
    for i, slot in enumerate(rng.integers(size, size=count - size)):
        leaving[i] = buffer[slot]
        buffer[slot] = size + i
    leaving[count - size :] = rng.permutation(buffer)
    return leaving
