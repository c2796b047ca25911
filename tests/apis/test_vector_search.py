import numpy as np
import pytest

from mmonepeace.apis import combine, search, similarity
from tests.apis.conftest import TEXTS


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
