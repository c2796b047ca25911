import json
import os
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmonepeace.apis import (
    Embedder,
    EmbeddingIndex,
    build_index,
    embedder_of,
    feature_cache,
    find_files,
    read_texts,
    tensor_file,
)
from mmonepeace.apis.feature_cache import embedder_settings
from mmonepeace.models import OnePeaceRetriever
from tests.apis.conftest import TEXTS, write_model
from tests.apis.test_vector_search import unit
from tests.conftest import TINY


def make(rows=5):
    items = [{"modality": "image", "path": f"a/{i}.png", "size": i} for i in range(rows - 1)]
    items.append({"modality": "text", "text": "half \ud800 \n ü"})
    return EmbeddingIndex(unit(rows), items, {"checkpoint": "x.pt", "fingerprint": "12"})


def test_saving_and_loading_is_the_identity(tmp_path):
    before = make()
    before.save(tmp_path / "new/index.safetensors")
    after = EmbeddingIndex.load(tmp_path / "new/index.safetensors")
    np.testing.assert_array_equal(after.embeddings, before.embeddings)
    assert (after.items, after.meta) == (before.items, before.meta)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["index.safetensors"]


def test_a_loaded_index_stays_on_the_disk_and_can_be_saved_again(tmp_path):
    make(9).save(tmp_path / "a.safetensors")
    loaded = EmbeddingIndex.load(tmp_path / "a.safetensors")
    assert isinstance(loaded.embeddings, np.memmap)
    assert isinstance(loaded.select("image").embeddings, np.memmap)  # not a copy
    loaded.save(tmp_path / "b.safetensors")
    loaded.select("image").save(tmp_path / "c.safetensors")
    loaded.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    part = EmbeddingIndex.load(tmp_path / "c.safetensors")
    assert part.items == loaded.items[:8]
    np.testing.assert_array_equal(part.embeddings, loaded.embeddings[:8])


def test_the_library_reads_what_is_written_and_items_are_a_list(tmp_path):
    index = make()
    index.save(tmp_path / "i.safetensors")
    tensors = load_file(tmp_path / "i.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], index.embeddings)
    assert json.loads(tensors["items"].tobytes()) == list(index.items)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_file_of_an_older_version_is_read(tmp_path, rows):
    index = make(5)
    items = list(index.items)[:rows]
    tensors = {
        "embeddings": index.embeddings[:rows],
        "items": np.frombuffer(json.dumps(items).encode(), np.uint8),
    }
    save_file(tensors, tmp_path / "i.safetensors", {**index.meta, "format": "mmonepeace-index"})
    loaded = EmbeddingIndex.load(tmp_path / "i.safetensors")
    assert (loaded.items, loaded.meta) == (items, index.meta)
    np.testing.assert_array_equal(loaded.embeddings, index.embeddings[:rows])


def test_an_item_that_is_damaged_is_named_when_it_is_read(tmp_path):
    make(3).save(tmp_path / "i.safetensors")
    content = (tmp_path / "i.safetensors").read_bytes()
    (tmp_path / "i.safetensors").write_bytes(content.replace(b'"a/1.png"', b'"a/1.png\0'))
    loaded = EmbeddingIndex.load(tmp_path / "i.safetensors")
    assert loaded.items[0]["path"] == "a/0.png"
    with pytest.raises(ValueError, match="item 1 of the index is damaged"):
        loaded.items[1]
    (tmp_path / "i.safetensors").write_bytes(content[:-9])
    with pytest.raises(ValueError, match="cannot be read as an index"):
        EmbeddingIndex.load(tmp_path / "i.safetensors")


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    make().save(tmp_path / "old/index.safetensors")
    (tmp_path / "old").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    loaded = EmbeddingIndex.load("index.safetensors")
    assert loaded.content(loaded.items[0]) == tmp_path / "moved/a/0.png"
    assert loaded.select("text").content(loaded.items[-1]) == "half \ud800 \n ü"


def test_select_keeps_rows_with_their_items():
    complete = make()
    part = complete.select("text")
    assert part.items == complete.items[-1:]
    np.testing.assert_array_equal(part.embeddings, complete.embeddings[-1:])
    (score, item), *_ = complete.search(complete.embeddings[2], 3)
    assert item == complete.items[2]
    assert score == pytest.approx(1)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.safetensors"
    make(3).save(path)

    def full(array):
        yield array[:1]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "_chunks", full)
    with pytest.raises(OSError, match=r"index.safetensors cannot be written: .*No space left"):
        make(5).save(path)
    assert len(EmbeddingIndex.load(path).items) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"cannot be read as an index.*mmonepeace embed"):
        EmbeddingIndex.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as an index"):
        EmbeddingIndex.load(path)
    save_file({"weight": unit(2)}, path)
    with pytest.raises(ValueError, match="is not an index"):
        EmbeddingIndex.load(path)


