"""Manifests: tables of samples, one per row, with texts and paths of files.

A table is UTF-8, or UTF-16 with its mark. Paths may have other bytes, as file names may; Python
calls them surrogates, and opens the file that was meant.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from mmonepeace.atomic_file import atomic_file

MODALITIES = ("image", "text", "audio")
_PATHS = ("image", "image_2", "audio", "video")
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # other suffixes: as .tsv
TABLES = (*DELIMITERS, ".jsonl")
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8"}
_MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NAMED = 10  # lines that an error names

Row = dict[str, str]


class ManifestError(ValueError):
    """A manifest that cannot be used. The message gives the file, the problem and the fix."""


def read_manifest(
    path: str | Path, columns: Mapping[str, str], complete: bool = True, extra: Sequence[str] = ()
) -> list[Row]:
    """The rows of `read_numbered`, without their lines."""
    return [row for _, row in read_numbered(path, columns, complete, extra)]


def read_numbered(
    path: str | Path, columns: Mapping[str, str], complete: bool = True, extra: Sequence[str] = ()
) -> list[tuple[int, Row]]:
    """Read a .jsonl (one object per line), or else a table with a header: .csv or tab-separated.

    Fields may be quoted as `csv` and pandas do it. Quotes of a table that nobody quoted, such as
    the official ones, are characters as all others are. No line is guessed at: what has too many
    fields or too few is an error.

    `columns` is modality -> its column, such as `dict(image="image", text="caption")`, and "image_2"
    for the second of two images, "video" for a file or a folder of frames; the result has, for each row, the line that it begins on, and
    modality -> value. Rows that lack one (with `complete=False`: all of them) are skipped. `extra`
    are columns whose text a row has under their own name, such as that of labels, unless it is empty.

    Raises:
        ManifestError: if a modality is unknown, a column is missing or there twice, a line cannot
            be read, a text is not UTF-8, a value is not a string, or no row is left.
        OSError: if the file cannot be read.
    """
    unknown = set(columns) - {*MODALITIES, *_PATHS}
    if unknown or not columns:
        known = ", ".join(dict.fromkeys([*MODALITIES, *_PATHS]))
        raise ManifestError(
            f"columns are for {', '.join(columns) or 'nothing'}; choose from {known}."
        )
    required = tuple(columns)
    columns = {**columns, **{name: name for name in extra}}
    suffix, faults = Path(path).suffix.lower(), _Faults()
    try:
        data = _read(Path(path))
        if suffix == ".jsonl":
            rows = _jsonl_rows(data, columns, faults)
        else:
            rows = _table_rows(data, DELIMITERS.get(suffix, "\t"), columns, faults)
        has_enough = all if complete else any
        kept = [(n, row) for n, row in rows if has_enough(name in row for name in required)]
        faults.check()
        if not kept:
            word = " and " if complete else " or "
            raise ManifestError(f"no row has {word.join(columns[name] for name in required)}.")
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    return kept


def read_records(path: str | Path) -> dict[int, Row]:
    """Line -> all columns of the row that begins on it, as texts, of a table that `read_numbered` has read.

    Values of a .jsonl that are not texts are JSON, and those that are missing "".
    """
    data = _read(Path(path))
    suffix = Path(path).suffix.lower()
    if suffix == ".jsonl":
        texts = data.decode(errors="surrogateescape").split("\n")
        return {
            number: {key: _as_text(value) for key, value in json.loads(line).items()}
            for number, line in enumerate(texts, start=1)
            if line and not line.isspace()
        }
    (_, header), *lines = _records(data, DELIMITERS.get(suffix, "\t").encode(), _Faults())
    names = [name.decode(errors="surrogateescape").strip() for name in header]
    return {
        number: {n: x.decode(errors="surrogateescape") for n, x in zip(names, fields, strict=False)}
        for number, fields in lines
    }


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text file, without their ends.

    Raises:
        ManifestError: if a line is not UTF-8.
        OSError: if the file cannot be read.
    """
    faults = _Faults()
    try:
        for number, line in enumerate(BytesIO(_read(Path(path))), start=1):
            yield _decode(number, line, faults)
        faults.check()
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


class _Faults:
    """Lines that cannot be read. The first is described, the others are named."""

    def __init__(self) -> None:
        self.first = ""
        self.lines: list[int] = []

    def add(self, line: int, fault: str) -> None:
        self.first = self.first or f"line {line} {fault}"
        if line not in self.lines[-1:]:
            self.lines.append(line)

    def check(self) -> None:
        others = self.lines[1:]
        if self.first:
            more = ", ..." if len(others) > _NAMED else ""
            named = f"{', '.join(map(str, others[:_NAMED]))}{more}"
            also = f" {len(others):,} more such lines: {named}." if others else ""
            raise ManifestError(f"{self.first}{also}")


