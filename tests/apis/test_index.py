import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmonepeace.apis import EmbeddingIndex, index, search


def unit(rows, width=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make(rows=5):
    items = [{"modality": "image", "path": f"a/{i}.png", "size": i} for i in range(rows - 1)]
    items.append({"modality": "text", "text": "half \ud800 \n ü"})
    return EmbeddingIndex(unit(rows), items, {"checkpoint": "x.pt", "fingerprint": "12"})


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_search_agrees_with_sorting_everything(monkeypatch, chunk):
    monkeypatch.setattr(index, "CHUNK", chunk)
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


def test_saving_and_loading_is_the_identity(tmp_path):
    before = make()
    before.save(tmp_path / "new/index.safetensors")
    after = EmbeddingIndex.load(tmp_path / "new/index.safetensors")
    np.testing.assert_array_equal(after.embeddings, before.embeddings)
    assert (after.items, after.meta) == (before.items, before.meta)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["index.safetensors"]


def test_paths_start_where_the_file_lies(tmp_path, monkeypatch):
    make().save(tmp_path / "old/index.safetensors")
    (tmp_path / "old").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    loaded = EmbeddingIndex.load("index.safetensors")
    assert loaded.content(loaded.items[0]) == tmp_path / "moved/a/0.png"
    assert loaded.select("text").content(loaded.items[-1]) == "half \ud800 \n ü"


def test_select_keeps_rows_with_their_items():
    whole = make()
    part = whole.select("text")
    assert part.items == whole.items[-1:]
    np.testing.assert_array_equal(part.embeddings, whole.embeddings[-1:])
    (score, item), *_ = whole.search(whole.embeddings[2], 3)
    assert item == whole.items[2]
    assert score == pytest.approx(1)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.safetensors"
    make(3).save(path)

    def full(tensors, file, meta):
        file.write_bytes(b"half")
        raise index.SafetensorError("No space left on device")

    monkeypatch.setattr(index, "save_file", full)
    with pytest.raises(OSError, match=r"index.safetensors cannot be written: No space left"):
        make(5).save(path)
    assert len(EmbeddingIndex.load(path).items) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"cannot be read as an index.*embed\.py"):
        EmbeddingIndex.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as an index"):
        EmbeddingIndex.load(path)
    save_file({"weight": unit(2)}, path)
    with pytest.raises(ValueError, match="is no index"):
        EmbeddingIndex.load(path)


def test_rows_and_items_must_be_equally_many(tmp_path):
    with pytest.raises(ValueError, match="3 embeddings for 2 items"):
        EmbeddingIndex(unit(3), make(2).items)


def test_many_items_exceed_no_limit_of_the_header(tmp_path):
    """Metadata of a safetensors file are limited to 100 MB, its tensors are not."""
    text = "x" * 10_000
    many = EmbeddingIndex(unit(11_000), [{"modality": "text", "text": text}] * 11_000)
    assert len(json.dumps(many.items)) > 100_000_000
    many.save(tmp_path / "index.safetensors")
    assert len(EmbeddingIndex.load(tmp_path / "index.safetensors").items) == 11_000


def test_the_embedder_compares_combines_and_searches_too(embedder):
    texts = embedder.encode_text(["a red square", "a dog", "rain"])
    index = EmbeddingIndex(texts, [{"modality": "text", "text": str(i)} for i in range(3)])
    query = embedder.combine(texts[1], texts[1], weights=[1, 2])
    scores, rows = embedder.search(query, index, k=2)
    assert rows[0, 0] == 1
    assert scores[0, 0] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(embedder.similarity(texts, texts).diagonal(), 1, atol=1e-5)