def test_rows_and_items_must_be_equally_many(tmp_path):
    with pytest.raises(ValueError, match="3 embeddings for 2 items"):
        EmbeddingIndex(unit(3), make(2).items)


def test_many_items_exceed_no_limit_of_the_header(tmp_path):
    """Metadata of a safetensors file are limited to 100 MB, its tensors are not."""
    text = "x" * 10_000
    many = EmbeddingIndex(unit(11_000), [{"modality": "text", "text": text}] * 11_000)
    assert len(many.items.text) > 100_000_000
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


# ------------------------------------------------------------------------------------- building


def sources(data):
    found = {m: find_files(data / f"{m}s", m, {}) for m in ("image", "audio")}
    return {"text": read_texts(data / "texts.txt"), **found}


@pytest.fixture
def watched(embedder, monkeypatch):
    """The embedder, and how many items of each modality it was called with."""
    counts = Counter()
    encode = Embedder._encode

    def counted(self, modalities, errors):
        counts.update({name: len(values) for name, values in modalities.items()})
        return encode(self, modalities, errors)

    monkeypatch.setattr(Embedder, "_encode", counted)
    return embedder, counts


def test_a_model_without_audio_makes_an_index(data):
    model = OnePeaceRetriever(dict(arch=TINY, modalities=("image",), img_size=64))
    out, images = data / "images.safetensors", {"image": find_files(data / "images", "image", {})}
    assert build_index(Embedder(model), out, images).embedded == 5
    assert build_index(Embedder(model), out, images).kept == 5


