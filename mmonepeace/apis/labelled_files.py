"""Labelled files of tables, or of folders with a folder for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmonepeace.apis.sources import find_files, read_table


class Split(NamedTuple):
    """Files with their labels, in an order that does not depend on that of their table."""

    name: str
    paths: list[str]
    labels: list[str]

    def without(self, paths: Mapping[str, str]) -> "Split":
        """Leave out files, such as those that cannot be read."""
        kept = [i for i, path in enumerate(self.paths) if path not in paths]
        return Split(self.name, [self.paths[i] for i in kept], [self.labels[i] for i in kept])


def read_split(
    name: str,
    source: str | Path,
    modality: str,
    label: str | None,
    root: str | Path | None,
    errors: dict[str, str],
) -> Split:
    """Labelled files of a table (.tsv, .jsonl), or of a folder that has one for each class.

    Args:
        name: of the split, for messages.
        source: the table, whose paths are in the column `modality`; or the folder.
        modality: image or audio.
        label: column of the labels; folders need none.
        root: what paths of the table are relative to; by default its folder.
        errors: takes path -> reason for subfolders that cannot be entered.

    Raises:
        OSError: if there is no such file.
        ValueError: if it has no such columns, rows or files.
    """
    source = Path(source)
    if source.is_dir():
        paths = find_files(source, modality, errors)
        parts = [path.relative_to(source).parts for path in paths]
        loose = [path for path, part in zip(paths, parts, strict=True) if len(part) < 2]
        if loose:
            raise ValueError(
                f"{loose[0]} lies in no folder of a class; expected {source}/CLASS/FILE, or a table."
            )
        labels = [part[0] for part in parts]
    elif label is None:
        raise ValueError(f"{source} is a table: name the column of its labels with --label.")
    else:
        found, paths, labels = read_table(source, modality, label, root)
        if found != modality:
            raise ValueError(f"{source}: column {modality} names {found} files.")
    rows = sorted(zip(map(str, paths), labels, strict=True))
    return Split(name, [path for path, _ in rows], [label for _, label in rows])


def check_splits(
    train: Split, others: Sequence[Split], errors: Mapping[str, str] | None = None
) -> list[str]:
    """The classes of the training items, sorted.

    Args:
        train: to fit to.
        others: to measure on.
        errors: path -> reason for files that were left out.

    Raises:
        ValueError: if a split is empty, there is one class only, or another split has classes that
            were not trained.
    """
    for split in (train, *others):
        if not split.paths:
            reason = f" The first reason: {next(iter(errors.values()))}" if errors else ""
            raise ValueError(f"{split.name} has no files that can be read.{reason}")
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        raise ValueError(
            f"all {len(train.labels)} files of {train.name} are {classes[0]!r}; expected two or "
            "more classes. Is --label the right column?"
        )
    for split in others:
        unknown = sorted(set(split.labels) - set(classes))
        if unknown:
            shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"{len(unknown)} classes of {split.name} have no files in {train.name}: {shown}. "
                f"Add some, or take these classes out of {split.name}."
            )
    return classes
