"""Indexes as Parquet tables."""

import importlib.util
import os
import sys

import numpy as np
import pytest

from mmonepeace.apis import EmbeddingIndex, parquet
from mmonepeace.apis.parquet import write_parquet
from tests.apis.test_index import make, unit
from tests.processes import run_tool


@pytest.fixture
def pq():
    pytest.importorskip("pyarrow")
    return importlib.import_module("pyarrow.parquet")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_table_has_what_the_index_has(pq, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(parquet, "ROW_GROUP", 2)
    items = [{"modality": "image", "path": f"a/{i}.png", "size": i} for i in range(4)]
    items.append({"modality": "text", "text": "two\nlines, ü"})
    embeddings = unit(5).astype(dtype)
    EmbeddingIndex(embeddings, items, {"checkpoint": "x.pt"}).save(tmp_path / "i.safetensors")
    index = EmbeddingIndex.load(tmp_path / "i.safetensors")
    out = tmp_path / "tables/i.parquet"
    write_parquet(index, out)
    file = pq.ParquetFile(out)
    assert file.num_row_groups == 3
    assert str(file.schema_arrow.field("embedding").type) == "fixed_size_list<element: float>[8]"
    assert file.schema_arrow.metadata[b"checkpoint"] == b"x.pt"
    table = file.read().to_pydict()
    np.testing.assert_array_equal(np.array(table["embedding"], np.float32), embeddings)
    assert table["modality"] == ["image"] * 4 + ["text"]
    assert table["path"] == [*(f"../a/{i}.png" for i in range(4)), None]
    assert table["text"] == [None] * 4 + ["two\nlines, ü"]


def test_names_that_are_not_unicode_are_refused(pq, tmp_path):
    items = [{"modality": "image", "path": os.fsdecode(b"caf\xe9.png")}]
    with pytest.raises(ValueError, match=r"caf.*is not Unicode.*Rename the file"):
        write_parquet(EmbeddingIndex(unit(1), items), tmp_path / "i.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_tool_converts(pq, tmp_path):
    make(4).select("image").save(tmp_path / "i.safetensors")
    out = tmp_path / "i.parquet"
    done = run_tool("convert_index.py", tmp_path / "i.safetensors", out)
    assert done.stdout == f"{out}: 3 items.\n"
    assert pq.read_table(out).num_rows == 3


def without_pyarrow():
    sys.modules["pyarrow"] = None


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("i.parquet", "pip install pyarrow"),
        ("i.txt", "expected a file that ends with .parquet, .csv or .npy"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(tmp_path, out, words):
    make().save(tmp_path / "i.safetensors")
    arguments = "convert_index.py", tmp_path / "i.safetensors", tmp_path / out
    done = run_tool(*arguments, check=False, prepare=without_pyarrow)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / out).exists()
