"""What a run starts from: weights, the checkpoint of a first stage, tokenizers."""

import json

import pytest
from mmengine.config import Config

from mmonepeace.checks.catalogue import CATALOGUE
from mmonepeace.checks.report import Report
from mmonepeace.checks.weights import check_tokenizers, check_weights
from mmonepeace.datasets import tokenizer

WEIGHTS = {
    "weights-missing": dict(model=dict(backbone=dict(init_cfg=dict(checkpoint="FILE")))),
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


@pytest.mark.parametrize("code", ["weights-missing", "load-from-missing", "stage-one-missing"])
def test_what_exists_is_no_finding(code, tmp_path):
    (tmp_path / "file.pth").touch()
    assert findings(WEIGHTS[code], tmp_path / "file.pth") == []


def test_a_resumed_run_needs_none_of_them(tmp_path):
    options = dict(model=dict(stage="al"), stage_one="FILE", load_from="FILE", resume=True)
    assert findings(options, tmp_path / "gone.pth") == []
