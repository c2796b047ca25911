"""The methods that sentence-transformers and mteb call, and the libraries themselves where they are."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace.apis import MtebEncoder, SentenceTransformerModule, combine
from tests.apis.conftest import TEXTS


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))


@pytest.fixture(scope="module")
def clip():
    return {"array": np.random.default_rng(1).standard_normal(9000), "sampling_rate": 16_000}


@pytest.fixture
def module(embedder):
    return SentenceTransformerModule(embedder)


def encode(module, inputs, **options):
    """As `SentenceTransformer` calls its modules."""
    features = module.preprocess(inputs, **options)
    return module(features)["sentence_embedding"].numpy()


def test_texts_images_and_clips_are_embedded_in_one_batch(embedder, module, image, clip):
    found = encode(
        module, ["rain", image, clip, {"text": "rain", "image": image}, {"image": image}]
    )
    text, picture = embedder.encode_text(["rain"])[0], embedder.encode_image([image])[0]
    sound = embedder.encode_audio([(clip["array"], 16_000)])[0]
    wanted = np.stack([text, picture, sound, combine(text, picture), picture])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found.dtype == np.float32


def test_arrays_and_files_are_what_they_look_like(embedder, module, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image.save("a.png")
    soundfile.write("a.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 9000), 16_000)
    found = encode(module, ["a.png", np.asarray(image), "a.wav", "b.png", "see a.png"])
    picture, sound = embedder.encode_image([image])[0], embedder.encode_audio(["a.wav"])[0]
    texts = embedder.encode_text(["b.png", "see a.png"])
    np.testing.assert_allclose(found, np.stack([picture, picture, sound, *texts]), atol=1e-5)


def test_channels_of_a_clip_are_averaged(module, clip):
    stereo = {"array": np.stack([clip["array"]] * 2), "sampling_rate": 16_000}
    np.testing.assert_allclose(*encode(module, [clip, stereo]), atol=1e-5)


def test_a_prompt_is_put_in_front_of_texts(embedder, module, image):
    found = encode(module, ["dog", image], prompt="a ")
    wanted = [embedder.encode_text(["a dog"])[0], embedder.encode_image([image])[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("item", [3, np.zeros(9000), {"depth": 1}, {}, None])
def test_an_input_of_no_modality_is_refused(module, item):
    with pytest.raises(ValueError, match=r"an input (is|has) "):
        module.preprocess([item])


def test_a_module_says_what_it_is(embedder, module):
    assert module.modalities == ["text", "image", "audio"]
    assert (module.get_embedding_dimension(), module.max_seq_length) == (32, 70)
    assert module.tokenizer is embedder.reader.tokenizer
    assert len(list(module.parameters())) == len(list(embedder.model.parameters()))


def test_a_saved_module_comes_back(module, tmp_path):
    (tmp_path / "0_SentenceTransformerModule").mkdir()  # as the library makes it
    module.save(str(tmp_path / "0_SentenceTransformerModule"), safe_serialization=True)
    again = SentenceTransformerModule.load(str(tmp_path / "0_SentenceTransformerModule"))
    np.testing.assert_allclose(encode(again, TEXTS), encode(module, TEXTS), atol=1e-5)


def batches(image, clip):
    """As a DataLoader of mteb gives them."""
    return [
        {"text": ["rain", "a dog"], "title": ["x", "y"]},
        {"image": [image], "id": ["1"]},
        {"audio": [clip]},
        {"text": ["rain"], "image": [image]},
    ]


def test_mteb_gets_a_row_for_each_sample(embedder, image, clip):
    encoder = MtebEncoder(embedder)
    rows = encoder.encode(
        batches(image, clip), task_metadata=None, hf_split="test", hf_subset="default",
        prompt_type=None, batch_size=8, show_progress_bar=False,
    )  # fmt: skip
    text, picture = embedder.encode_text(["rain", "a dog"]), embedder.encode_image([image])
    sound = embedder.encode_audio([(clip["array"], 16_000)])
    wanted = np.concatenate([text, picture, sound, combine(text[:1], picture)])
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity(rows[:2], rows), rows[:2] @ rows.T, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity(rows[0], rows), rows[:1] @ rows.T, atol=1e-5)
    pairs = encoder.similarity_pairwise(3 * rows[:2], torch.from_numpy(rows[1:3]))
    np.testing.assert_allclose(pairs, (rows[:2] * rows[1:3]).sum(1), atol=1e-5)
    assert encoder.encode([], task_metadata=None).shape == (0, 32)
    with pytest.raises(ValueError, match="a batch has video; the model has text, image, audio"):
        encoder.encode([{"video": [1]}])


def test_mteb_can_name_the_model(embedder, tmp_path):
    embedder.save_pretrained(tmp_path / "m")
    encoder = MtebEncoder(str(tmp_path / "m"), device="cpu")
    rows = encoder.encode([{"text": TEXTS}])
    np.testing.assert_allclose(rows, embedder.encode_text(TEXTS), atol=1e-5)


def library(name):
    """Packages that look into others at import may warn, which is not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_encodes(embedder, module, image, clip, tmp_path):
    model = library("sentence_transformers").SentenceTransformer(modules=[module], device="cpu")
    inputs = ["rain", *TEXTS]
    np.testing.assert_allclose(model.encode(inputs), embedder.encode_text(inputs), atol=1e-5)
    np.testing.assert_allclose(model.encode([image]), embedder.encode_image([image]), atol=1e-5)
    sounds = embedder.encode_audio([(clip["array"], 16_000)])
    np.testing.assert_allclose(model.encode([clip]), sounds, atol=1e-5)
    assert model.encode("rain").shape == (32,)
    assert model.get_embedding_dimension() == 32
    assert model.similarity(model.encode(inputs), model.encode(inputs)).shape == (5, 5)
    model.save_pretrained(str(tmp_path / "m"))
    assert (tmp_path / "m/0_SentenceTransformerModule/model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore")
def test_mteb_takes_the_encoder(embedder, image, clip):
    library("mteb")
    from mteb.models import ModelMeta
    from mteb.models.models_protocols import EncoderProtocol

    encoder = MtebEncoder(embedder)
    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert isinstance(meta, ModelMeta)
    assert set(meta.modalities) == {"text", "image", "audio"}
