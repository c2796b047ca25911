"""Checkpoints of each kind, what they can do, and a page that shows it."""

import io

import numpy as np
import pytest
import soundfile
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from werkzeug.test import Client

from mmonepeace import apis
from mmonepeace.datasets.tokenizer import train
from mmonepeace.page import Page, open_models
from tests import official
from tests.apis.conftest import TEXTS, write_data, write_model
from tests.conftest import SEGMENTATION

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A checkpoint of each kind, and an index with a hostile caption and a hostile file name."""
    root = tmp_path_factory.mktemp("page")
    model = write_model(root / "encoder")
    for task in ("vqa", "refcoco", "vggsound", "nlvr2", "aqa"):
        (root / task).mkdir()
        torch.save(official.fine_tuned(task), root / task / "ft.pt")
        train(["what is this? a dog"] * 3, 400).save(root / task / "tokenizer.json")
    (root / "vggsound/classes.txt").write_text("\n".join(f"{NASTY}{i}" for i in range(9)))
    data = write_data(root / "data")
    sources = {n: apis.find_files(data / f"{n}s", n, {}) for n in ("image", "audio")}
    embedder = apis.Embedder.from_checkpoint(model, device="cpu", progress=False)
    meta = {"checkpoint": str(model)}
    sources["text"] = [*TEXTS, NASTY]
    apis.build_index(embedder, root / "index.safetensors", sources, meta)
    cfg = Config.fromfile(SEGMENTATION)
    init_default_scope("mmseg")
    segmentor = MODELS.build(cfg.model)
    (root / "seg").mkdir()
    torch.save({"state_dict": segmentor.state_dict()}, root / "seg/iter_10.pth")
    cfg.dump(root / "seg/recipe.py")
    return root


@pytest.fixture(scope="package")
def abilities(folder):
    names = ("encoder", "seg", "vqa", "refcoco", "vggsound", "nlvr2", "aqa")
    paths = [str(folder / name) for name in names]
    return open_models(paths, folder / "index.safetensors", device="cpu")


@pytest.fixture(scope="package")
def client(abilities):
    return Client(Page(abilities, max_upload_mb=1))


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def sound():
    file = io.BytesIO()
    soundfile.write(
        file, 0.1 * np.random.default_rng(0).standard_normal(20000), 16000, format="WAV"
    )
    return file.getvalue()


@pytest.fixture
def run(abilities, client):
    """Send the form of an ability: status and markup."""

    def run(title, headers=None, **values):
        number = next(i for i, a in enumerate(abilities) if title in (a.title, a.label))
        data = {
            name: (io.BytesIO(value), f"{NASTY}.png") if isinstance(value, bytes) else value
            for name, value in values.items()
        }
        url = f"/run/{number}"
        done = client.post(url, base_url="http://127.0.0.1:7860", data=data, headers=headers)
        return done.status_code, done.get_data(as_text=True)

    return run
