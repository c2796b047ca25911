"""Data sets of samples with a text, an image or a sound, two or all three of them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from mmonepeace.registry import DATASETS

KEYS = {"image": "img_path", "text": "text", "audio": "audio_path"}


@DATASETS.register_module()
class PairDataset(BaseDataset):
    """A table (.tsv with a header line, no quoting) of paths and texts.

    Rows that lack one of the columns are left out.

    Args:
        ann_file: the table.
        columns: modality -> its column, such as `dict(image="image", text="caption")`. Images and
            sounds are paths relative to `data_prefix`.
        data_prefix: `dict(path=FOLDER)`, relative to `data_root`.
        kwargs: of MMEngine's `BaseDataset`: data_root, pipeline, indices and others.

    Raises:
        ValueError: if a modality is unknown, a column is missing, or no row is left.
    """

    def __init__(
        self,
        ann_file: str,
        columns: Mapping[str, str],
        data_prefix: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = set(columns) - set(KEYS)
        if unknown or not columns:
            raise ValueError(f"columns are for {tuple(columns)}; choose from {tuple(KEYS)}.")
        self.columns = dict(columns)
        super().__init__(ann_file, data_prefix=data_prefix or dict(path=""), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the table."""
        with open(self.ann_file, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = set(self.columns.values()) - set(table.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{self.ann_file} has no column {', '.join(sorted(missing))}; it has "
                    f"{', '.join(table.fieldnames or ['no header line'])}."
                )
            rows = [
                {name: row[column] for name, column in self.columns.items()}
                for row in table
                if all(row[column] for column in self.columns.values())
            ]
        if not rows:
            raise ValueError(f"{self.ann_file}: no row has {' and '.join(self.columns.values())}.")
        folder = Path(self.data_prefix["path"])
        return [
            {KEYS[n]: v if n == "text" else str(folder / v) for n, v in row.items()} for row in rows
        ]
