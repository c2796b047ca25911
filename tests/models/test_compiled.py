"""Compiled blocks: one graph for all of them, a second one for all further sizes, equal results."""

from functools import partialmethod

import numpy as np
import pytest
import torch
from torch import nn

from mmonepeace.apis import Embedder
from mmonepeace.layers.encoder import DropPath
from mmonepeace.models import OnePeace, OnePeaceClassifier
from tests.apis.conftest import write_model

ARCH = dict(embed_dim=32, depth=2, num_heads=4, ffn_dim=48)
SIZES = [(64, 64), (96, 64), (64, 128), (80, 96)]


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Counts of PyTorch's tracer; what it traces is not turned into C++, which takes a minute."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", compiled)
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


def pair(**options):
    """A compiled model and a plain one of the same weights, in training."""
    options = dict(arch=ARCH, img_size=64, layer_scale_init=0.5) | options
    models = [OnePeace(**options, compiled=compiled).train() for compiled in (True, False)]
    for table in models[0].adapters["image"].rpb.tables:
        nn.init.normal_(table)
    models[1].load_state_dict(models[0].state_dict())
    return models


@pytest.mark.parametrize(("rpb", "with_cp"), [("per_block", True), ("shared", False)])
def test_one_graph_serves_all_blocks_and_one_more_all_sizes(rpb, with_cp, graphs):
    ours, plain = pair(rpb=rpb, with_cp=with_cp)
    for count, size in enumerate(SIZES):
        images = torch.randn(2, 3, *size)
        gradients = []
        for model in (ours, plain):
            (out,) = model(images)
            out.square().sum().backward()
            gradients.append({k: p.grad.clone() for k, p in model.named_parameters()})
            model.zero_grad()
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
        assert graphs["unique_graphs"] == min(count + 1, 2)


def test_drop_path_is_drawn_outside_of_the_graph(graphs):
    ours, _ = pair(drop_path_rate=0.5, rpb="per_block")
    for size in SIZES:
        ours(torch.randn(2, 3, *size))[0].sum().backward()
    assert graphs["unique_graphs"] <= 2
    drop, x = DropPath(0.25), torch.ones(4000, 1, 1)
    scales = drop.scales(x)
    assert scales.shape == (4000, 1, 1)
    torch.testing.assert_close(scales.unique(), torch.tensor([0, 1 / 0.75]))
    torch.testing.assert_close(scales.mean(), torch.ones(()), rtol=0, atol=0.05)
    assert (drop.eval().scales(x) == 1).all()


def test_padded_texts_with_images_are_classified_alike():
    backbone = dict(
        arch=ARCH, modalities=dict(text=dict(vocab_size=50), image={}), img_size=64, final_norm=True
    )
    ours, plain = (
        OnePeaceClassifier(backbone | dict(compiled=compiled), dict(num_classes=3)).eval()
        for compiled in (True, False)
    )
    plain.load_state_dict(ours.state_dict())
    texts = torch.tensor([[4, 5, 6, 2], [7, 2, 1, 1]])
    inputs = {"text": texts, "image": torch.randn(2, 3, 64, 64)}
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), plain(inputs), rtol=1e-4, atol=1e-4)


def test_compiled_blocks_embed_alike(tmp_path, graphs):
    path = write_model(tmp_path)
    images = [torch.rand(3, height, 64) for height in (64, 80)]
    options = dict(keep_ratio=True, progress=False)
    ours, plain = (
        Embedder.from_checkpoint(path, compiled=compiled, **options).encode_image(images)
        for compiled in (True, False)
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
    assert graphs["unique_graphs"] in (1, 2)
