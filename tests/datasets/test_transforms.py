import pickle

import numpy as np
import pytest
import soundfile
import torch
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmonepeace.datasets import (
    DropWords,
    LoadAudio,
    LoadImage,
    MaskTokens,
    PackModalities,
    PerturbAudio,
    Tokenize,
    audio_io,
    image_io,
)
from mmonepeace.datasets.sample_errors import CaptionError
from mmonepeace.datasets.tokenizer import train
from mmonepeace.datasets.transforms import crop_box, generator
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from mmonepeace.spec import num_audio_frames
from tests.processes import run_tool


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 90, 3), dtype=np.uint8)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", rng.uniform(-0.5, 0.5, (30_000, 2)), 44100)
    train(["a dog runs", "a dog sleeps"], 300).save(folder / "tokenizer.json")
    return folder


FILES = {"img": "a.png", "audio": "a.wav"}


def record(files):
    return {
        "img_path": str(files / "a.png"),
        "text": "!A  Dog",
        "audio_path": str(files / "a.wav"),
    }


def pipeline(files, **tokenize):
    """As a config names it."""
    return [
        dict(type="mmonepeace.LoadImage", size=32),
        dict(type="mmonepeace.Tokenize", tokenizer=str(files / "tokenizer.json"), **tokenize),
        dict(type="mmonepeace.LoadAudio"),
        dict(type="mmonepeace.PackModalities", meta_keys=("img_path", "text", "label")),
    ]


def test_a_pipeline_of_all_modalities(files):
    packed = Compose(pipeline(files))(record(files))
    assert set(packed) == {"inputs", "data_samples"}
    image, text, audio = (packed["inputs"][key] for key in ("image", "text", "audio"))
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
    assert (text.ndim, text.dtype) == (1, torch.int64)
    assert (audio.shape, audio.dtype) == ((16_000,), torch.float32)
    expected = {"img_path": str(files / "a.png"), "text": "!A  Dog"}
    assert dict(packed["data_samples"].metainfo_items()) == expected


def test_audio_is_standardised_before_it_is_truncated(files):
    whole = audio_io.standardise(audio_io.load_audio(files / "a.wav"))
    results = LoadAudio(max_seconds=0.1, min_seconds=0)(record(files))
    assert torch.equal(results["inputs"]["audio"], torch.from_numpy(whole[:1600]))


def test_cached_audio_is_read_once(files, monkeypatch):
    cached, plain = LoadAudio(cache=True), LoadAudio()
    first = cached(record(files))["inputs"]["audio"]
    assert torch.equal(first, plain(record(files))["inputs"]["audio"])
    monkeypatch.setattr(audio_io, "load_audio", None)
    assert torch.equal(cached(record(files))["inputs"]["audio"], first)


def test_words_are_left_out_at_random():
    text = "a black dog runs on the white snow"
    drop = DropWords(0.5)
    texts = [drop({"text": text, "seed": (0, i)})["text"] for i in range(200)]
    assert texts[3] == drop({"text": text, "seed": (0, 3)})["text"]
    assert all(f" {t} ".count(" ") > 1 for t in texts)
    words = iter(text.split())
    assert all(word in words for word in texts[3].split())  # in their order
    assert 3.5 < sum(len(t.split()) for t in texts) / 200 < 4.5
    assert DropWords(0.99)({"text": "dog", "seed": (0,)})["text"] == "dog"
    assert DropWords(0.5)({"text": " ", "seed": (0,)})["text"] == " "
    assert DropWords(0)({"text": text, "seed": (0,)})["text"] == text


def perturbed(wave, seed=(0, 0), **options):
    results = {"seed": seed, "inputs": {"audio": torch.from_numpy(wave)}}
    return PerturbAudio(**options)(results)["inputs"]["audio"].numpy()


def pitch(wave):
    """Hz of the strongest partial."""
    return np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave)