def _read(path: Path) -> bytes:
    """A text file as UTF-8 without a mark, whose lines end with \\n, or some of them with \\r\\n."""
    data = path.read_bytes()
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    if mark and _MARKS[mark] == "utf-8":
        data = data[len(mark) :]
    elif mark:
        try:
            data = data.decode(_MARKS[mark]).encode()
        except UnicodeError as error:
            raise ManifestError(f"it is not {_MARKS[mark]}: {error}. Save it as UTF-8.") from None
    if (zero := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, zero) + 1
        reason = "Is the file damaged, or UTF-16 without its mark? Save it as UTF-8."
        raise ManifestError(f"line {line} has the character NUL. {reason}")
    # Where there are other line ends, a bare CR is part of a caption.
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _decode(number: int, line: bytes, faults: _Faults) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        faults.add(number, f"is not UTF-8: {line[:60]!r}. Save the file as UTF-8.")
        return ""


def _cell(number: int, column: str, value: bytes, modality: str, faults: _Faults) -> str:
    """A field of a table. File names may be any bytes, texts may not."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode(errors="surrogateescape")
        if modality not in _PATHS:
            fault = f"is not UTF-8: {column} is {value[:60]!r}. Save the table as UTF-8."
            faults.add(number, fault)
    return text.strip(" ") if modality in _PATHS else text


def _table_rows(
    data: bytes, delimiter: str, columns: Mapping[str, str], faults: _Faults
) -> Iterator[tuple[int, Row]]:
    records = _records(data, delimiter.encode(), faults)
    _, fields = next(records, (0, []))
    header = [field.decode(errors="surrogateescape").strip() for field in fields]
    _check_header(header, columns, delimiter)
    indices = [(name, column, header.index(column)) for name, column in columns.items()]
    width = len(header)
    for number, fields in records:
        if len(fields) < width or any(fields[width:]):
            faults.add(number, _width_fault(len(fields), width, delimiter))
            continue
        row = {
            name: text
            for name, column, i in indices
            if fields[i] and (text := _cell(number, column, fields[i], name, faults))
        }
        yield number, row


def _check_header(header: Sequence[str], columns: Mapping[str, str], delimiter: str) -> None:
    wanted = sorted(set(columns.values()))
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise ManifestError(f"line 1 has the column {twice[0]} more than once. Rename one of them.")
    missing = [column for column in wanted if column not in header]
    if not missing:
        return
    for other, name in ((",", ".csv"), ("\t", ".tsv"), (";", "")):
        if header and set(wanted) <= {x.strip('" ') for x in header[0].split(other)}:
            fix = f"name it {name}" if name else "save it with tabs"
            raise ManifestError(f"line 1: its columns are separated by {other!r}; {fix}.")
    raise ManifestError(
        f"there is no column {', '.join(missing)}; there is {', '.join(header) or 'nothing'}. "
        "Name those of this manifest in columns."
    )


def _width_fault(count: int, width: int, delimiter: str) -> str:
    cause = "a line end" if count < width else "a tab" if delimiter == "\t" else "a comma"
    return (
        f"has {count} fields, the header has {width}. Is there {cause} inside a caption? Put the "
        "caption in quotes as csv does, or write a .jsonl."
    )


def _records(data: bytes, delimiter: bytes, faults: _Faults) -> Iterator[tuple[int, list[bytes]]]:
    """(line that it begins on, fields) of each record of a table, but not of blank lines."""
    quotes, suspect = _Quotes(data, delimiter), delimiter + b'"'
    file, number, width = BytesIO(data), 0, 0
    for line in file:
        number += 1
        first = number
        if line.startswith(b'"') or suspect in line:
            after = file.tell()
            fields, end = quotes.split(after - len(line), line, width)
            if fields is None:
                fault = "has a quote that may end lines below, or be a character."
                faults.add(first, f"{fault} Quote all captions as csv does, or write a .jsonl.")
                continue
            file.seek(end)
            number += data.count(b"\n", after, end)
        elif line.isspace():
            continue
        else:
            fields = line.rstrip(b"\r\n").split(delimiter)
        width = width or len(fields)
        yield first, fields


class _Quotes:
    """Quotes of a table: are they syntax, or characters?

    A field is in quotes if it begins and ends with one, and those inside are doubled. That is what
    `csv` writes; but a caption of a table that nobody quoted may look the same. So a field

    - with a delimiter, a line end or a doubled quote inside is in quotes;
    - with nothing that needs quotes is, if all quotes of the table are such as `csv` writes;
    - that would swallow whole lines, each with the right number of fields, is not, unless all
      quotes of the table are such, and some of them must be. In between, the line is ambiguous.
    """

    def __init__(self, data: bytes, delimiter: bytes) -> None:
        self.data, self.delimiter = data, delimiter
        inside = rb'"([^"]*(?:""[^"]*)*)"(?=%b|\r?\n|\r?\Z)' % delimiter
        self._quoted = re.compile(inside)
        self._quoted_anywhere = re.compile(rb"(?<![^%b\n])%b" % (delimiter, inside))
        self._plain = re.compile(rb"[^%b\n]*" % delimiter)
        self._needs = re.compile(rb'[%b\r\n"]' % delimiter)

    @cached_property
    def are_csv(self) -> bool:
        """Whether all of them are such as `csv` writes: none is in a field without quotes."""
        fields = self._quoted_anywhere.finditer(self.data)
        return sum(match[0].count(b'"') for match in fields) == self.data.count(b'"')

    @cached_property
    def must_be_csv(self) -> bool:
        """Whether the value of some field makes no sense without its quotes."""
        values = (match[1] for match in self._quoted_anywhere.finditer(self.data))
        return any(b'""' in x or (self.delimiter in x) != (b"\n" in x) for x in values)

    def split(self, start: int, line: bytes, width: int) -> tuple[list[bytes] | None, int]:
        """The fields of the record that begins with a line at `start`, and where the next begins.

        None if that is ambiguous. `width` is the number of fields that is expected, 0 for the
        header.
        """
        plain, after = line.rstrip(b"\r\n").split(self.delimiter), start + len(line)
        fields, needless, end = self._parse(start)
        fits = not width or len(fields) == width
        if end > after:
            lines = self.data[start:end].removesuffix(b"\n").split(b"\n")
            whole = width > 0 and all(x.count(self.delimiter) == width - 1 for x in lines)
            if not fits or (whole and width > 1 and not self.are_csv):
                return plain, after
            sure = not whole or (self.are_csv and (width == 1 or self.must_be_csv))
            return fields if sure else None, end
        if len(fields) != len(plain):
            return fields if fits or len(plain) != width else plain, after
        if needless and not self.are_csv:
            fields = [plain[i] if i in needless else x for i, x in enumerate(fields)]
        return fields, after

    def _parse(self, start: int) -> tuple[list[bytes], list[int], int]:
        """The fields as `csv` reads them, which of them need no quotes, where the next line is."""
        data, at = self.data, start
        fields, needless = list[bytes](), list[int]()
        while True:
            if match := self._quoted.match(data, at):
                if not self._needs.search(match[1]):
                    needless.append(len(fields))
                fields.append(match[1].replace(b'""', b'"'))
            else:
                match = self._plain.match(data, at)
                assert match  # it may be empty
                fields.append(match[0].removesuffix(b"\r"))
            at = match.end()
            if data[at : at + 1] != self.delimiter:
                return fields, needless, data.find(b"\n", at) + 1 or len(data)
            at += 1


def _jsonl_rows(
    data: bytes, columns: Mapping[str, str], faults: _Faults
) -> Iterator[tuple[int, Row]]:
    known: dict[str, None] = {}  # a set in the order of insertion
    missing = set(columns.values())
    decode = json.JSONDecoder(object_pairs_hook=_unique).decode
    for number, line in enumerate(BytesIO(data), start=1):
        if line.isspace():
            continue
        try:
            record = decode(line.decode(errors="surrogateescape"))
        except (ValueError, RecursionError) as error:
            faults.add(number, f"is not JSON: {error}. Write one object per line.")
            continue
        if not isinstance(record, dict):
            kind = type(record).__name__
            faults.add(number, f"is {kind}, expected an object. Write one object per line.")
            continue
        if missing:
            known |= dict.fromkeys(record)
            missing -= set(record)
        row = {}
        for name, column in columns.items():
            value = record.get(column)
            if value is None or value == "":
                continue
            if not isinstance(value, str):
                faults.add(number, f"has {column}={value!r:.60}, expected a string.")
            elif name not in _PATHS and not _is_unicode(value):
                faults.add(number, f"is not UTF-8: {column} is {value[:60]!r}. Write it again.")
            row[name] = value
        yield number, row
    faults.check()
    if missing:
        raise ManifestError(
            f"there is no column {', '.join(sorted(missing))}; there is "
            f"{', '.join(known) or 'nothing'}. Name those of this manifest in columns."
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose values is lost because its key is there twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return record


def _is_unicode(text: str) -> bool:
    """Whether a text has no surrogates: bytes that are not UTF-8, or half a character."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, complete or not at all: a .csv with commas, others with tabs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    delimiter = DELIMITERS.get(path.suffix, "\t")
    # The bytes of a file name stay what they are, so that the table can be read back.
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
