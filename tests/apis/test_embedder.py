import functools

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.datasets import audio_io, image_io
from tests.apis.conftest import TEXTS
from tests.checkpoint import official

ITEMS = {
    "text": [*TEXTS, "", "rain " * 90],
    "image": [np.random.default_rng(i).random((30 + 9 * i, 50, 3)) for i in range(6)],
    "audio": [(np.random.default_rng(i).standard_normal(1500 + 1700 * i), 16000) for i in range(6)],
}
MODALITIES = pytest.mark.parametrize("modality", ITEMS)


def encode(embedder, modality, items, **options):
    return getattr(embedder, f"encode_{modality}")(items, **options)


@functools.cache
def load(path, **options):
    return Embedder.from_checkpoint(path, device="cpu", **options)


@MODALITIES
def test_embeddings_have_unit_length_and_differ(embedder, modality):
    found = encode(embedder, modality, ITEMS[modality])
    assert found.dtype == np.float32
    assert found.shape == (6, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found[:1] - found[1:]).max(1).min() > 0.1


@MODALITIES
@pytest.mark.parametrize("batch_size", [1, 3])
def test_neighbours_order_and_batch_size_change_nothing(embedder, checkpoint_file, modality, batch_size):  # fmt: skip
    items = ITEMS[modality]
    expected = encode(embedder, modality, items)
    other = load(checkpoint_file, batch_size=batch_size)
    np.testing.assert_allclose(encode(other, modality, items[::-1])[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(encode(other, modality, items[2:3])[0], expected[2], atol=1e-5)


def test_images_of_different_shapes_keep_their_ratio_and_mix(checkpoint_file):
    embedder = load(checkpoint_file, keep_ratio=True, image_size=96)
    wide, high = np.zeros((40, 160, 3), np.uint8), np.full((160, 40, 3), 200, np.uint8)
    both = embedder.encode_image([wide, high, wide])
    np.testing.assert_allclose(both[0], both[2], atol=1e-5)
    np.testing.assert_allclose(both[1], embedder.encode_image([high])[0], atol=1e-5)


def test_fast_jpeg_embeds_what_is_decoded_at_a_part_of_its_size(checkpoint_file, tmp_path):
    path, noise = tmp_path / "large.jpg", np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (600, 800, 3), np.uint8)).save(path)
    plain = load(checkpoint_file, image_size=32)
    fast = load(checkpoint_file, image_size=32, fast_jpeg=True).encode_image([path])
    reduced = image_io.to_rgb(path, 64)
    assert reduced.size == (100, 75)
    np.testing.assert_allclose(fast, plain.encode_image([reduced]), atol=1e-6)
    assert np.abs(fast - plain.encode_image([path])).max() > 1e-5


def test_windows_are_as_long_as_the_clips_of_training(checkpoint_file):
    assert load(checkpoint_file).reader.windows == (15, 7.5)
    model = load(checkpoint_file).model
    model.backbone.adopt_metadata({"audio_clip_seconds": "1.0"})
    assert Embedder(model).reader.windows == (1.0, 0.5)
    assert Embedder(model, window_seconds=3).reader.windows == (3, 1.5)


def test_a_long_clip_is_the_mean_of_its_windows(checkpoint_file):
    embedder = load(checkpoint_file, window_seconds=1.0, hop_seconds=0.5)
    wave = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    windows = audio_io.split_windows(audio_io.standardise(wave), 1.0, 0.5)
    assert len(windows) == 4
    # The windows as clips of their own would be standardised again.
    inputs = {"audio": [torch.from_numpy(w) for w in windows]}
    mean = embedder._forward(inputs).mean(0)
    expected = torch.nn.functional.normalize(mean, dim=0).numpy()
    found = embedder.encode_audio([(wave, 16000)])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_embeddings_from_file_array_and_tensor(embedder, data):
    path = data / "images/a.png"
    image = Image.open(path).convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    rows = embedder.encode_image([str(path), path, image, array, tensor])
    np.testing.assert_allclose(rows, np.tile(rows[0], (5, 1)), atol=1e-6)


@MODALITIES
def test_what_cannot_be_read_is_named_and_the_rest_is_right(embedder, modality):
    bad, words = {
        "text": ("half \ud800", "half of a surrogate pair"),
        "image": ("gone.png", "gone.png: no such file"),
        "audio": ("gone.wav", "gone.wav: no such file"),
    }[modality]
    good = ITEMS[modality][:2]
    errors = {}
    found = encode(embedder, modality, [good[0], bad, good[1]], errors=errors)
    assert list(errors) == [1]
    assert words in errors[1]
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], encode(embedder, modality, good), atol=1e-5)
    with pytest.raises(ValueError, match=words):
        encode(embedder, modality, [good[0], bad])


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_nothing_in_nothing_out(embedder, modality):
    assert encode(embedder, modality, []).shape == (0, 32)