def test_perturbed_audio_is_standardised_and_of_the_length_asked_for():
    tone = np.sin(np.arange(40_000) * 0.3).astype(np.float32)
    rest = dict(speed=1.3, equaliser=6.0, noise=0.0, shift=0.2)
    waves = [perturbed(tone, (0, i), max_seconds=1.5, min_seconds=1.5, **rest) for i in range(5)]
    assert {len(wave) for wave in waves} == {24_000}
    assert all(abs(w.mean()) < 1e-3 and abs(w.std() - 1) < 1e-3 for w in waves)
    assert len({w.tobytes() for w in waves}) == 5
    assert (
        waves[0].tobytes()
        == perturbed(tone, (0, 0), max_seconds=1.5, min_seconds=1.5, **rest).tobytes()
    )


def test_without_options_only_a_crop_remains():
    noise = audio_io.standardise(np.random.default_rng(0).standard_normal(20_000, np.float32))
    assert np.allclose(perturbed(noise, max_seconds=None), noise, atol=1e-5)
    cropped = perturbed(noise, max_seconds=1.0)
    fits = [i for i in range(4001) if np.corrcoef(noise[i : i + 16_000], cropped)[0, 1] > 0.999]
    assert len(cropped) == 16_000
    assert len(fits) == 1


def test_speed_moves_the_pitch_within_its_limits():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32)
    pitches = [pitch(perturbed(tone, (0, i), speed=1.25, max_seconds=1.0)) for i in range(30)]
    assert 795 < min(pitches) < 900
    assert 1100 < max(pitches) < 1255


def test_noise_and_equaliser_change_a_clip_as_much_as_they_say():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32)
    noisy = [perturbed(tone, (0, i), noise=10.0, max_seconds=None) for i in range(30)]
    cosine = np.array([np.corrcoef(tone, wave)[0, 1] for wave in noisy])
    ratios = 10 * np.log10(cosine**2 / (1 - cosine**2))
    assert 9 < ratios.min() < 20
    assert 40 < ratios.max() < 51
    chord = tone + np.sin(2 * np.pi * 4000 * np.arange(32_000) / 16_000).astype(np.float32)
    levels = []
    for i in range(30):
        spectrum = np.abs(np.fft.rfft(perturbed(chord, (0, i), equaliser=6.0, max_seconds=None)))
        levels.append(20 * np.log10(spectrum[8000] / spectrum[2000]))
    assert 5 < np.std(levels) < 12  # of a difference: 6 dB times the root of 2


def test_raw_arrays_serve_as_well_as_files(files):
    samples, rate = soundfile.read(files / "a.wav", dtype="float32")
    from_file, from_array = record(files), {"audio": (samples, rate)}
    from_array["img"] = np.asarray(Image.open(files / "a.png"))
    for transform in (LoadImage((16, 32)), LoadAudio()):
        from_file, from_array = transform(from_file), transform(from_array)
    from_bytes = {key: (files / name).read_bytes() for key, name in FILES.items()}
    for transform in (LoadImage((16, 32)), LoadAudio()):
        from_bytes = transform(from_bytes)
    for modality in ("image", "audio"):
        assert from_array["inputs"][modality].equal(from_file["inputs"][modality])
        assert from_bytes["inputs"][modality].equal(from_file["inputs"][modality])


def test_broken_bytes_are_named(files):
    for key, transform, error in (
        ("img", LoadImage(), image_io.ImageError),
        ("audio", LoadAudio(), audio_io.AudioError),
    ):
        content = (files / FILES[key]).read_bytes()
        for part in (content[:40], b""):
            with pytest.raises(error, match=r"in memory.*eave it out"):
                transform({key: part})


def test_kept_ratio_reaches_the_image(files):
    image = LoadImage(64, keep_ratio=True)(record(files))["inputs"]["image"]
    source = image_io.to_rgb(files / "a.png")
    assert image.equal(image_io.to_tensor(image_io.resize(source, 64, keep_ratio=True)))
    assert image.shape[1] < image.shape[2]


