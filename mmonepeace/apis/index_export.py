"""An index as a file for other programs: Parquet, CSV, or NumPy with the items beside it."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmonepeace.apis.index import EmbeddingIndex
from mmonepeace.apis.parquet import ROW_GROUP, path_from, write_parquet
from mmonepeace.apis.tensor_file import let_go
from mmonepeace.atomic_file import atomic_file, atomic_files


def export_index(index: EmbeddingIndex, path: str | Path) -> None:
    """Write an index in the format of a suffix in `FORMATS`; the memory does not grow with it.

    Paths of items are relative to the file. A ValueError names the suffixes for another one, and says
    what a format cannot have; an OSError says if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: expected a file that ends with {', '.join(FORMATS)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[path.suffix](index, path)


def write_csv(index: EmbeddingIndex, path: Path) -> None:
    """Write a table with the columns of `write_parquet`; `embedding` is a JSON list of floats.

    The floats are as short as float32 or float16 can be written. File names may be any bytes.
    """
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["modality", "path", "text", "embedding"])
        for items, rows in _groups(index, path):
            for item, row in zip(items, rows, strict=True):
                vector = f"[{','.join(map(str, row))}]"
                try:
                    table.writerow([item["modality"], item.get("path"), item.get("text"), vector])
                except UnicodeEncodeError:
                    raise ValueError(
                        f"{item.get('text', item.get('path'))!r} is not Unicode, as a CSV file is. Correct "
                        "the text and run mmonepeace embed again, or convert to .npy."
                    ) from None


def write_npy(index: EmbeddingIndex, path: Path) -> None:
    """Write the embeddings, (N, D) in their own dtype, and a list of the items to NAME.json."""
    items_path = path.with_suffix(".json")
    header = {
        "descr": np.lib.format.dtype_to_descr(index.embeddings.dtype),
        "fortran_order": False,
        "shape": index.embeddings.shape,
    }
    with (
        atomic_files([path, items_path]) as (temporary, temporary_items),
        temporary.open("wb") as array,
        temporary_items.open("w", encoding="ascii") as texts,
    ):
        np.lib.format.write_array_header_1_0(array, header)
        for items, rows in _groups(index, path):
            array.write(np.ascontiguousarray(rows).tobytes())
            _write_items(texts, items)
        texts.write("\n]\n" if texts.tell() else "[]\n")


def _write_items(file: IO[str], items: list[dict[str, Any]]) -> None:
    """A line for each, of a list that goes on."""
    for item in items:
        file.write(f"{',' if file.tell() else '['}\n{json.dumps(item)}")


def _groups(index: EmbeddingIndex, path: Path) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Items, with paths relative to a file, and their embeddings: a part of them at a time."""
    base = os.path.relpath(index.folder.resolve(), path.resolve().parent)
    for start in range(0, len(index.items), ROW_GROUP):
        items = index.items[start : start + ROW_GROUP]
        moved = [x | {"path": path_from(base, x)} if "path" in x else x for x in items]
        yield moved, index.embeddings[start : start + ROW_GROUP]
        let_go(index.embeddings)
        let_go(index.items.text)


FORMATS: dict[str, Callable[[EmbeddingIndex, Path], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".npy": write_npy,
}
