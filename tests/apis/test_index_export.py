"""Indices as CSV and NumPy files; Parquet is in test_parquet.py."""

import csv
import json
import os

import numpy as np
import pytest

from mmonepeace.apis import EmbeddingIndex, export_index, index_export
from tests.apis.test_index import make, unit
from tests.processes import run_tool

ITEMS = [
    *({"modality": "image", "path": f"a/{i}.png", "size": i} for i in range(4)),
    {"modality": "text", "text": 'two\nlines, "ü"'},
    {"modality": "audio", "path": os.fsdecode(b"caf\xe9.wav")},
]


@pytest.fixture(params=[np.float32, np.float16])
def index(request, tmp_path, monkeypatch):
    monkeypatch.setattr(index_export, "ROW_GROUP", 2)
    embeddings = unit(len(ITEMS)).astype(request.param)
    EmbeddingIndex(embeddings, ITEMS, {"checkpoint": "x.pt"}).save(tmp_path / "i.safetensors")
    return EmbeddingIndex.load(tmp_path / "i.safetensors")


def test_a_csv_has_what_the_index_has(index, tmp_path):
    export_index(index, tmp_path / "tables/i.csv")
    text = (tmp_path / "tables/i.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["modality"] for row in rows] == [item["modality"] for item in ITEMS]
    assert [row["path"] for row in rows] == [
        *(f"../a/{i}.png" for i in range(4)), "", os.fsdecode(b"../caf\xe9.wav"),
    ]  # fmt: skip
    assert rows[4]["text"] == 'two\nlines, "ü"'
    read = np.array([json.loads(row["embedding"]) for row in rows]).astype(index.embeddings.dtype)
    np.testing.assert_array_equal(read, index.embeddings)


def test_an_array_comes_with_its_items(index, tmp_path):
    export_index(index, tmp_path / "tables/i.npy")
    read = np.load(tmp_path / "tables/i.npy", allow_pickle=False)
    assert read.dtype == index.embeddings.dtype
    np.testing.assert_array_equal(read, index.embeddings)
    items = json.loads((tmp_path / "tables/i.json").read_text())
    moved = [x | {"path": f"../{x['path']}"} if "path" in x else x for x in ITEMS]
    assert items == moved


def test_an_empty_index_is_an_empty_file(tmp_path):
    index = EmbeddingIndex(np.zeros((0, 8), np.float32), [])
    for suffix in (".csv", ".npy"):
        export_index(index, tmp_path / f"i{suffix}")
    assert np.load(tmp_path / "i.npy").shape == (0, 8)
    assert json.loads((tmp_path / "i.json").read_text()) == []
    assert (tmp_path / "i.csv").read_text().splitlines() == ["modality,path,text,embedding"]


def test_a_text_that_is_not_unicode_is_one_line(tmp_path):
    index = make()
    index.folder = tmp_path
    with pytest.raises(ValueError, match=r"half .*is not Unicode.*convert to \.npy"):
        export_index(index, tmp_path / "i.csv")
    assert list(tmp_path.iterdir()) == []
    export_index(index, tmp_path / "i.npy")
    assert json.loads((tmp_path / "i.json").read_text()) == list(index.items)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file that ends with \.parquet, \.csv, \.npy"):
        export_index(make(), tmp_path / "i.txt")


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_the_tool_converts(tmp_path, suffix):
    make(4).select("image").save(tmp_path / "i.safetensors")
    out = tmp_path / f"out{suffix}"
    done = run_tool("convert_index.py", tmp_path / "i.safetensors", out)
    assert done.stdout == f"{out}: 3 items.\n"
    assert out.is_file()
    assert (tmp_path / "out.json").is_file() == (suffix == ".npy")
