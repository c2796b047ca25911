"""Data sets of samples with text, image and audio, or one or two of them."""

import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset

from mmonepeace.datasets.broken_samples import BrokenSamples, mark_left_out
from mmonepeace.datasets.file_folders import SUFFIXES, find_files
from mmonepeace.datasets.manifest import ManifestError, Row, read_numbered
from mmonepeace.datasets.resumable_sampler import EpochIndex
from mmonepeace.datasets.sample_errors import SampleError, check_exists
from mmonepeace.registry import DATASETS

# Modality -> its key in a record.
RECORD_KEYS = {
    "image": "img_path",
    "image_2": "img_path_2",
    "text": "text",
    "audio": "audio_path",
    "video": "video_path",
}
PATH_KEYS = ("img_path", "img_path_2", "audio_path", "video_path")


class Source(NamedTuple):
    """A manifest of a data set, or a folder of files without texts.

    An epoch has each row `repeat` times. 2.5: twice, and every second row a third time; 0.1: only
    every tenth row, always the same ones.
    """

    path: str  # relative to the `data_root` of the data set
    columns: dict[str, str]  # modality -> its column
    repeat: float = 1

    def times(self, row: int) -> int:
        """How often an epoch has a row: the first i rows have floor(i * repeat) copies."""
        return math.floor((row + 1) * self.repeat) - math.floor(row * self.repeat)


