import os
from collections import Counter

import numpy as np
import pytest

from mmonepeace.apis import (
    Embedder,
    EmbeddingIndex,
    build_index,
    building,
    embedder_of,
    find_files,
    read_table,
    read_texts,
)  # fmt: skip
from mmonepeace.models import OnePeaceRetriever
from tests.apis.conftest import TEXTS, write_model
from tests.conftest import TINY


def sources(data):
    found = {m: find_files(data / f"{m}s", m, {}) for m in ("image", "audio")}
    return {"text": read_texts(data / "texts.txt"), **found}


@pytest.fixture
def watched(embedder, monkeypatch):
    """The embedder, and how many items of each modality it was asked for."""
    counts = Counter()
    encode = Embedder._encode

    def counted(self, modalities, errors):
        counts.update({name: len(values) for name, values in modalities.items()})
        return encode(self, modalities, errors)

    monkeypatch.setattr(Embedder, "_encode", counted)
    return embedder, counts


def test_folders_are_walked_sorted_and_without_hidden_files(data):
    (data / "images/.cache").mkdir()
    (data / "images/.cache/a.png").write_bytes(b"")
    names = [p.relative_to(data / "images").as_posix() for p in find_files(data / "images", "image", {})]  # fmt: skip
    assert names == ["a.png", "b.jpg", "broken.png", 'deep/<d> & "é".png', "deep/c.PNG", "deep/e.bmp"]  # fmt: skip
    with pytest.raises(ValueError, match=r"has no audio files: none ends with one of \.aif"):
        find_files(data / "images", "audio", {})
    with pytest.raises(ValueError, match="is no folder"):
        find_files(data / "gone", "image", {})


def test_a_model_without_sound_makes_an_index(data):
    model = OnePeaceRetriever(dict(arch=TINY, modalities=("image",), img_size=64))
    out, images = data / "images.safetensors", {"image": find_files(data / "images", "image", {})}
    assert build_index(Embedder(model), out, images).embedded == 5
    assert build_index(Embedder(model), out, images).kept == 5


def test_texts_of_lines_and_of_tables(data):
    assert read_texts(data / "texts.txt") == TEXTS
    table = data / "t.tsv"
    table.write_text('caption\tid\na "dog"\t1\na cat\t2\na "dog"\t3\n\t4\n', encoding="utf-8")
    assert read_texts(table) == ['a "dog"', "a cat"]
    with pytest.raises(ValueError, match="no column title; there is caption, id"):
        read_texts(table, "title")
    (data / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read_texts(data / "latin.txt")


def test_tables_tell_their_modality(data):
    table = data / "t.tsv"
    table.write_text("file\tkind\nx.wav\tdog\ny.flac\tcat\n")
    assert read_table(table, "file", "kind") == (
        "audio", [str(data / "x.wav"), str(data / "y.flac")], ["dog", "cat"]
    )  # fmt: skip
    table.write_text("file\tkind\nx.wav\tdog\ny.png\tcat\n")
    with pytest.raises(ValueError, match=r"end with \.png, \.wav; expected images only"):
        read_table(table, "file", "kind")


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
    assert all(
        "Leave it out" in reason or "cannot be" in reason for reason in built.failed.values()
    )
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


def test_a_stopped_run_goes_on(watched, data, monkeypatch):
    embedder, counts = watched
    monkeypatch.setattr(building, "PART_SECONDS", 0)  # parts of one batch
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
    (data / "i.safetensors.parts/.1.safetensors.9.part").write_bytes(b"half of a part")
    (data / "i.safetensors.parts/2.safetensors").write_bytes(b"damaged")
    counts.clear()
    built = build_index(embedder, out, sources(data))
    assert (built.kept, built.embedded) == (known, 12 - known)
    assert sum(counts.values()) == 14 - known  # and the two broken files
    assert any("2.safetensors cannot be read" in reason for reason in built.failed.values())
    assert not (data / "i.safetensors.parts").exists()
    whole = build_index(embedder, data / "whole.safetensors", sources(data)).index
    assert whole.items == built.index.items
    np.testing.assert_allclose(whole.embeddings, built.index.embeddings, atol=1e-5)


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


def test_a_file_that_is_no_index_is_not_overwritten(embedder, checkpoint_file, data):
    precious = data / "model.safetensors"
    precious.write_bytes(checkpoint_file.read_bytes())
    with pytest.raises(ValueError, match="is no index"):
        build_index(embedder, precious, sources(data))
    assert precious.read_bytes() == checkpoint_file.read_bytes()


def test_nothing_readable_is_an_error(embedder, data):
    broken = {"image": [data / "images/broken.png", data / "images/gone.png"]}
    with pytest.raises(
        ValueError, match=r"nothing could be embedded, 2 failed; first: .*gone\.png"
    ):
        build_index(embedder, data / "i.safetensors", broken)
    assert not (data / "i.safetensors").exists()


def test_a_full_disk_keeps_the_finished_parts(embedder, data, monkeypatch):
    monkeypatch.setattr(building, "PART_SECONDS", 0)
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
    assert building.settings(again) == building.settings(made)
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"another checkpoint .* --checkpoint, or run tools/embed"):
        embedder_of(index, other, device="cpu")
    index.meta["checkpoint"] = str(tmp_path / "gone.pt")
    with pytest.raises(ValueError, match=r"gone\.pt, which is gone. Name it: --checkpoint"):
        embedder_of(index, device="cpu")
