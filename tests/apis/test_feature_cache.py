import os
from collections import Counter

import numpy as np
import pytest
import torch

from mmonepeace.apis import Embedder, feature_cache
from mmonepeace.apis.feature_cache import extract_features
from mmonepeace.apis.item_reader import ItemReader
from mmonepeace.datasets.feature_shards import Features


@pytest.fixture
def computed(embedder, monkeypatch):
    """How many items went through the model."""
    counts = Counter()
    batches = ItemReader.batches

    def counted(self, rows, *options):
        counts["items"] += len(rows)
        return batches(self, rows, *options)

    monkeypatch.setattr(ItemReader, "batches", counted)
    return counts


@pytest.fixture
def images(data):
    return [data / "images" / name for name in ("a.png", "b.jpg", "deep/c.PNG", "deep/e.bmp")]


@pytest.fixture
def clips(data):
    return [data / "audios" / name for name in ("z.ogg", "x.wav", "y.flac")]


def test_embeddings_are_those_of_the_embedder(embedder, images, clips, tmp_path):
    for modality, paths in (("image", images), ("audio", clips)):
        found, errors = extract_features(embedder, modality, paths, "embedding", tmp_path / "cache")
        expected = getattr(embedder, f"encode_{modality}")(paths)
        np.testing.assert_allclose(found.vectors().numpy(), expected, atol=1e-5)
        assert errors == {}


@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_pooled_features_are_those_of_the_encoder(embedder, clips, tmp_path, feature):
    found, _ = extract_features(embedder, "audio", clips, feature, tmp_path / "cache")
    expected = torch.stack(embedder.encode_features("audio", clips, feature))
    torch.testing.assert_close(found.vectors(), expected, atol=1e-5, rtol=1e-4)


def test_tokens_are_normalised_in_half_precision_and_padded(embedder, clips, tmp_path):
    found, _ = extract_features(embedder, "audio", clips, "tokens", tmp_path / "cache")
    expected = embedder.encode_features("audio", clips, "tokens")
    assert {shard.dtype for shard in found.shards} == {torch.float16}
    x_BTD, pad_BT = found.sequences(torch.tensor([2, 0]))
    assert x_BTD.shape[1] == max(len(x) for x in expected)
    for x_TD, pad_T, i in zip(x_BTD, pad_BT, (2, 0), strict=True):
        normalised = torch.nn.functional.layer_norm(expected[i], (found.embed_dim,))
        torch.testing.assert_close(x_TD[~pad_T], normalised, atol=4e-3, rtol=0)
        assert (x_TD[pad_T] == 0).all()


def test_what_is_known_is_not_computed_again(embedder, images, tmp_path, computed):
    cache = tmp_path / "cache"
    first, _ = extract_features(embedder, "image", images[:3], "embedding", cache)
    assert computed["items"] == 3
    again, _ = extract_features(embedder, "image", images[:3], "embedding", cache)
    assert computed["items"] == 3
    torch.testing.assert_close(again.vectors(), first.vectors(), atol=0, rtol=0)
    # Another table: other rows, another order, one twice.
    order = [images[i] for i in (3, 1, 0, 1)]
    other, _ = extract_features(embedder, "image", order, "embedding", cache)
    assert computed["items"] == 4
    expected = first.vectors()[[1, 0, 1]]
    torch.testing.assert_close(other.vectors()[1:], expected, atol=0, rtol=0)


def test_changed_files_weights_and_settings_are_computed(
    embedder, checkpoint_file, images, tmp_path, computed
):
    def extract(model, feature="embedding"):
        computed.clear()
        found, _ = extract_features(model, "image", images, feature, tmp_path / "cache")
        return computed["items"], found.vectors()

    first = extract(embedder)[1]
    images[0].write_bytes(images[1].read_bytes())
    assert extract(embedder)[0] == 1
    assert not torch.equal(extract(embedder)[1][0], first[0])
    os.utime(images[2], ns=(1, 1))
    assert extract(embedder)[0] == 1
    assert extract(embedder, "cls")[0] == 4
    smaller = Embedder.from_checkpoint(checkpoint_file, device="cpu", image_size=32)
    assert extract(smaller)[0] == 4
    other = Embedder(embedder.model, fingerprint="of other weights")
    assert extract(other)[0] == 4
    assert extract(embedder)[0] == 0


