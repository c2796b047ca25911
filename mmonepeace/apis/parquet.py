"""An index as a Parquet table, which Spark, Ray and vector databases read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmonepeace.apis.index import EmbeddingIndex
from mmonepeace.apis.tensor_file import let_go
from mmonepeace.atomic_file import atomic_file

ROW_GROUP = 10_000  # items in memory at once


def write_parquet(index: EmbeddingIndex, path: str | Path) -> None:
    """Write a table with a row for each item, in row groups: the memory is that of one of them.

    Columns are `modality`, `path` of files and `text` of texts, one of which is null, and
    `embedding`, a list of D float32. Paths are relative to the table, as those of an index are to the
    index. The metadata of the index are those of the schema.

    Raises:
        ValueError: if pyarrow is missing, or a path or a text is not Unicode, as Parquet has it.
        OSError: if the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError("Parquet needs pyarrow, which is missing: pip install pyarrow.") from None
    path = Path(path)
    base = os.path.relpath(index.folder.resolve(), path.resolve().parent)
    width = index.embeddings.shape[1]
    schema = pa.schema(
        [
            ("modality", pa.string()),
            ("path", pa.string()),
            ("text", pa.string()),
            ("embedding", pa.list_(pa.float32(), width)),
        ],
        metadata={k: v.encode(errors="replace") for k, v in index.meta.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(index.items), ROW_GROUP):
            items = index.items[start : start + ROW_GROUP]
            rows = np.asarray(index.embeddings[start : start + ROW_GROUP], np.float32)
            columns = [
                pa.array([item["modality"] for item in items], pa.string()),
                pa.array(_unicode(path_from(base, item) for item in items), pa.string()),
                pa.array(_unicode(item.get("text") for item in items), pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width),
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP)
            let_go(index.embeddings)
            let_go(index.items.text)


def path_from(base: str, item: dict[str, Any]) -> str | None:
    """The path of an item from a folder, from which that of the index is `base`; None of a text."""
    path = item.get("path")
    return path if path is None else os.path.normpath(os.path.join(base, path))


def _unicode(values: Iterable[str | None]) -> list[str | None]:
    checked = list(values)
    for value in checked:
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{value!r} is not Unicode, as texts of Parquet have to be. Rename the file or "
                "correct the text, and run mmonepeace embed again."
            ) from None
    return checked
