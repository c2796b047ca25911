"""What all metrics share: several processes, and samples that are left out."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import Evaluator
from torch import distributed as dist

from mmonepeace.datasets.broken_samples import LEFT_OUT
from mmonepeace.engine.processes import exit_distributed
from mmonepeace.evaluation import LeftOutHook
from tests.evaluation.samples import element, measure
from tests.processes import spawn

CLASSES = ["yes", "no", "2"]


def scored(index, **fields):
    generator = torch.Generator().manual_seed(index)
    return element(pred_score=torch.randn(3, generator=generator), **fields)


def boxed(index):
    corners = torch.tensor([10.0, 20, 60, 90])
    return element(pred_box=corners + 4 * index, gt_box=corners)


def paired(index):
    x = torch.nn.functional.normalize(torch.eye(8)[[index % 4, index % 3]] + 0.1, dim=1)
    embeddings = {"image": x[0], "text": x[1]}
    return element(img_path=f"{index % 4}.png", text=f"{index % 3}", embeddings=embeddings)


SAMPLES = {
    "Accuracy": lambda i: scored(i, gt_label=i % 3),
    "MeanAveragePrecision": lambda i: scored(i, gt_score=torch.eye(3)[i % 3]),
    "VQAAccuracy": lambda i: scored(
        i, gt_score=torch.eye(3)[i % 3], answers=["yes"] * 2 + ["two"] * 8, question_id=i
    ),
    "GroundingAccuracy": boxed,
    "RecallAtK": paired,
}


def build(name, folder):
    config = {"type": f"mmonepeace.{name}"}
    if name == "VQAAccuracy":
        config["out_file"] = f"{folder}/answers.json"
    if name == "RecallAtK":
        config |= dict(rule="official", topk=(1, 2))
    return config


def _measure_all(process, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=process, world_size=2)
    for name, make in SAMPLES.items():
        dealt = [make(i % 11) for i in range(process, 12, 2)]  # padded, as samplers do
        evaluator = Evaluator(dict(build(name, folder), collect_dir=f"{folder}/{name}"))
        evaluator.dataset_meta = {"classes": CLASSES}
        evaluator.process(dealt)
        torch.save(evaluator.evaluate(11), f"{folder}/{name}_{process}.pt")
    exit_distributed(0)


def test_two_processes_find_what_one_finds(tmp_path):
    spawn(_measure_all, (str(tmp_path),), 2)
    written = (tmp_path / "answers.json").read_text()
    for name, make in SAMPLES.items():
        expected = measure(build(name, tmp_path), [make(i) for i in range(11)], CLASSES)
        assert len(expected) > 1
        for process in range(2):
            got = torch.load(tmp_path / f"{name}_{process}.pt", weights_only=True)
            assert {k.partition("/")[2]: v for k, v in got.items()} == expected
    assert (tmp_path / "answers.json").read_text() == written


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_that_is_left_out_does_not_count(name, tmp_path):
    make = SAMPLES[name]
    evaluator = Evaluator(build(name, tmp_path))
    evaluator.dataset_meta = {"classes": CLASSES}
    LeftOutHook().before_test(SimpleNamespace(test_evaluator=evaluator))
    samples = [make(i) for i in (0, 1, 2, 1, 3)]
    samples[3].set_metainfo({LEFT_OUT: True})  # stands for one that cannot be read
    batch = {"inputs": list(range(5)), "data_samples": samples}
    evaluator.process(samples, batch)
    got = {k.partition("/")[2]: v for k, v in evaluator.evaluate(5).items()}
    assert got == measure(build(name, tmp_path), [make(i) for i in range(4)], CLASSES)