@pytest.mark.parametrize(("crop_scale", "at_least"), [(None, 128), ((0.25, 1.0), 256)])
def test_fast_jpeg_decodes_twice_what_is_needed(tmp_path, monkeypatch, crop_scale, at_least):
    path, asked, read = tmp_path / "large.jpg", [], image_io.to_rgb
    Image.new("RGB", (2400, 1600), (200, 10, 90)).save(path)
    monkeypatch.setattr(image_io, "to_rgb", lambda *args: asked.append(args) or read(*args))
    for fast in (True, False):
        transform = LoadImage([64, 64], crop_scale=crop_scale, fast_jpeg=fast)
        image = transform({"img_path": str(path), "seed": (0,)})["inputs"]["image"]
        assert image.shape == (3, 64, 64)
    assert asked == [(str(path), at_least, "drop"), (str(path), None, "drop")]


def test_cleaning_is_a_choice(files):
    path = files / "tokenizer.json"
    hub, dataset = (Tokenize(path, cleaning=c) for c in ("hub", "dataset"))
    ids = [t({"text": "!A  Dog"})["inputs"]["text"] for t in (hub, dataset)]
    assert hub.tokenizer.decode(ids[0]) == "!a  dog"
    assert hub.tokenizer.decode(ids[1]) == "a dog"
    assert len(Tokenize(hub.tokenizer, max_length=1)({"text": "a dog"})["inputs"]["text"]) == 2
    ids = Tokenize(path, cleaning="none")({"text": "A Dog"})["inputs"]["text"]
    assert hub.tokenizer.decode(ids) == "A Dog"
    with pytest.raises(
        ValueError, match="cleaning is 'thorough'; choose 'hub', 'dataset' or 'none'"
    ):
        Tokenize(path, cleaning="thorough")


def test_captions_without_content_are_broken(files):
    path = files / "tokenizer.json"
    for text in ("...", "  ", "!\n"):
        with pytest.raises(CaptionError, match="nothing is left"):
            Tokenize(path, cleaning="dataset")({"text": text})
    with pytest.raises(CaptionError, match="surrogate"):
        Tokenize(path)({"text": "half \ud83d"})
    assert Tokenize(path)({"text": ""})["inputs"]["text"].tolist()[-1] == 2
    candidates = ["who barks? a dog", "who barks? a cat", "who barks? a dog"]
    assert len(Tokenize(path)({"text": candidates})["inputs"]["text"]) == 3
    with pytest.raises(CaptionError, match=r"'who barks\? a dog'\.\.\. fills the 2 tokens"):
        Tokenize(path, max_length=2)({"text": candidates})


def crop(files, seed, size=32, **options):
    options = dict(crop_scale=(0.9, 1.0)) | options
    results = LoadImage(size, **options)({**record(files), "seed": (seed,)})
    return results["inputs"]["image"]


def test_random_crops_depend_on_the_seed(files):
    assert crop(files, 1).shape == (3, 32, 32)
    assert crop(files, 1).equal(crop(files, 1))
    options = dict(crop_ratio=(1.5, 3.0))  # the image is 90 x 40: some rectangles fit
    assert len({crop(files, s, **options).sum().item() for s in range(10)}) > 5


@pytest.mark.parametrize("crop_scale", [None, (0.3, 0.9)])
def test_a_kept_image_is_read_once_and_gives_the_same(files, crop_scale, monkeypatch):
    plain, kept = (LoadImage(32, crop_scale=crop_scale, cache=cache) for cache in (False, True))
    samples = [{**record(files), "seed": (seed,)} for seed in range(3)]
    expected = [plain(dict(sample))["inputs"]["image"] for sample in samples]
    read, calls = image_io.to_rgb, []
    monkeypatch.setattr(image_io, "to_rgb", lambda *args: calls.append(args) or read(*args))
    for sample, image in zip(samples, expected, strict=True):
        assert kept(dict(sample))["inputs"]["image"].equal(image)
    assert len(calls) == 1


def test_a_crop_of_everything_is_the_resized_image(files):
    whole = crop(files, 0, (40, 90), crop_scale=(1.0, 1.0), crop_ratio=(2.25, 2.25))
    assert whole.equal(LoadImage((40, 90))(record(files))["inputs"]["image"])


