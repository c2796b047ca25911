"""`mmonepeace export` of the segmentors of recipes, from the command line to the file."""

import json
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmonepeace.commands.export import main
from tests.conftest import ROOT, randomise

SMALL = """
_base_ = ["{recipe}"]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=4, num_heads=2, ffn_dim=48, {arch}),
        img_size=64, {backbone},
    ),
    decode_head=dict(channels=8),
)
"""
UPERNET = "onepeace-tiny_upernet_emoji-128"
VIT_ADAPTER = "onepeace-tiny_vit-adapter_upernet_labelmefacade-256"
RECIPES = {  # how each is made smaller
    UPERNET: ("stem='overlapping'", "out_indices=[0]"),
    VIT_ADAPTER: ("stem='hmlp'", "spatial_dim=8"),
}


@pytest.fixture
def trained(request, tmp_path):
    """A small segmentor of a recipe: its config, its checkpoint, the model."""
    config, path = tmp_path / "recipe.py", tmp_path / "iter_2.pth"
    arch, backbone = RECIPES[request.param]
    recipe = f"{ROOT}/configs/tiny/{request.param}.py"
    config.write_text(SMALL.format(recipe=recipe, arch=arch, backbone=backbone))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = randomise(MODELS.build(Config.fromfile(config).model)).eval()
    for name, buffer in model.named_buffers():  # of batch norm, as training leaves them
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    torch.save({"state_dict": model.state_dict()}, path)
    return config, path, model


def export(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mmonepeace export", *map(str, arguments)])
    assert main() == 0


def assert_near(got, expected):
    """Equal to 1e-4 of the largest logit."""
    scale = expected.abs().max()
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained", "options", "sizes", "left_out"),
    [
        (UPERNET, [], [(1, 64, 64), (3, 96, 224), (2, 320, 64)], []),
        # With all sizes the exporter takes minutes.
        (
            VIT_ADAPTER, ["--dynamic", "batch", "--image-size", 64, 96],
            [(1, 64, 96), (3, 64, 96)], ["auxiliary head"],
        ),
    ],
    indirect=["trained"],
)  # fmt: skip
def test_a_segmentor_of_a_recipe_runs_in_onnxruntime(
    trained, options, sizes, left_out, tmp_path, monkeypatch
):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    config, path, model = trained
    out, report = tmp_path / "out" / "segmentor.onnx", tmp_path / "report.json"
    export(
        monkeypatch, path, out, "--to", "onnx", "--config", config,
        "--verify", 3, "--report", report, *options,
    )  # fmt: skip
    measured = json.loads(report.read_text())
    assert measured["largest_difference"] < 1e-4 * max(1, measured["largest_output"])
    assert measured["left_out"] == left_out
    session = onnxruntime.InferenceSession(out)
    for batch, height, width in sizes:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            logits = model.encode_decode(images, [dict(img_shape=(height, width))] * batch)
        (got,) = session.run(None, {"image": images.numpy()})
        assert_near(torch.from_numpy(got), logits)


@pytest.mark.parametrize("trained", [UPERNET], indirect=True)
def test_a_segmentor_of_a_recipe_becomes_a_program(trained, tmp_path, monkeypatch):
    config, path, model = trained
    out = tmp_path / "segmentor.pt2"
    export(
        monkeypatch, path, out, "--to", "torch", "--config", config, "--dynamic", "none",
        "--image-size", 64, 96, "--verify", 1,
    )  # fmt: skip
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits = model.encode_decode(images, [dict(img_shape=(64, 96))] * 2)
        assert_near(torch.export.load(out).module()(images), logits)


@pytest.mark.parametrize("trained", [UPERNET], indirect=True)
def test_weights_of_another_recipe_are_a_line(trained, tmp_path, monkeypatch, capsys):
    config, path, _ = trained
    config.write_text(config.read_text().replace("channels=8", "channels=16"))
    out = str(tmp_path / "a.pt2")
    monkeypatch.setattr(
        sys, "argv", ["export", str(path), out, "--to", "torch", "--config", str(config)]
    )
    assert main() == 2
    assert "do not fit the model" in capsys.readouterr().err
