from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmonepeace.datasets import tokenizer
from mmonepeace.evaluation import ClassPromptHook, RecallAtK, ZeroShotAccuracy
from tests.evaluation.test_retrieval import evaluate, sample, unit


class WordModel(torch.nn.Module):
    """Embeds a text as the mean of fixed vectors of its ids."""

    def __init__(self, size):
        super().__init__()
        self.table = torch.nn.Embedding(size, 64)

    def data_preprocessor(self, data):
        return data

    def forward(self, inputs):
        means = [self.table(ids[:-1]).mean(0) for ids in inputs["text"]]
        return {"text": F.normalize(torch.stack(means), dim=-1)}


CLASSES = ["dog", "cat", "cow", "red fox"]


@pytest.fixture
def zero_shot(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.train(CLASSES * 3, 300).save(path)
    return {"tokenize": {"type": "mmonepeace.Tokenize", "tokenizer": str(path)}, "topk": (1, 2)}


def classified(metric, model, names):
    """Audio samples whose embedding is that of a class."""
    rows = [metric.class_indices[name] for name in names]
    return [
        sample(text=name, embeddings={"audio": metric.class_CD[row]})
        for name, row in zip(names, rows, strict=True)
    ]


def run_hook(metric, model, dataset=None):
    loop = SimpleNamespace(
        evaluator=SimpleNamespace(metrics=[RecallAtK(), metric]),
        dataloader=SimpleNamespace(dataset=dataset),
    )
    ClassPromptHook().before_val_epoch(SimpleNamespace(model=model, val_loop=loop))


def test_zero_shot_finds_the_class_and_knows_chance(zero_shot):
    model = WordModel(300)
    metric = ZeroShotAccuracy(modality="audio", classes=CLASSES, batch_size=3, **zero_shot)
    run_hook(metric, model)
    samples = classified(metric, model, ["dog", "cow", "red fox", "cat"])
    swapped = [{**samples[0], "text": "cat"}, *samples[1:]]
    got = evaluate(swapped, metric)
    assert got["zero_shot/top1"] == 75
    assert got["zero_shot/top1_chance"] == 25
    assert got["zero_shot/top2_chance"] == 50


def test_classes_come_from_the_data_set_and_templates_are_averaged(zero_shot):
    model = WordModel(300)
    infos = [{"text": name} for name in CLASSES[::-1] * 2]
    dataset = type("Data", (), {"__len__": lambda _: 8, "get_data_info": lambda _, i: infos[i]})()
    templates = ("a {}", "the sound of a {}")
    metric = ZeroShotAccuracy(modality="audio", templates=templates, **zero_shot)
    run_hook(metric, model, dataset)
    assert list(metric.class_indices) == sorted(CLASSES)
    prompts = [t.replace("{}", "cow") for t in templates]
    ids = [metric.tokenize({"text": prompt})["inputs"]["text"] for prompt in prompts]
    with torch.no_grad():
        expected = F.normalize(model({"text": ids})["text"].mean(0), dim=0)
    torch.testing.assert_close(metric.class_CD[metric.class_indices["cow"]], expected)


def test_mistakes_name_their_fix(zero_shot):
    with pytest.raises(ValueError, match=r"each needs \{\} for the class"):
        ZeroShotAccuracy(modality="audio", templates=("a sound",), **zero_shot)
    metric = ZeroShotAccuracy(modality="audio", classes=CLASSES, **zero_shot)
    bird = sample(text="bird", embeddings={"audio": unit(1, 64)[0]})
    with pytest.raises(RuntimeError, match="ClassPromptHook"):
        metric.process(None, [bird])
    run_hook(metric, WordModel(300))
    with pytest.raises(ValueError, match=r"'bird'.*label_key"):
        metric.process(None, [bird])
