"""LoRA is merged into the base on the way into `Embedder` and `Predictor`, and their commands."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder, EmbeddingIndex, Predictor
from mmonepeace.datasets.tokenizer import Tokenizer
from mmonepeace.models import OnePeaceClassifier, OnePeaceRetriever
from tests.apis.conftest import TEXTS
from tests.conftest import TINY, randomise
from tests.processes import run_tool

pytest.importorskip("peft")
LORA = dict(rank=2, alpha=4.0, targets=["q", "v", "up"])


def adapt(build, folder):
    """Checkpoints of a base and of the same with trained LoRA, and the latter as an adapter."""
    base, adapted = randomise(build()), randomise(build(lora=LORA))
    for name, value in adapted.state_dict().items():
        if not checkpoint.has_lora([name]):
            value.copy_(base.state_dict()[checkpoint.base_name(name)])
    path, run = folder / "base.safetensors", folder / "iter_1.pth"
    checkpoint.write(path, checkpoint.to_own(base.state_dict(), base.backbone.metadata()))
    torch.save({"state_dict": adapted.state_dict(), "meta": adapted.backbone.metadata()}, run)
    checkpoint.write_lora(run, folder / "adapter")
    return path, run, folder / "adapter"


def test_embeddings_with_an_adapter_are_those_of_the_run(checkpoint_file, data, tmp_path):
    tokenizer = checkpoint_file.with_name("tokenizer.json")
    text = {"vocab_size": Tokenizer.from_file(tokenizer).vocab_size, "num_buckets": 8}

    def build(**options):
        modalities = {"text": text, "image": {}}
        backbone = dict(arch=TINY, modalities=modalities, img_size=64, final_norm=True)
        return OnePeaceRetriever(backbone | options)

    path, run, adapter = adapt(build, tmp_path)
    folder = data / "images/deep"
    images = sorted(folder.iterdir())
    base, ours, theirs = (
        Embedder.from_checkpoint(file, device="cpu", tokenizer=tokenizer, adapter=given)
        for file, given in ((path, None), (path, adapter), (run, None))
    )
    for kind, items in (("image", images), ("text", TEXTS)):
        plain, got, expected = (e.encode(kind, items) for e in (base, ours, theirs))
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert np.abs(plain - expected).max() > 1e-3
    out = tmp_path / "index.safetensors"
    options = ("--adapter", adapter, "--tokenizer", tokenizer, "--images", folder, "--out", out)
    run_tool("embed.py", path, *options)
    index = EmbeddingIndex.load(out)
    expected = ours.encode_image([index.content(item) for item in index.items])
    np.testing.assert_allclose(index.embeddings, expected, atol=1e-3)


def test_answers_with_an_adapter_are_those_of_the_run(tmp_path):
    def build(**options):
        backbone = dict(arch=TINY, modalities={"image": {}}, img_size=64)
        return OnePeaceClassifier(backbone | options, dict(num_classes=5))

    path, run, adapter = adapt(build, tmp_path)
    image = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).save(image)
    plain, ours, theirs = (
        Predictor.from_checkpoint(file, device="cpu", adapter=given).classify(
            images=[image], top_k=5
        )[0]
        for file, given in ((path, None), (path, adapter), (run, None))
    )
    assert [x.label for x in ours] == [x.label for x in theirs]
    scores = [[x.score for x in each] for each in (plain, ours, theirs)]
    np.testing.assert_allclose(scores[1], scores[2], atol=1e-5)
    assert np.abs(np.subtract(scores[0], scores[2])).max() > 1e-3
    done = run_tool("predict.py", path, "--adapter", adapter, "--images", image)
    assert f"{ours[0].score:.1%}" in done.stdout or f"{ours[0].score:.3f}" in done.stdout