def test_an_index_holds_what_embedding_gives(embedder, data):
    steps = []
    built = build_index(
        embedder, data / "out/i.safetensors", sources(data), {"checkpoint": "x"},
        lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    index = EmbeddingIndex.load(data / "out/i.safetensors")
    assert index.items == built.index.items
    assert Counter(i["modality"] for i in index.items) == {"text": 4, "image": 5, "audio": 3}
    assert (built.embedded, built.kept, built.dropped, built.outdated) == (12, 0, 0, 0)
    assert steps[-1] == (14, 14)
    for modality in ("text", "image", "audio"):
        part = index.select(modality)
        contents = [part.content(item) for item in part.items]
        expected = getattr(embedder, f"encode_{modality}")(contents)
        np.testing.assert_allclose(part.embeddings, expected, atol=1e-5)
    assert sorted(built.failed) == [
        str(data / "audios/broken.wav"),
        str(data / "images/broken.png"),
    ]
    assert all("eave it out" in reason for reason in built.failed.values())
    assert index.meta["fingerprint"] == embedder.fingerprint
    assert (index.meta["checkpoint"], index.meta["dtype"]) == ("x", "float32")
    assert [p.name for p in (data / "out").iterdir()] == ["i.safetensors"]


def test_only_what_changed_is_embedded_again(watched, data):
    embedder, counts = watched
    out = data / "i.safetensors"
    first = build_index(embedder, out, sources(data)).index
    (data / "images/broken.png").unlink()
    (data / "audios/broken.wav").unlink()
    written = out.stat().st_mtime_ns
    counts.clear()
    again = build_index(embedder, out, sources(data))
    assert not counts
    assert (again.embedded, again.kept) == (0, 12)
    assert out.stat().st_mtime_ns == written

    (data / "images/a.png").unlink()
    os.utime(data / "images/b.jpg", ns=(5, 5))
    (data / "texts.txt").write_text("\n".join([*TEXTS[1:], "a new one"]))
    changed = build_index(embedder, out, sources(data))
    assert counts == {"image": 1, "text": 1}
    assert (changed.embedded, changed.kept, changed.dropped) == (2, 9, 2)
    names = [i.get("text") or i["path"] for i in EmbeddingIndex.load(out).items]
    assert "a new one" in names
    assert TEXTS[0] not in names
    assert "images/a.png" not in names
    by_name = dict(zip([str(i) for i in first.items], first.embeddings, strict=True))
    for item, row in zip(changed.index.items, changed.index.embeddings, strict=True):
        np.testing.assert_array_equal(row, by_name.get(str(item), row))


@pytest.fixture
def shards_of_a_batch(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_SECONDS", 0)
    monkeypatch.setattr(feature_cache, "BLOCK_BATCHES", 1)


@pytest.mark.usefixtures("shards_of_a_batch")
def test_a_stopped_run_is_resumed(watched, data, monkeypatch):
    embedder, counts = watched
    out = data / "i.safetensors"
    forward, calls = Embedder._forward, []

    def stopped(self, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, inputs)

    monkeypatch.setattr(Embedder, "_forward", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_index(embedder, out, sources(data))
    assert not out.exists()
    parts = list((data / "i.safetensors.parts").iterdir())
    assert len(parts) == 2
    known = sum(len(EmbeddingIndex.load(part).items) for part in parts)
    (data / "i.safetensors.parts/.1.safetensors.9.part").write_bytes(b"half of a shard")
    (data / "i.safetensors.parts/2.safetensors").write_bytes(b"damaged")
    counts.clear()
    built = build_index(embedder, out, sources(data))
    assert (built.kept, built.embedded) == (known, 12 - known)
    assert sum(counts.values()) == 14 - known  # and the two broken files
    assert any("2.safetensors cannot be read" in reason for reason in built.failed.values())
    assert not (data / "i.safetensors.parts").exists()
    complete = build_index(embedder, data / "complete.safetensors", sources(data)).index
    assert complete.items == built.index.items
    np.testing.assert_allclose(complete.embeddings, built.index.embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({}, {}),
        ({"image_size": 32}, {"image": 6}),
        ({"keep_ratio": True}, {"image": 6}),
        ({"fast_jpeg": True}, {"image": 6}),
        ({"window_seconds": 0.3, "hop_seconds": 0.3}, {"audio": 4}),
        ({"dtype": "bf16"}, {"text": 4, "image": 6, "audio": 4}),
    ],
)
def test_other_settings_concern_their_modality(watched, checkpoint_file, data, options, again):
    embedder, counts = watched
    out = data / "i.safetensors"
    build_index(embedder, out, sources(data))
    counts.clear()
    other = Embedder.from_checkpoint(checkpoint_file, device="cpu", **options)
    built = build_index(other, out, sources(data))
    broken = {"image": 1, "audio": 1}
    assert counts == broken | again
    assert built.outdated == sum(again.values()) - sum(broken[m] for m in again if m in broken)


def test_another_model_embeds_everything_again(embedder, data, tmp_path):
    out = data / "i.safetensors"
    build_index(embedder, out, sources(data))
    other = Embedder.from_checkpoint(write_model(tmp_path / "other", seed=1), device="cpu")
    built = build_index(other, out, sources(data))
    assert (built.embedded, built.kept, built.outdated) == (12, 0, 12)
    assert EmbeddingIndex.load(out).meta["fingerprint"] == other.fingerprint


def test_the_type_of_stored_embeddings_is_kept_and_more_precision_is_embedded_again(watched, data):
    embedder, counts = watched
    exact = build_index(embedder, data / "exact.safetensors", sources(data)).index
    out = data / "i.safetensors"
    build_index(embedder, out, sources(data), index_dtype="fp16")
    half = EmbeddingIndex.load(out)
    assert half.embeddings.dtype == np.float16
    np.testing.assert_array_equal(half.embeddings, exact.embeddings.astype(np.float16))
    assert out.stat().st_size < (data / "exact.safetensors").stat().st_size
    counts.clear()
    assert build_index(embedder, out, sources(data)).kept == 12
    assert EmbeddingIndex.load(out).embeddings.dtype == np.float16
    assert build_index(embedder, out, sources(data), index_dtype="fp32").outdated == 12
    np.testing.assert_array_equal(EmbeddingIndex.load(out).embeddings, exact.embeddings)
    built = build_index(embedder, out, sources(data), index_dtype="fp16")
    assert (built.kept, built.index.embeddings.dtype) == (12, np.float16)  # rounded
    with pytest.raises(ValueError, match="index_dtype is 'int8'; choose one of fp32, fp16"):
        build_index(embedder, out, sources(data), index_dtype="int8")


def test_a_file_that_is_not_an_index_is_not_overwritten(embedder, checkpoint_file, data):
    precious = data / "model.safetensors"
    precious.write_bytes(checkpoint_file.read_bytes())
    with pytest.raises(ValueError, match="is not an index"):
        build_index(embedder, precious, sources(data))
    assert precious.read_bytes() == checkpoint_file.read_bytes()


def test_nothing_readable_is_an_error(embedder, data):
    broken = {"image": [data / "images/broken.png", data / "images/gone.png"]}
    with pytest.raises(
        ValueError, match=r"nothing could be embedded, 2 failed; first: .*gone\.png"
    ):
        build_index(embedder, data / "i.safetensors", broken)
    assert not (data / "i.safetensors").exists()


@pytest.mark.usefixtures("shards_of_a_batch")
def test_a_full_disk_keeps_the_finished_parts(embedder, data, monkeypatch):
    save, saved = EmbeddingIndex.save, []

    def full(self, path):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(save(self, path))

    monkeypatch.setattr(EmbeddingIndex, "save", full)
    with pytest.raises(OSError, match="No space left"):
        build_index(embedder, data / "i.safetensors", sources(data))
    assert len(list((data / "i.safetensors.parts").iterdir())) == 2


def test_embeddings_that_overflow_are_left_out(embedder, data, monkeypatch):
    forward = Embedder._forward

    def overflowing(self, inputs):
        found = forward(self, inputs).clone()
        found[0] = np.nan
        return found

    monkeypatch.setattr(Embedder, "_forward", overflowing)
    built = build_index(embedder, data / "i.safetensors", {"text": TEXTS})
    assert len(built.index.items) == 3
    assert ["is not finite" in reason for reason in built.failed.values()] == [True]


def test_the_model_of_an_index_is_found_and_checked(embedder, checkpoint_file, data, tmp_path):
    out = data / "i.safetensors"
    options = {
        "image_size": 32,
        "keep_ratio": True,
        "fast_jpeg": True,
        "window_seconds": 0.5,
        "hop_seconds": 0.25,
    }
    made = Embedder.from_checkpoint(checkpoint_file, device="cpu", dtype="bf16", **options)
    build_index(made, out, sources(data), {"checkpoint": str(checkpoint_file)})
    index = EmbeddingIndex.load(out)
    again = embedder_of(index, device="cpu")
    assert embedder_settings(again) == embedder_settings(made)
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(
        ValueError, match=r"another checkpoint .* --checkpoint, or run mmonepeace embed"
    ):
        embedder_of(index, other, device="cpu")
    index.meta["checkpoint"] = str(tmp_path / "gone.pt")
    with pytest.raises(ValueError, match=r"gone\.pt, which is gone. Name it: --checkpoint"):
        embedder_of(index, device="cpu")
