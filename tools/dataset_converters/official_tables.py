"""Tables of samples made from official annotations: their checks, and how they are written."""

import csv
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from downloads import DataError
from official_files import Source
from tqdm import tqdm

from mmonepeace.atomic_file import atomic_file

MEDIA = ("image", "audio", "image1", "image2")
_NAMED = 5  # examples that a message gives

# Column -> value; a file is the possible ends of its path, see `Source.find`, until it is located.
Row = dict[str, Any]


@dataclass
class Table:
    """A table that becomes NAME.tsv.

    Args:
        rows: all of one set of columns.
        derived: of rows of other tables, so that they may overlap.
        whole: table that all of its rows are in, and so those of a subset.
    """

    rows: list[Row]
    derived: bool = False
    whole: str = ""


@dataclass
class Content:
    """What a data set becomes.

    Args:
        tables: name -> table.
        classes: of classification, in the official order.
        published: name of a table -> rows that its authors state; `a+b` is of both together.
        left_out: what is wrong -> samples that are left out for it.
        notes: what the user should know.
    """

    tables: dict[str, Table]
    classes: list[str] = field(default_factory=list)
    published: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)


class Options(NamedTuple):
    """What the user has chosen.

    Args:
        classes: ready list of classes, or none.
        subset: files of each table, None for all.
        max_missing: part of a table's rows that may be left out.
        allow_overlap: whether splits may share files.
    """

    classes: list[str]
    subset: int | None
    max_missing: float
    allow_overlap: bool


class TaskSet(NamedTuple):
    """A data set that can be converted.

    Args:
        read: gives its content.
        needs: its official files.
        max_missing: part of the rows that may be left out: of clips on YouTube some are gone.
        folder: below data/, where recipes look for the tables, if it is not named as the set.
    """

    read: Callable[[Source, Options], Content]
    needs: str
    max_missing: float = 0.0
    folder: str = ""


def clean(text: str) -> str:
    """A text in one line: tabs, line ends and runs of blanks become single blanks.

    Raises:
        TypeError: if it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.60} is no text")
    return " ".join(text.split())


def read_classes(path: Path) -> list[str]:
    """A list of classes: a text file with a name per line, or JSON: a list, or id -> name.

    Raises:
        DataError: if there is no such file, it is neither, or has a name twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct --classes, or leave it out.")
    try:
        text = path.read_text(encoding="utf-8")
        classes = text.splitlines()
        if path.suffix == ".json":
            content = json.loads(text)
            if isinstance(content, dict):
                if all(isinstance(value, int) for value in content.values()):  # name -> id
                    content = {str(value): name for name, value in content.items()}
                content = [content[str(i)] for i in range(len(content))]
            classes = list(map(clean, content))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a list of classes ({error}). Give a text file with a name per line, or JSON "
            "with a list, or with ids from 0 and names."
        ) from None
    if not classes or len(set(classes)) < len(classes):
        twice = [name for name, count in Counter(classes).items() if count > 1]
        problem = f"has {twice[0]!r} more than once" if twice else "is empty"
        raise DataError(f"{path} {problem}. Each class has a line of its own.")
    return classes


def _key(row: Row) -> tuple[str, ...]:
    """What identifies the files of a row."""
    return tuple(row[column][0] for column in MEDIA if column in row)


def _take(tables: Mapping[str, Table], count: int) -> dict[str, Table]:
    """The rows of some of the files: those with the smallest hashes, so always the same.

    Raises:
        DataError: if a part of a table has none of them.
    """
    kept = {name: _smallest(table.rows, count) for name, table in tables.items()}
    taken = {
        name: replace(table, rows=[r for r in table.rows if _key(r) in kept[table.whole or name]])
        for name, table in tables.items()
    }
    if empty := [name for name, table in taken.items() if not table.rows]:
        raise DataError(
            f"--subset {count} leaves no row of {empty[0]}, which is a part of "
            f"{tables[empty[0]].whole}. Take more."
        )
    return taken


def _smallest(rows: Iterable[Row], count: int) -> set[tuple[str, ...]]:
    hashes = {key: hashlib.sha256("\0".join(key).encode()).digest() for key in map(_key, rows)}
    return set(sorted(hashes, key=lambda key: hashes[key])[:count])