def test_a_stopped_run_keeps_what_is_done(embedder, images, tmp_path, computed, monkeypatch):
    encode = Embedder.encode
    calls = iter([encode])

    def stopped(self, modality, paths, errors):
        return next(calls, None)(self, modality, paths, errors)  # the second call fails

    monkeypatch.setattr(feature_cache, "SHARD_SECONDS", 0)
    monkeypatch.setattr(feature_cache, "BLOCK_BATCHES", 1)
    small = Embedder(embedder.model, batch_size=3)
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "encode", stopped)
        with pytest.raises(TypeError):
            extract_features(small, "image", images, "embedding", tmp_path / "cache")
    computed.clear()
    extract_features(small, "image", images, "embedding", tmp_path / "cache")
    assert computed["items"] == 1


def test_what_cannot_be_read_is_named_and_left_out(embedder, images, data, tmp_path):
    paths = [images[0], data / "images/broken.png", data / "gone.png", images[1]]
    found, errors = extract_features(embedder, "image", paths, "embedding", tmp_path / "cache")
    assert list(errors) == [str(paths[2]), str(paths[1])]
    assert "broken.png: it is not an image of a known format" in errors[str(paths[1])]
    assert "gone.png: No such file" in errors[str(paths[2])]
    expected = embedder.encode_image([images[0], images[1]])
    np.testing.assert_allclose(found.vectors().numpy(), expected, atol=1e-5)


def test_features_that_are_not_finite_are_left_out(embedder, images, tmp_path, monkeypatch):
    rows = embedder.encode_features("image", images)
    rows[1][3] = torch.inf
    monkeypatch.setattr(Embedder, "encode_features", lambda *_: rows)
    found, errors = extract_features(embedder, "image", images, "cls", tmp_path / "cache")
    assert len(found) == 3
    assert errors[str(images[1])] == f"{images[1]}: its cls is not finite."
    scale = embedder.model.logit_scale
    monkeypatch.setattr(scale, "data", scale.data.half())
    _, errors = extract_features(embedder, "image", images, "cls", tmp_path / "half")
    assert "not finite. float16 ends at 65504: use --dtype bf16 or fp32" in errors[str(images[1])]


def test_a_damaged_shard_is_named(embedder, images, tmp_path):
    cache = tmp_path / "cache"
    extract_features(embedder, "image", images, "embedding", cache)
    (shard,) = cache.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"safetensors is damaged: .* Delete it"):
        extract_features(embedder, "image", images, "embedding", cache)


def test_an_absent_branch_and_absent_projections_are_named(embedder, images, tmp_path, monkeypatch):
    monkeypatch.delitem(embedder.model.projections._modules, "image")
    with pytest.raises(ValueError, match=r"no projections.*cls, mean, tokens"):
        extract_features(embedder, "image", images, "embedding", tmp_path)
    monkeypatch.delitem(embedder.model.backbone.adapters._modules, "image")
    with pytest.raises(ValueError, match="no image branch, only"):
        extract_features(embedder, "image", images, "cls", tmp_path)


def test_taking_rows_takes_their_features():
    shards = [torch.arange(8.0).view(4, 2), torch.arange(8.0, 12).view(2, 2)]
    features = Features(shards, torch.tensor([[1, 1, 1], [0, 0, 1], [0, 3, 1]]))
    assert features.vectors().tolist() == [[10, 11], [0, 1], [6, 7]]
    assert features.take(torch.tensor([2, 0])).vectors().tolist() == [[6, 7], [10, 11]]
    assert len(features.take(torch.tensor([], dtype=torch.long))) == 0
