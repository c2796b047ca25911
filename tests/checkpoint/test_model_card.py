"""The card of a model as hubs read it."""

import pytest

from mmonepeace.checkpoint.model_card import ModelCard, card_text

CONFIG = {
    "class": "Predictor",
    "parameters": 1_234_567,
    "dtype": "bfloat16",
    "architecture": {"depth": 3, "embed_dim": 32, "num_heads": 2, "ffn_dim": 48},
    "modalities": {"image": {}},
    "preprocessing": {"image": {"size": 64}},
    "task": "classify",
    "classes": ["a", "b"],
    "mmonepeace_version": "0.1.0",
}


def header(card, **changes):
    yaml = pytest.importorskip("yaml")
    text = card_text(card, "x", CONFIG | changes, {})
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("task", "modalities", "tag"),
    [
        ("classify", ["image"], "image-classification"),
        ("classify", ["audio"], "audio-classification"),
        ("answer", ["text", "image"], "visual-question-answering"),
        ("answer", ["text", "audio"], None),
        ("ground", ["text", "image"], None),
    ],
)
def test_the_pipeline_is_that_of_the_task(task, modalities, tag):
    facts = header(ModelCard(), task=task, modalities=dict.fromkeys(modalities))
    assert facts.get("pipeline_tag") == tag


def test_strings_of_the_author_stay_strings():
    card = ModelCard(license="no", datasets=["1.0", 'a: "b"\n---', "ü"], pipeline_tag="x")
    facts = header(card)
    assert facts["license"] == "no"
    assert facts["datasets"] == ["1.0", 'a: "b"\n---', "ü"]
    assert facts["pipeline_tag"] == "x"


def test_what_is_not_known_is_not_on_the_card():
    text = card_text(ModelCard(), "x", CONFIG, {})
    assert "| parameters | 1,234,567 |" in text
    assert "| classes | 2, named in `config.json` |" in text
    assert "do not say what the weights were trained on" in text
    assert not {"license", "datasets", "metrics"} & set(header(ModelCard()))