@pytest.mark.parametrize(("width", "height"), [(90, 40), (40, 90), (64, 64), (60, 50), (1, 1)])
def test_crops_keep_to_scale_and_ratio_or_take_the_middle(width, height):
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([columns, rows, columns * 0], -1).astype(np.uint8)
    transform = LoadImage((height, width), crop_scale=(0.9, 1.0))
    for seed in range(30):
        left, top, right, bottom = crop_box(
            np.random.default_rng(seed), (width, height), (0.9, 1.0), (3 / 4, 4 / 3)
        )
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top)
        assert 0.73 < ratio < 1.37
        if max(width / height, height / width) > 1.5:  # nothing fits
            assert abs((left + right) - width) <= 1
            assert abs((top + bottom) - height) <= 1
        else:
            assert area >= 0.87 * width * height
    assert transform({"img": image, "seed": (0,)})["inputs"]["image"].shape[1:] == image.shape[:2]


@pytest.mark.parametrize(
    ("transform", "options", "says"),
    [
        (LoadImage, dict(crop_scale=(0.5, 1.5)), r"crop_scale is \(0\.5, 1\.5\), .* high <= 1"),
        (LoadImage, dict(size=0), "size is 0, expected pixels"),
        (LoadImage, dict(size=(64, -1)), r"size is \(64, -1\)"),
        (LoadAudio, dict(max_seconds=-2), "max_seconds is -2 and min_seconds 1; expected"),
        (LoadAudio, dict(max_seconds=0, min_seconds=0), "max_seconds is 0"),
        (LoadAudio, dict(min_seconds=-1), "min_seconds -1"),
        (LoadAudio, dict(max_seconds=2, min_seconds=3), "max_seconds is 2 and min_seconds 3"),
        (PerturbAudio, dict(max_seconds=2, min_seconds=3), "max_seconds is 2 and min_seconds 3"),
        (PerturbAudio, dict(speed=0.9), "speed is 0.9, equaliser 0.0 and shift 0.0; expected"),
        (DropWords, dict(probability=1.0), "probability is 1.0, expected 0 <= probability < 1"),
        (Tokenize, dict(tokenizer="x.json", max_length=0), "max_length is 0, expected 1 or more"),
    ],
)
def test_sizes_and_lengths_are_checked(transform, options, says):
    with pytest.raises(ValueError, match=says):
        transform(**options)
    LoadAudio(max_seconds=None, min_seconds=0)


def test_limits_of_crops_are_checked():
    for options in (dict(crop_scale=(0, 1)), dict(crop_scale=(1, 0.5)), dict(crop_ratio=(-1, 1))):
        with pytest.raises(ValueError, match="expected 0 < low <= high"):
            LoadImage(32, **options)


def prepared(files, stage, seed=(0, 0, 0), **options):
    results = {**record(files), "seed": seed}
    for transform in (LoadImage(64), Tokenize(files / "tokenizer.json"), LoadAudio()):
        results = transform(results)
    return MaskTokens(stage, files / "tokenizer.json", **options)(results)


def test_masks_follow_the_sizes_of_the_inputs(files):
    results = prepared(files, "vl")
    tokens = len(results["inputs"]["text"]) - 1
    keeps = results["keeps"]
    assert {view: set(names) for view, names in keeps.items()} == {
        "alone": {"text", "image"},
        "joint": {"text", "image"},
    }
    assert [len(keeps[view]["image"]) for view in keeps] == [1 + 16 - 12, 1 + 16 - 11]
    assert len(keeps["joint"]["text"]) == tokens + 2 - int(0.4 * tokens)
    assert keeps["alone"]["text"][-1] == tokens + 1, "the end token"
    hidden = sorted(set(range(tokens + 2)) - set(keeps["alone"]["text"].tolist()))
    starts = Tokenize(files / "tokenizer.json").tokenizer.is_word_start
    assert starts[results["inputs"]["text"][hidden[0] - 1]], "a whole word"
    assert PackModalities()(results)["keeps"] is keeps
    assert "keeps" not in PackModalities()({"inputs": results["inputs"]})


