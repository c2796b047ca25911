import subprocess
import sys

import numpy as np
import pytest

from mmonepeace.apis import EmbeddingIndex, combine, search, similarity
from mmonepeace.apis.index import save_index
from mmonepeace.apis.item_list import ItemList
from mmonepeace.apis.tensor_file import Rows
from tests.apis.conftest import TEXTS
from tests.conftest import ROOT


def unit(rows, width=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_search_agrees_with_sorting_everything(monkeypatch, chunk):
    monkeypatch.setattr("mmonepeace.apis.vector_search.CHUNK", chunk)
    queries, rows = unit(3, seed=1), unit(50)
    scores, found = search(queries, rows, 10)
    cosines = queries @ rows.T
    np.testing.assert_array_equal(found, np.argsort(-cosines, axis=1)[:, :10])
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)


def test_search_gives_what_there_is_and_nan_last():
    rows = unit(4)
    rows[1] = np.nan
    scores, found = search(rows[0], rows, 9)
    assert found.shape == (1, 4)
    assert found[0, 0] == 0
    assert found[0, -1] == 1
    assert scores[0, -1] == -np.inf
    assert search(rows[0], rows[:0], 3)[0].shape == (1, 0)


@pytest.mark.parametrize(("width", "k"), [(8, 0), (7, 1)])
def test_a_query_that_cannot_be_answered_is_an_error(width, k):
    with pytest.raises(ValueError, match="expected k of at least 1, and queries of the model"):
        search(unit(1, width), unit(3), k)


def test_combine_weighs_and_normalises(embedder):
    a, b = embedder.encode_text(TEXTS[:2])
    np.testing.assert_allclose(combine(a), a, atol=1e-6)
    np.testing.assert_allclose(combine(a, b), (a + b) / np.linalg.norm(a + b), atol=1e-6)
    less = 2 * a - 0.5 * b
    found = combine(a, b, weights=[2, -0.5])
    np.testing.assert_allclose(found, less / np.linalg.norm(less), atol=1e-6)
    with pytest.raises(ValueError, match="cancel out"):
        combine(a, a, weights=[1, -1])
    np.testing.assert_allclose(similarity(a[None], np.stack([a, b])), [[1, a @ b]], atol=1e-6)
    with pytest.raises(ValueError, match="2 embeddings with 1 weights"):
        combine(a, b, weights=[1])


def test_a_mapped_file_in_half_precision_is_searched_as_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("mmonepeace.apis.vector_search.CHUNK", 64)
    rows = unit(1000).astype(np.float16)
    rows[[3, 700]] = np.nan
    items = [{"modality": "text", "text": str(i)} for i in range(1000)]
    EmbeddingIndex(rows, items).save(tmp_path / "i.safetensors")
    index = EmbeddingIndex.load(tmp_path / "i.safetensors")
    assert isinstance(index.embeddings, np.memmap)
    assert index.embeddings.dtype == np.float16
    queries = unit(3, seed=1)
    scores, found = search(queries, index, 10)
    cosines = np.nan_to_num(queries @ rows.astype(np.float32).T, nan=-np.inf)
    np.testing.assert_array_equal(found, np.argsort(-cosines, axis=1)[:, :10])
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)
    np.testing.assert_array_equal(search(queries, index.embeddings[::-1], 10)[1], 999 - found)


def test_the_memory_of_a_search_does_not_grow_with_the_file(tmp_path):
    """Of a file of 200 MB, 100 stay at most; the copy of the whole would be 400."""
    rows, width = 200_000, 512
    some = unit(1000, width).astype(np.float16)
    items = ItemList.of_keys(['{"modality": "text", "text": "a"}'] * rows, np.zeros(rows, np.uint8))
    chunks = (some for _ in range(0, rows, len(some)))
    path = tmp_path / "i.safetensors"
    save_index(path, Rows((rows, width), some.dtype, chunks), items, {})
    code = f"""
import numpy as np
from mmonepeace.apis import EmbeddingIndex
def peak():
    status = open("/proc/self/status").read().split()
    return int(status[status.index("VmHWM:") + 1]) / 1000
query = np.ones({width}, np.float32)
EmbeddingIndex(query[None], [{{"modality": "text", "text": "a"}}]).search(query, 1)
before = peak()
index = EmbeddingIndex.load({str(path)!r})
assert len(index.select("text").search(query, 3)) == 3
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100
