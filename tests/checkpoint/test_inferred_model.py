import json

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError, infer_model
from mmonepeace.models import OnePeaceClassifier, OnePeaceGrounder, OnePeaceRetriever
from mmonepeace.registry import MODELS
from tests import official
from tests.conftest import TINY

EXPECTED = {
    "coco": dict(type="mmonepeace.OnePeaceRetriever"),
    "al_retrieval": dict(type="mmonepeace.OnePeaceRetriever"),
    "refcoco": dict(type="mmonepeace.OnePeaceGrounder", pool_over="image"),
    "refcocog": dict(type="mmonepeace.OnePeaceGrounder", pool_over="text"),
    "vqa": dict(type="mmonepeace.OnePeaceClassifier", loss=dict(type="mmonepeace.MultiLabelLoss")),
    "nlvr2": dict(type="mmonepeace.OnePeaceClassifier", loss=dict(type="mmonepeace.ClassLoss")),
    "fsd50k": dict(
        type="mmonepeace.OnePeaceClassifier", loss=dict(type="mmonepeace.MultiLabelLoss")
    ),
    "vggsound": dict(type="mmonepeace.OnePeaceClassifier", loss=dict(type="mmonepeace.ClassLoss")),
    "aqa": dict(
        type="mmonepeace.OnePeaceClassifier",
        loss=dict(type="mmonepeace.HingeLoss"),
        num_candidates=4,
    ),
}


@pytest.mark.parametrize("task", official.FINE_TUNED)
def test_an_official_file_goes_in_and_comes_back_bit_for_bit(task, tmp_path):
    content = official.fine_tuned(task)
    source, model_file, back = (tmp_path / name for name in ("ft.pt", "model.pth", "back.pt"))
    torch.save(content, source)
    converted = checkpoint.read_own(source)
    config = infer_model(converted.weights, converted.meta)
    classes = config.pop("classes")
    assert classes == (["True", "False"] if task == "nlvr2" else None)
    plain = {k: v for k, v in config.items() if k not in ("backbone", "head")}
    assert plain == EXPECTED[task]
    model = MODELS.build(config)
    report = model.load_checkpoint(str(source))
    assert not report.changed, report  # nothing is resampled: there is a way back
    if task != "coco" and "image" in model.backbone.adapters:
        assert model.backbone.adapters["image"].rpb.sides == [6, 6]
        assert len(model.backbone.adapters["image"].pos_embed) == 17
    # To the names of our models, which load it as theirs, and back.
    checkpoint.convert_file(source, model_file, "model")
    assert not checkpoint.load_model(model, model_file).missing
    checkpoint.convert_file(model_file, back, "official-model")
    again = torch.load(back, weights_only=True)["model"]
    stored = {k: v for k, v in again.items() if k in content["model"]}
    assert stored.keys() == content["model"].keys()
    assert all(stored[k].equal(v) for k, v in content["model"].items())
    computed = {k.rsplit(".", 1)[1] for k in again.keys() - stored.keys()}
    assert computed <= {"rp_bucket", "position_idx", "version"}


def test_a_model_of_ours_says_what_it_is():
    backbone = dict(arch=TINY, modalities=["image"], img_size=64, rpb="per_block", final_norm=True)
    model = OnePeaceClassifier(
        backbone,
        dict(num_classes=3, pooler=True, hidden_ratio=3),
        pool_over="image",
        loss=dict(type="mmonepeace.MultiLabelLoss"),
    )
    model.classes = ("a", "b", "c")
    converted = checkpoint.to_own(model.state_dict(), model.metadata())
    config = infer_model(converted.weights, converted.meta)
    assert config.pop("classes") == ["a", "b", "c"]
    again = MODELS.build(config)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()({"image": images}), again.eval()({"image": images}))
    assert again.task() | {"classes": ("a", "b", "c")} == model.task()


@pytest.mark.parametrize("suffix", ["model", "full"])
def test_the_official_layout_says_what_no_weight_does(suffix, tmp_path):
    """A grounder that pools the text is not told from one that pools the image by its weights."""
    backbone = dict(arch=TINY, modalities=["text", "image"], img_size=64, rpb="per_block")
    model = OnePeaceGrounder(backbone | dict(final_norm=True), pool_over="text")
    torch.save(dict(state_dict=model.state_dict(), meta=model.metadata()), tmp_path / "own.pth")
    checkpoint.convert_file(tmp_path / "own.pth", tmp_path / "official.pt", f"official-{suffix}")
    checkpoint.convert_file(tmp_path / "official.pt", tmp_path / "back.safetensors", suffix)
    for name in ("official.pt", "back.safetensors"):
        converted = checkpoint.read_own(tmp_path / name)
        assert infer_model(converted.weights, converted.meta)["pool_over"] == "text"


def test_a_pretrained_file_has_no_head():
    backbone = dict(arch=TINY, modalities=["image"], img_size=64)
    weights = OnePeaceRetriever(backbone).backbone.state_dict()
    with pytest.raises(CheckpointError, match="no head of a multimodal task"):
        infer_model(weights, {})


@pytest.mark.parametrize(
    "task",
    [
        "{",
        "[]",
        json.dumps({"type": "OnePeace"}),
        json.dumps({"type": "OnePeaceClassifier", "loss": "torch.nn.Module"}),
        json.dumps({"type": "OnePeaceClassifier", "num_candidates": "4"}),
        json.dumps({"type": "OnePeaceClassifier", "init_cfg": {"type": "x"}}),
        json.dumps({"type": "OnePeaceClassifier", "classes": [1]}),
    ],
)
def test_a_task_that_is_damaged_or_hostile(task):
    weights = checkpoint.to_own(official.fine_tuned("vggsound")["model"]).weights
    with pytest.raises(CheckpointError, match="metadata has the task"):
        infer_model(weights, {"task": task})