@DATASETS.register_module()
class PairDataset(BaseDataset):
    """Samples listed in manifests of paths and texts, or all images or audio files of folders.

    Rows that lack one of the columns are skipped. A sample that turns out to be broken (a file that
    is missing or cannot be decoded, a caption without words, whatever else the pipeline raises) is
    replaced by another, always the same one. `broken.counts` has their numbers. In test mode the
    other is marked, so that scores are made without it, see `LeftOutHook`.

    A record has a `seed` for its random transforms: `seed` of the data set, epoch and index. The
    epoch comes from `EndlessSampler`; with others it is 0, and transforms do the same each time.

    Args:
        ann_file: a manifest or several, .jsonl or tab-separated, see `manifest.read_manifest`; or a
            folder, whose files, subfolders included, are samples without anything else.
        columns: modality -> its column, such as `dict(image="image", text="caption")`. Images and
            audio are paths, absolute or relative to `data_prefix`. "image_2" is the second of two,
            "video" a file or a folder of frames. Of folders `dict(image="")` or `dict(audio="")`.
        data_prefix: `dict(path=FOLDER)`, relative to `data_root`; by default the folder of each
            manifest.
        seed: of everything random in a sample.
        max_broken: fraction of broken samples above which the run ends, see `BrokenSamples`.
        extra: further columns that a record has under their own names.
        where: column -> the values that rows have which are used, such as `dict(fold=["1", "2"])`.
        kwargs: of MMEngine's `BaseDataset`: data_root, pipeline, indices and others.

    Raises:
        ValueError: if a manifest has no columns or not the modalities of the first one, a modality
            is unknown, a column is missing, or no row is left.
    """

    def __init__(
        self,
        ann_file: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        columns: Mapping[str, str] | None = None,
        data_prefix: dict[str, str] | None = None,
        seed: int = 0,
        max_broken: float = 0.05,
        extra: Sequence[str] = (),
        where: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        entries = [ann_file] if isinstance(ann_file, str | Mapping) else ann_file
        self.sources = [_source(entry, columns) for entry in entries]
        if not self.sources:
            raise ValueError("ann_file names no manifest. Name one or more.")
        self.columns = self.sources[0].columns
        for source in self.sources[1:]:
            if set(source.columns) != set(self.columns):
                raise ValueError(
                    f"ann_file: {source.path} has {', '.join(sorted(source.columns))}, but "
                    f"{self.sources[0].path} has {', '.join(sorted(self.columns))}. Name the same."
                )
        self.seed = seed
        self.max_broken = max_broken
        self.where = {column: set(map(str, values)) for column, values in (where or {}).items()}
        self.extra = tuple(dict.fromkeys([*extra, *self.where]))
        super().__init__(data_prefix=data_prefix or {}, **kwargs)
        if self.test_mode:
            self.leaves_out = True

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the manifests."""
        records: list[dict[str, Any]] = []
        for source in self.sources:
            path = self._path(source)
            folder = Path(self.data_prefix.get("path", path if path.is_dir() else path.parent))
            before = len(records)
            for number, (_, row) in enumerate(self._rows(source)):
                record = {RECORD_KEYS.get(name, name): value for name, value in row.items()}
                record |= {key: str(folder / record[key]) for key in PATH_KEYS if key in record}
                records += [dict(record) for _ in range(source.times(number))]
            if len(records) == before:
                raise ValueError(f"{path}: repeat={source.repeat} leaves no row. Raise it.")
        return records

    def places(self, column: str, values: Container[str]) -> Iterator[str]:
        """Where a column of `extra` has one of some values: table, line and value, for a message."""
        for source in self.sources:
            for line, row in self._rows(source):
                if (value := row.get(column, "")) in values:
                    yield f"{self._path(source)}: line {line}: {column} is {value!r}"

    def _path(self, source: Source) -> Path:
        return Path(self.data_root or "") / source.path

    def _rows(self, source: Source) -> list[tuple[int, Row]]:
        """The rows that are used, with their lines."""
        if self._path(source).is_dir():
            return _files_of(self._path(source), source.columns, self.extra)
        rows = [
            (line, row)
            for line, row in read_numbered(self._path(source), source.columns, extra=self.extra)
            if all(row.get(c) in kept for c, kept in self.where.items())
        ]
        if not rows:
            raise ValueError(f"{self._path(source)}: no row is left by where={self.where}.")
        return rows

    def full_init(self) -> None:
        """Read the manifests, once."""
        if not self._fully_initialized:
            super().full_init()
            self.broken = BrokenSamples(len(self), self.max_broken)

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """See `BaseDataset`; broken samples are counted again, because rows get new indices."""
        super().get_subset_(indices)
        self.broken = BrokenSamples(len(self), self.max_broken)

    def get_subset(self, indices: Sequence[int] | int) -> "PairDataset":
        """See `get_subset_`."""
        other = super().get_subset(indices)
        other.broken = BrokenSamples(len(other), self.max_broken)
        return other

    def __getitem__(self, position: int | EpochIndex) -> Any:
        index, epoch = position if isinstance(position, tuple) else (position, 0)
        self.full_init()
        index = range(len(self))[index]  # as lists do: negative ones, IndexError
        for candidate in self._candidates(index, epoch):
            if candidate in self.broken:
                continue
            try:
                sample = self._read(candidate, epoch)
            except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
                self.broken.add(candidate, error, self.name)
            else:
                self.broken.add_usable(candidate)
                if self.test_mode and candidate != index:
                    mark_left_out(sample)
                return sample

    def _candidates(self, index: int, epoch: int) -> Iterator[int]:
        yield index
        rng = np.random.default_rng((self.seed, epoch, index))
        while True:
            yield int(rng.integers(len(self)))

    def _read(self, index: int, epoch: int) -> Any:
        record = self.get_data_info(index)
        for key in PATH_KEYS:
            # A folder of frames is a video too.
            if key in record and not (key == "video_path" and os.path.isdir(record[key])):
                check_exists(record[key])
        sample = self.pipeline(record | {"seed": (self.seed, epoch, index)})
        if sample is None:
            raise SampleError("its pipeline leaves nothing of it.")
        return sample

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        record = self.get_data_info(index)
        return f"{index} ({next(record[key] for key in (*PATH_KEYS, 'text') if key in record)})"


def _files_of(
    folder: Path, columns: Mapping[str, str], extra: Sequence[str]
) -> list[tuple[int, Row]]:
    """The files of a folder, as a manifest would list them."""
    if len(columns) > 1 or not set(columns) <= set(SUFFIXES) or extra:
        named = ", ".join([*columns, *extra])
        raise ManifestError(
            f"{folder} is a folder, whose files are images or audio and have nothing else, but the data "
            f"set has {named}. Name a table, or columns=dict(image='')."
        )
    (name,) = columns
    unreadable: dict[str, str] = {}
    files = find_files(folder, name, unreadable)
    if unreadable:
        raise ManifestError(f"{next(iter(unreadable.values()))}. Let it be read, or move it away.")
    return [(i, {name: str(path.relative_to(folder))}) for i, path in enumerate(files, 1)]


def _source(entry: str | Mapping[str, Any], columns: Mapping[str, str] | None) -> Source:
    """Parse an entry of `ann_file`; the columns of the data set are its default."""
    fields: dict[str, Any] = {"path": entry} if isinstance(entry, str) else dict(entry)
    unknown = set(fields) - set(Source._fields)
    if unknown or not isinstance(fields.get("path"), str):
        expected = "a path or a dict of path, and optionally columns and repeat"
        raise ValueError(f"ann_file has the entry {fields}; expected {expected}.")
    named = fields.get("columns") or columns
    if not named:
        example = "columns=dict(image='image', text='caption')"
        raise ValueError(f"{fields['path']} has no columns. Name them, such as {example}.")
    repeat = fields.get("repeat", 1)
    if isinstance(repeat, bool) or not isinstance(repeat, int | float) or not 0 < repeat < math.inf:
        raise ValueError(f"{fields['path']} has repeat={repeat!r}, expected a number above 0.")
    return Source(fields["path"], dict(named), repeat)
