import pickle
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmonepeace.datasets import LoadAudio, LoadImage, PackModalities, Tokenize, audio_io, image_io
from mmonepeace.datasets.tokenizer import train
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 90, 3), dtype=np.uint8)).save(folder / "a.png")
    soundfile.write(folder / "a.wav", rng.uniform(-0.5, 0.5, (30_000, 2)), 44100)
    train(["a dog runs", "a dog sleeps"], 300).save(folder / "tokenizer.json")
    return folder


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


def test_sound_is_standardised_before_it_is_cut(files):
    whole = audio_io.standardise(audio_io.load_audio(files / "a.wav"))
    results = LoadAudio(max_seconds=0.1, min_seconds=0)(record(files))
    assert torch.equal(results["inputs"]["audio"], torch.from_numpy(whole[:1600]))


def test_raw_arrays_serve_as_well_as_files(files):
    samples, rate = soundfile.read(files / "a.wav", dtype="float32")
    from_file, from_array = record(files), {"audio": (samples, rate)}
    from_array["img"] = np.asarray(Image.open(files / "a.png"))
    for transform in (LoadImage((16, 32)), LoadAudio()):
        from_file, from_array = transform(from_file), transform(from_array)
    for modality in ("image", "audio"):
        assert from_array["inputs"][modality].equal(from_file["inputs"][modality])


def test_kept_ratio_reaches_the_image(files):
    image = LoadImage(64, keep_ratio=True)(record(files))["inputs"]["image"]
    source = image_io.to_rgb(files / "a.png")
    assert image.equal(image_io.to_tensor(image_io.resize(source, 64, keep_ratio=True)))
    assert image.shape[1] < image.shape[2]


def test_cleaning_is_a_choice(files):
    path = files / "tokenizer.json"
    hub, dataset = (Tokenize(path, cleaning=c) for c in ("hub", "dataset"))
    ids = [t({"text": "!A  Dog"})["inputs"]["text"] for t in (hub, dataset)]
    assert hub.tokenizer.decode(ids[0]) == "!a  dog"
    assert hub.tokenizer.decode(ids[1]) == "a dog"
    assert len(Tokenize(hub.tokenizer, max_length=1)({"text": "a dog"})["inputs"]["text"]) == 2
    with pytest.raises(ValueError, match="neither 'hub' nor 'dataset'"):
        Tokenize(path, cleaning="none")


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
        assert batch["inputs"]["text"].equal(expected["inputs"]["text"])
        assert batch["inputs"]["audio"][0].equal(expected["inputs"]["audio"][0])
        assert batch["data_samples"][0].text == "!A  Dog"


def test_forking_after_encoding_prints_nothing(files):
    code = (
        "import sys\n"
        "from torch.utils.data import DataLoader\n"
        "from mmonepeace.datasets import Tokenize\n"
        "t = Tokenize(sys.argv[1])\n"
        "t.tokenizer.encode(['a dog'] * 1000)\n"
        "texts = [{'text': 'a dog'}] * 4\n"
        "rows = DataLoader(texts, None, num_workers=2, multiprocessing_context='fork',\n"
        "                  collate_fn=t)\n"
        "print(sum('inputs' in row for row in rows))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(files / "tokenizer.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("4\n", "")