@pytest.mark.parametrize("item", ["a.png", np.zeros((8, 8, 3)), torch.zeros(3, 8, 8)])
def test_one_item_instead_of_a_list_is_an_error(embedder, item):
    with pytest.raises(ValueError, match=r"give a list, \[x\]"):
        embedder.encode_image(item)


def test_text_needs_a_tokenizer(checkpoint_file, tmp_path):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(checkpoint_file.read_bytes())
    embedder = load(alone)
    assert embedder.encode_image(ITEMS["image"][:1]).shape == (1, 32)
    with pytest.raises(ValueError, match=r"no tokenizer. Put tokenizer\.json beside"):
        embedder.encode_text(["rain"], errors={})
    given = load(alone, tokenizer=checkpoint_file.with_name("tokenizer.json"))
    assert given.encode_text(["rain"]).shape == (1, 32)


def test_an_absent_branch_is_named(embedder, monkeypatch):
    monkeypatch.delitem(embedder.model.backbone.adapters._modules, "audio")
    with pytest.raises(ValueError, match=r"no audio branch, only \('text', 'image'\)"):
        embedder.encode_audio(ITEMS["audio"])


def test_unknown_dtype_and_output_are_errors(checkpoint_file):
    with pytest.raises(ValueError, match="dtype is 'int8'; choose one of fp32"):
        load(checkpoint_file, dtype="int8")
    with pytest.raises(ValueError, match="output is 'list'"):
        load(checkpoint_file, output="list")


@MODALITIES
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_close(embedder, checkpoint_file, modality, dtype):
    found = encode(load(checkpoint_file, dtype=dtype), modality, ITEMS[modality])
    cosines = (found * encode(embedder, modality, ITEMS[modality])).sum(1)
    assert (cosines > 0.98).all()


def test_the_fingerprint_tells_weights_not_files_or_types(embedder, checkpoint_file, tmp_path):
    assert load(checkpoint_file, dtype="bf16").fingerprint == embedder.fingerprint
    converted = checkpoint.read_own(checkpoint_file)
    copy = tmp_path / "copy.pth"
    checkpoint.write(copy, converted)
    assert load(copy).fingerprint == embedder.fingerprint
    changed = tmp_path / "changed.pth"
    converted.weights["projections.text.bias"] = converted.weights["projections.text.bias"] + 1
    checkpoint.write(changed, converted)
    assert load(changed).fingerprint != embedder.fingerprint


def test_an_official_file_without_config_is_as_good_as_ours(tmp_path):
    weights = official.full(vocab_size=280)
    torch.save({"model": weights, "cfg": None}, tmp_path / "one-peace.pt")
    checkpoint.convert_file(tmp_path / "one-peace.pt", tmp_path / "ours.safetensors", "full")
    theirs, ours = (load(tmp_path / n) for n in ("one-peace.pt", "ours.safetensors"))
    assert theirs.fingerprint == ours.fingerprint
    for modality in ("image", "audio"):
        items = ITEMS[modality][:2]
        found = encode(theirs, modality, items)
        np.testing.assert_array_equal(found, encode(ours, modality, items))


def test_a_file_without_projections_is_refused(checkpoint_file, tmp_path):
    vision = tmp_path / "vision.safetensors"
    checkpoint.convert_file(checkpoint_file, vision, "vision")
    with pytest.raises(checkpoint.CheckpointError, match="no projections"):
        load(vision)


@MODALITIES
def test_projected_cls_is_the_embedding_and_the_mean_is_that_of_tokens(embedder, modality):
    items = ITEMS[modality]
    cls = torch.stack(embedder.encode_features(modality, items))
    projected = embedder.model.project({modality: cls})[modality].detach().numpy()
    np.testing.assert_allclose(projected, encode(embedder, modality, items), atol=1e-5)
    tokens = embedder.encode_features(modality, items, "tokens")
    means = embedder.encode_features(modality, items, "mean")
    for x_TD, mean_D in zip(tokens, means, strict=True):
        torch.testing.assert_close(x_TD.mean(0), mean_D, atol=1e-5, rtol=1e-4)


@MODALITIES
def test_neighbours_change_no_token_and_padding_gives_none(embedder, modality):
    items = ITEMS[modality]
    together = embedder.encode_features(modality, items, "tokens")
    alone = [embedder.encode_features(modality, [item], "tokens")[0] for item in items]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_tokens_of_a_long_clip_are_those_of_its_windows(checkpoint_file):
    embedder = load(checkpoint_file, window_seconds=1.0, hop_seconds=0.5, batch_size=3)
    wave = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    (tokens,) = embedder.encode_features("audio", [(wave, 16000)], "tokens")
    windows = audio_io.split_windows(audio_io.standardise(wave), 1.0, 0.5)
    inputs = embedder._batch({"audio": [torch.from_numpy(w) for w in windows]})
    backbone = embedder.model.backbone
    features = backbone.encode(backbone.embed(inputs))["audio"].detach()
    torch.testing.assert_close(tokens, features[:, 1:].flatten(0, 1), atol=1e-4, rtol=1e-3)
    (cls,) = embedder.encode_features("audio", [(wave, 16000)], "cls")
    torch.testing.assert_close(cls, features[:, 0].mean(0), atol=1e-4, rtol=1e-3)


