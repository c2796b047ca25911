"""A tiny model with all branches, its tokenizer, and a few files to embed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.datasets.tokenizer import train
from mmonepeace.models import OnePeaceRetriever
from tests.conftest import TINY, randomise

TEXTS = ["a dog barks", "a cat sleeps on a red chair", "rain", "two birds sing in the old tree"]
AUDIO = {"feature_dim": 8, "num_buckets": 16, "pos_depth": 2, "pos_kernel": 5, "pos_groups": 4}


def write_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint with random weights, and a tokenizer beside it."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(TEXTS * 3, 300)
    tokenizer.save(folder / "tokenizer.json")
    text = {"vocab_size": tokenizer.vocab_size, "num_buckets": 8}
    modalities = {"text": text, "image": {}, "audio": AUDIO}
    backbone = dict(arch=TINY, modalities=modalities, img_size=64, final_norm=True)
    model = randomise(OnePeaceRetriever(backbone))
    converted = checkpoint.to_own(model.state_dict(), {"format": "mmonepeace"})
    checkpoint.write(folder / "model.safetensors", converted)
    return folder / "model.safetensors"


def write_data(root: Path) -> Path:
    """Images and audio files in nested folders, a broken one of each, and files that are neither."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.jpg", "deep/c.PNG", 'deep/<d> & "é".png', "deep/e.bmp"]):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (40 + 8 * i, 60, 3), np.uint8)
        Image.fromarray(image).save(path, "BMP" if name.endswith("bmp") else "PNG")
    for i, name in enumerate(["x.wav", "y.flac", "z.ogg"]):
        path = root / "audios" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * rng.standard_normal(4000 + 3000 * i), 16000)
    (root / "images/broken.png").write_bytes(b"not an image")
    (root / "audios/broken.wav").write_bytes(b"not audio")
    (root / "images/.hidden.png").write_bytes(b"hidden")
    (root / "images/notes.txt").write_text("not an image either")
    (root / "texts.txt").write_text("\n".join([*TEXTS, "", TEXTS[0], ""]), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def embedder(checkpoint_file) -> Embedder:
    return Embedder.from_checkpoint(checkpoint_file, device="cpu", batch_size=4)


@pytest.fixture
def data(tmp_path) -> Path:
    return write_data(tmp_path / "data")
