"""What users name: the files of folders, the texts of a file, the rows and labels of a table.

Readers raise an OSError if there is no such file, and a ValueError if it is not UTF-8, lacks a
column, or has nothing to read. For tables see `datasets.manifest`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmonepeace.datasets.file_folders import SUFFIXES, find_files
from mmonepeace.datasets.manifest import TABLES, read_lines, read_manifest, read_numbered

MAX_OTHERS = 0.05  # fraction of the files of a table that may be of another modality


def list_files(paths: Iterable[Path], modality: str, errors: dict[str, str]) -> list[Path]:
    """Files as they are, and those of folders, see `find_files`."""
    lists = (find_files(p, modality, errors) if os.path.isdir(p) else [p] for p in paths)
    return [file for files in lists for file in files]


def read_texts(path: str | Path, column: str = "caption") -> list[str]:
    """Distinct texts of a file in its order: its lines, or a column of a table."""
    is_table = Path(path).suffix.lower() in TABLES
    texts: Iterable[str] = read_lines(path)
    if is_table:
        texts = [row["text"] for row in read_manifest(path, {"text": column})]
    texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not texts:
        raise ValueError(f"{path} holds no text.")
    return texts


def read_rows(
    path: str | Path, columns: Mapping[str, str], root: str | Path | None = None
) -> list[dict[str, str]]:
    """Rows of a table whose texts, images and audio files belong together.

    `columns` are modality -> column, such as `dict(image="image", text="caption")`. Paths of files
    are relative to `root`, by default the table's folder. Returns modality -> text or path, for
    each row that has any; empty cells are left out.
    """
    return [row for _, row in read_numbered_rows(path, columns, root)]


def read_numbered_rows(
    path: str | Path, columns: Mapping[str, str], root: str | Path | None = None
) -> list[tuple[int, dict[str, str]]]:
    """The rows of `read_rows`, each after the line that it begins on."""
    folder = Path(root or Path(path).parent)
    return [
        (line, {n: value if n == "text" else str(folder / value) for n, value in row.items()})
        for line, row in read_numbered(path, columns, complete=False)
    ]


def read_table(
    path: str | Path, path_column: str, label_column: str, root: str | Path | None = None
) -> tuple[str, list[str], list[str]]:
    """The modality of the files of a table, their paths and their labels.

    Paths are relative to `root`, by default the table's folder. Rows that lack a path or a label
    are left out. Raises a ValueError if the files are not images, nor audio, but for a few.
    """
    columns = {"image": path_column, "text": label_column}  # or audio, as the suffixes will tell
    rows = read_manifest(path, columns)
    folder = Path(root or Path(path).parent)
    paths, labels = [str(folder / r["image"]) for r in rows], [r["text"] for r in rows]
    found: dict[str, list[str]] = {}  # modality -> its files
    for file in paths:
        for modality, known in SUFFIXES.items():
            if Path(file).suffix.lower() in known:
                found.setdefault(modality, []).append(file)
    first, *others = sorted(found, key=lambda modality: -len(found[modality])) or [""]
    # A few others, and any without a known suffix, are for the decoder to refuse.
    if first and all(len(found[other]) <= MAX_OTHERS * len(paths) for other in others):
        return first, paths, labels
    given = " and ".join(files[0] for files in found.values()) or paths[0]
    raise ValueError(
        f"{path}: column {path_column} names {given}; expected images only, or audio files only."
    )


class LabelledFiles(NamedTuple):
    """Files with their labels, in an order that does not depend on that of their table."""

    name: str  # of the split, for messages
    paths: list[str]
    labels: list[str]

    def without(self, paths: Mapping[str, str]) -> "LabelledFiles":
        """Leave out files, such as those that cannot be read."""
        kept = [i for i, path in enumerate(self.paths) if path not in paths]
        kept_paths, labels = ([values[i] for i in kept] for values in (self.paths, self.labels))
        return LabelledFiles(self.name, kept_paths, labels)


def read_labelled_files(
    name: str,
    source: str | Path,
    modality: str,
    label: str | None,
    root: str | Path | None,
    errors: dict[str, str],
) -> LabelledFiles:
    """Labelled files of a table, or of a folder with a folder for each class.

    A table has paths in the column `modality`, relative to `root` or its own folder, and labels in
    the column `label`. `name` is that of the split; `errors` is as in `find_files`.
    """
    source = Path(source)
    if os.path.isdir(source):
        paths = find_files(source, modality, errors)
        labels = [path.relative_to(source).parts[0] for path in paths]
        if loose := [path for path in paths if path.parent == source]:
            wanted = f"expected {source}/CLASS/FILE, or a table."
            raise ValueError(f"{loose[0]} is not in the folder of a class; {wanted}")
    elif label is None:
        raise ValueError(f"{source} is a table: name the column of its labels with --label.")
    else:
        actual, paths, labels = read_table(source, modality, label, root)
        if actual != modality:
            raise ValueError(f"{source}: column {modality} names {actual} files.")
    rows = sorted(zip(map(str, paths), labels, strict=True))
    return LabelledFiles(name, [path for path, _ in rows], [label for _, label in rows])


def check_splits(
    train: LabelledFiles, others: Sequence[LabelledFiles], errors: Mapping[str, str] | None = None
) -> list[str]:
    """The classes of the training items, sorted.

    Raises a ValueError if a split is empty, for which `errors` of files that were left out may be
    the reason, there is only one class, or another split has classes that `train` lacks.
    """
    for split in (train, *others):
        if not split.paths:
            reason = f" The first reason: {next(iter(errors.values()))}" if errors else ""
            raise ValueError(f"{split.name} has no files that can be read.{reason}")
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        raise ValueError(
            f"all {len(train.labels)} files of {train.name} are {classes[0]!r}; expected two or "
            "more classes. Is --label-column the right column?"
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