def test_features_of_what_cannot_be_read_are_none(embedder):
    errors = {}
    good = ITEMS["image"][0]
    found = embedder.encode_features("image", [good, "gone.png"], "mean", errors)
    assert found[1] is None
    assert "gone.png: no such file" in errors[1]
    torch.testing.assert_close(found[0], embedder.encode_features("image", [good], "mean")[0])
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        embedder.encode_features("image", ["gone.png"])
    with pytest.raises(ValueError, match=r"pooling is 'max'; choose one of \('cls'"):
        embedder.encode_features("image", [good], "max")


def test_a_vision_branch_gives_the_features_of_the_whole_but_no_embeddings(
    embedder, checkpoint_file, tmp_path
):
    vision = tmp_path / "vision.safetensors"
    checkpoint.convert_file(checkpoint_file, vision, "vision")
    half = load(vision, projections=False)
    assert not half.model.backbone.norms
    (found,) = half.encode_features("image", ITEMS["image"][:1], "tokens")
    (whole,) = embedder.encode_features("image", ITEMS["image"][:1], "tokens")
    normed = embedder.model.backbone.norms["image"](found).detach()
    torch.testing.assert_close(normed, whole, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="no projections, so it gives no embeddings"):
        half.encode_image(ITEMS["image"][:1])
    with pytest.raises(ValueError, match="no audio branch"):
        half.encode_features("audio", ITEMS["audio"][:1])


def test_torch_and_numpy_output_agree(embedder, checkpoint_file):
    tensor = load(checkpoint_file, output="torch").encode_text(TEXTS)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), embedder.encode_text(TEXTS), atol=1e-6)


def test_joint_embeddings_see_all_their_inputs(embedder):
    images, texts = ITEMS["image"][:2], TEXTS[:2]
    joint = embedder.encode_joint(image=images, text=texts)
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, atol=1e-5)
    swapped = embedder.encode_joint(image=images, text=texts[::-1])
    assert np.abs(joint - swapped).max() > 1e-3
    with pytest.raises(ValueError, match="different numbers of items"):
        embedder.encode_joint(image=images, text=texts[:1])


def test_heat_maps_have_the_size_of_the_image(embedder):
    queries = embedder.encode_text(TEXTS[:3])
    maps = embedder.heat_maps(np.zeros((37, 91, 3), np.uint8), queries)
    assert maps.shape == (3, 37, 91)
    assert np.isfinite(maps).all()


def test_a_heat_map_peaks_where_the_query_is(checkpoint_file, monkeypatch):
    """Patches are replaced by known ones: the query's own at one place, its opposite elsewhere."""
    embedder = load(checkpoint_file, image_size=64)
    query = np.eye(32, dtype=np.float32)[:1]
    grid = torch.full((4, 4, 32), 0.0)
    grid[..., 0] = -1
    grid[2, 1, 0] = 1  # third row, second column
    monkeypatch.setattr(embedder.model, "embed_patches", lambda _: (grid[0, 0], grid[None]))
    maps = embedder.heat_maps(np.zeros((100, 100, 3), np.uint8), query)
    y, x = np.unravel_index(maps[0].argmax(), maps[0].shape)
    assert abs(y - 62) <= 3
    assert abs(x - 37) <= 3
    assert maps[0, :25].max() < 0


def test_a_video_is_the_mean_of_its_frames(embedder, tmp_path):
    frames = [Image.fromarray((x * 255).astype(np.uint8)) for x in ITEMS["image"][:1] * 3]
    others = [Image.fromarray((255 * x).astype(np.uint8)).resize(frames[0].size) for x in ITEMS["image"]]  # fmt: skip
    path = tmp_path / "a.webp"
    others[0].save(path, save_all=True, append_images=others[1:4], duration=100, lossless=True)
    still, clip, moving = embedder.encode_video([frames, others[:4], str(path)])
    np.testing.assert_allclose(still, embedder.encode_image(frames[:1])[0], atol=1e-5)
    mean = embedder.encode_image(others[:4]).mean(0)
    np.testing.assert_allclose(clip, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(moving, clip, atol=1e-4)
    errors = {}
    found = embedder.encode_video([tmp_path / "no.webp", path], errors)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], moving, atol=1e-5)
    assert "no such file" in errors[0]
