"""What a run starts from: weights, the checkpoint of a first stage, tokenizers."""

import json
import os
import pickle

import pytest
import torch
from mmengine.config import Config

from mmonepeace.checks.catalogue import CATALOGUE
from mmonepeace.checks.report import Report
from mmonepeace.checks.weights import check_tokenizers, check_weights
from mmonepeace.datasets import tokenizer

WEIGHTS = {
    "weights-missing": dict(model=dict(backbone=dict(init_cfg=dict(checkpoint="FILE")))),
    "init-missing": dict(
        model=dict(heads=[dict(init_cfg=dict(type="Pretrained", checkpoint="FILE"))])
    ),
    "teacher-missing": dict(model=dict(teacher=dict(checkpoint="FILE"))),
    "load-from-missing": dict(model={}, load_from="FILE"),
    "stage-one-missing": dict(model=dict(stage="al"), stage_one="FILE"),
    "stage-one-unused": dict(model=dict(stage="vl"), stage_one="FILE"),
    "tokenizer-unusable": dict(model={}, tokenizer="FILE"),
    "vocab-size": dict(
        model=dict(backbone=dict(modalities=dict(text=dict(vocab_size=9)))), tokenizer="FILE"
    ),
}


def findings(options, file):
    """What the checks say of a config that names a file."""
    cfg = Config(json.loads(json.dumps(options).replace("FILE", str(file))))
    if "tokenizer" in cfg:
        step = dict(type="mmonepeace.Tokenize", tokenizer=cfg.tokenizer)
        cfg.train_dataloader = dict(dataset=dict(pipeline=[step]))
    report = Report()
    check_weights(cfg, report)
    check_tokenizers(cfg, report)
    return report.findings


@pytest.mark.parametrize("code", WEIGHTS)
def test_what_a_run_starts_from_must_exist_and_fit(code, tmp_path):
    file = tmp_path / "file.json"
    if code == "vocab-size":
        tokenizer.train(["a dog"], 300).save(file)
    (finding,) = findings(WEIGHTS[code], file)
    assert finding.code == code
    assert CATALOGUE[code].stops
    assert str(file) in finding.what
    assert "--" in finding.fix or "set it to " in finding.fix


def test_an_audio_extractor_is_named_with_its_option(tmp_path):
    step = dict(type="mmonepeace.PretrainedAudioExtractor", checkpoint="FILE")
    for start, option in ((step, "init_cfg"), ([step], "init_cfg.0")):
        model = dict(backbone=dict(init_cfg=start))
        (finding,) = findings(dict(model=model), tmp_path / "gone.pt")
        assert finding.code == ("weights-missing" if start is step else "init-missing")
        assert f"model.backbone.{option}" in finding.fix
        assert "model.backbone.init_cfg=None" in finding.fix


@pytest.mark.parametrize("part", ["init_cfg", "backbone"])
def test_the_option_of_the_tools_is_named_where_it_sets_the_weights(part, tmp_path):
    start = dict(type="Pretrained", checkpoint="FILE")
    model = {part: dict(init_cfg=start) if part == "backbone" else start}
    (finding,) = findings(dict(model=model), tmp_path / "gone.pth")
    option = "model.backbone.init_cfg" if part == "backbone" else "model.init_cfg"
    assert finding.fix.startswith("--checkpoint PATH")
    assert finding.fix.endswith(f"{option}=None")


def test_names_and_addresses_are_not_files(tmp_path):
    start = dict(init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"))
    options = dict(model=dict(backbone=dict(pretrained="a-model"), head=start))
    assert findings(options, tmp_path / "gone.pth") == []


MISSING = ["weights-missing", "init-missing", "load-from-missing", "stage-one-missing"]


@pytest.mark.parametrize("code", MISSING)
def test_what_exists_is_read(code, tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.zeros(2)}, path)
    assert findings(WEIGHTS[code], path) == []
    torch.save({"w": torch.tensor([0, torch.nan])}, path)
    (finding,) = findings(WEIGHTS[code], path)
    assert finding.code == "weights-unusable"
    assert "1 of 1 tensors have NaN or infinite numbers: w" in finding.what
    path.write_bytes(pickle.dumps(Marker(str(tmp_path / "marker"))))
    (finding,) = findings(WEIGHTS[code], path)
    assert str(path) in finding.what
    assert "Nothing was executed" in finding.what
    assert not (tmp_path / "marker").exists()


class Marker:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.makedirs, (self.path,)


def test_a_resumed_run_needs_no_first_stage(tmp_path):
    options = dict(model=dict(stage="al"), stage_one="FILE", resume=True)
    assert findings(options, tmp_path / "gone.pth") == []