def _check_overlap(content: Content, allow: bool) -> None:
    where: dict[tuple[str, ...], str] = {}
    shared: dict[tuple[str, ...], str] = {}
    for name, table in content.tables.items():
        for key in {} if table.derived else dict.fromkeys(map(_key, table.rows)):
            if (other := where.setdefault(key, name)) != name:
                shared[key] = f"{' and '.join(key)} ({other}, {name})"
    if not shared:
        return
    problem = (
        f"{len(shared):,} files are in more than one split: {_examples(shared.values())}. Results would "
        "be too good."
    )
    if not allow:
        raise DataError(f"{problem} Check the annotations, or add --allow-overlap.")
    content.notes.append(f"warning: {problem}")


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _check_sizes(content: Content) -> None:
    for name, published in content.published.items():
        parts = name.split("+")
        if all(part in content.tables for part in parts):
            rows = sum(len(content.tables[part].rows) for part in parts)
            if rows != published:
                content.notes.append(
                    f"warning: {name} has {rows:,} rows in the annotations, published are "
                    f"{published:,}. Are they another version?"
                )


def _locate(content: Content, source: Source, options: Options) -> None:
    """Replace the files of all rows by paths, and leave out rows whose files are missing.

    Raises:
        DataError: if too many are left out.
    """
    for name, table in content.tables.items():
        rows, missing, hints = list[Row](), list[str](), dict[str, None]()
        for row in tqdm(table.rows, f"locating {name}", unit="row", disable=None):
            files = {column: row[column] for column in MEDIA if column in row}
            paths = {column: source.find(ends) for column, ends in files.items()}
            if lost := [files[column] for column, path in paths.items() if path is None]:
                missing.append(lost[0][0])
                if len(missing) <= _NAMED:
                    hints[source.why_missing(lost[0])] = None
            else:
                rows.append({**row, **paths})
        if not missing:
            table.rows = rows
            continue
        total, examples = len(table.rows), _examples(dict.fromkeys(missing))
        if len(missing) > options.max_missing * total or not rows:
            raise DataError(
                f"{name}: the files of {len(missing):,} of {total:,} rows are missing: {examples}. "
                f"{''.join(hints)}At most {options.max_missing:.0%} may be: add them, or allow more "
                "with --max-missing."
            )
        content.notes.append(
            f"warning: {name}: {len(missing):,} of {total:,} rows are left out, their files are "
            f"missing: {examples}. Results are not comparable with published ones."
        )
        table.rows = rows


def write_table(path: Path, rows: list[Row]) -> None:
    """Write a tab-separated table; fields with quotes are quoted, as `csv` does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def convert(read: Callable[[Source, Options], Content], source: Source, options: Options) -> None:
    """Check a data set, unpack the files of its samples and write its tables.

    Raises:
        DataError: with what the user can fix. Tables appear only when all their files are there.
    """
    content = read(source, options)
    _check_sizes(content)
    _check_overlap(content, options.allow_overlap)
    for problem, names in content.left_out.items():
        rows = sum(len(table.rows) for table in content.tables.values())
        if len(names) > options.max_missing * (rows + len(names)):
            raise DataError(
                f"{len(names):,} samples {problem}: {_examples(names)}. At most "
                f"{options.max_missing:.0%} may be left out: mend the annotations, or allow more "
                "with --max-missing."
            )
        content.notes.append(
            f"warning: {len(names):,} samples are left out: they {problem}: {_examples(names)}."
        )
    if empty := [name for name, table in content.tables.items() if not table.rows]:
        raise DataError(f"{empty[0]} has no rows. Are the annotations complete?")
    if options.subset is not None:
        content.tables = _take(content.tables, options.subset)
    _locate(content, source, options)
    source.unpack()
    if content.classes:
        path = source.out / "classes.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in content.classes), "utf-8")
    for name, table in content.tables.items():
        write_table(source.out / f"{name}.tsv", table.rows)
    for note in content.notes:
        print(note, file=sys.stderr)
    counts = ", ".join(f"{name} {len(table.rows):,}" for name, table in content.tables.items())
    classes = f"; {len(content.classes):,} classes" if content.classes else ""
    print(f"{source.out}: {counts} rows{classes}.")


def check_labels(labels: Mapping[str, Iterable[str]], classes: Iterable[str], name: str) -> None:
    """Refuse labels that are no class.

    Args:
        labels: sample -> its labels.
        classes: all there are.
        name: of the file that lists them.

    Raises:
        DataError: with examples.
    """
    known = set(classes)
    strange = {x: sample for sample, values in labels.items() for x in values if x not in known}
    if strange:
        examples = _examples(f"{label!r} of {sample}" for label, sample in strange.items())
        raise DataError(
            f"{len(strange)} labels are not among the {len(known)} classes of {name}: {examples}. "
            "Use annotations and classes of one version."
        )