def test_the_second_stage_masks_audio_and_joint_texts(files):
    results = prepared(files, "al")
    frames = num_audio_frames(len(results["inputs"]["audio"]))
    assert set(results["keeps"]["alone"]) == {"audio"}
    assert len(results["keeps"]["alone"]["audio"]) == 1 + frames - int(0.55 * frames)
    assert len(results["keeps"]["joint"]["audio"]) == 1 + frames - int(0.45 * frames)
    assert set(results["keeps"]["joint"]) == {"text", "audio"}


def test_ratios_are_arguments(files):
    keeps = prepared(files, "vl", ratios={"image": 0.0, "joint_image": 1.0})["keeps"]
    assert len(keeps["alone"]["image"]) == 17
    assert len(keeps["joint"]["image"]) == 1
    for options in (dict(ratios={"audio": 0.5}), dict(ratios={"image": 1.5})):
        with pytest.raises(ValueError, match="expected text, image, joint_text, joint_image"):
            prepared(files, "vl", **options)
    with pytest.raises(ValueError, match="choose one of vl, al"):
        prepared(files, "val")


def test_randomness_is_that_of_the_record_and_the_transform(files):
    def keeps(seed):
        return np.concatenate(list(prepared(files, "vl", seed)["keeps"]["alone"].values())).tolist()

    assert keeps((0, 1, 2)) == keeps((0, 1, 2))
    assert keeps((0, 1, 2)) != keeps((0, 2, 2))
    image, audio = (generator({"seed": (0,)}, t).random() for t in (LoadImage(), LoadAudio()))
    assert image != audio
    with pytest.raises(KeyError, match="LoadImage is random, but the record has no seed"):
        LoadImage(32, crop_scale=(0.9, 1.0))(record(files))


def test_masks_need_the_inputs_they_are_for(files):
    with pytest.raises(KeyError, match="none of image"):
        MaskTokens("vl", files / "tokenizer.json")({"seed": (0,), "inputs": {}})


def test_a_record_without_the_key_is_named(files):
    with pytest.raises(KeyError, match="none of img_path, img; it has text"):
        LoadImage()({"text": "a"})
    with pytest.raises(KeyError, match="none of audio_path, audio"):
        LoadAudio()({"text": "a", "audio_path": None})
    with pytest.raises(KeyError, match="none of text"):
        Tokenize(files / "tokenizer.json")({"img": 1})
    with pytest.raises(KeyError, match="found no inputs"):
        PackModalities()({"text": "a"})


class Records(BaseDataset):
    def load_data_list(self):
        return [record(self.data_root)] * 4


def test_workers_give_what_the_main_process_gives(files):
    dataset = Records(data_root=files, pipeline=pipeline(files))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  (as spawning a worker does)
    loader = DataLoader(
        copy, 2, num_workers=1, collate_fn=pseudo_collate, multiprocessing_context="fork"
    )
    preprocess = MultimodalDataPreprocessor()
    expected = preprocess(pseudo_collate([dataset[0], dataset[1]]))
    batches = [preprocess(batch) for batch in loader]
    assert len(batches) == 2
    for batch in batches:
        assert batch["inputs"]["image"].equal(expected["inputs"]["image"])
        assert batch["inputs"]["text"][0].equal(expected["inputs"]["text"][0])
        assert batch["inputs"]["audio"][0].equal(expected["inputs"]["audio"][0])
        assert batch["data_samples"][0].text == "!A  Dog"


def test_forking_after_encoding_prints_nothing(files):
    program = files / "program.py"
    program.write_text(
        "import sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from torch.utils.data import DataLoader\n"
        "from mmonepeace.datasets import Tokenize\n"
        "t = Tokenize(sys.argv[1])\n"
        "t.tokenizer.encode(['a dog'] * 1000)\n"
        "texts = [{'text': 'a dog'}] * 4\n"
        "rows = DataLoader(texts, None, num_workers=2, multiprocessing_context='fork',\n"
        "                  collate_fn=t)\n"
        "print(sum('inputs' in row for row in rows))\n"
    )
    done = run_tool(program, files / "tokenizer.json")
    assert (done.stdout, done.stderr) == ("4\n", "")
