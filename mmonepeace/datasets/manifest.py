"""Manifests: tables of samples, one per line, with texts and paths of files."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MODALITIES = ("image", "text", "audio")

Row = dict[str, str]


class ManifestError(ValueError):
    """A manifest that cannot be used. The message gives the file, the problem and the fix."""


def read_manifest(path: str | Path, columns: Mapping[str, str], complete: bool = True) -> list[Row]:
    """Read a .jsonl (one object per line), or else a tab-separated table (a header, no quoting).

    `columns` is modality -> its column, such as `dict(image="image", text="caption")`; a row of the
    result, modality -> value. Rows that lack one (with `complete=False`: all of them) are skipped.

    Raises:
        ManifestError: if a modality is unknown, a column is missing, a line is not a JSON object, a
            value is not a string, or no row is left.
    """
    unknown = set(columns) - set(MODALITIES)
    if unknown or not columns:
        raise ManifestError(f"columns are for {tuple(columns)}; choose from {MODALITIES}.")
    lines = _read_jsonl if Path(path).suffix == ".jsonl" else _read_tsv
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return _rows(lines(file), columns, complete)
        except (ValueError, csv.Error) as error:
            raise ManifestError(f"{path}: {error}") from None


def _rows(
    records: Iterator[dict[str, Any]], columns: Mapping[str, str], complete: bool
) -> list[Row]:
    names: dict[str, None] = {}  # a set in the order of insertion
    rows = []
    for number, record in enumerate(records, start=1):
        names |= dict.fromkeys(record)
        row = {m: record[column] for m, column in columns.items() if record.get(column)}
        if len(row) < (len(columns) if complete else 1):
            continue
        for modality, value in row.items():
            if not isinstance(value, str):
                column = columns[modality]
                raise ManifestError(f"line {number}: {column} is {value!r}, expected a string.")
        rows.append(row)
    missing = sorted(set(columns.values()) - set(names))
    if missing:
        raise ManifestError(
            f"there is no column {', '.join(missing)}; there is {', '.join(names) or 'nothing'}. "
            "Name those of this manifest in columns."
        )
    if not rows:
        word = " and " if complete else " or "
        raise ManifestError(f"no row has {word.join(columns.values())}.")
    return rows


def _read_tsv(file: Any) -> Iterator[dict[str, Any]]:
    table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restkey="")
    yield dict.fromkeys(table.fieldnames or (), "")  # columns of a table without rows
    yield from table


def _read_jsonl(file: Any) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ManifestError(f"line {number} is {type(record).__name__}, expected an object.")
        yield record
