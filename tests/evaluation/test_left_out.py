"""Scores of images, some of which stand for others that could not be read."""

from types import SimpleNamespace

import pytest
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement

from mmonepeace.datasets.broken_samples import LEFT_OUT
from mmonepeace.evaluation import LeftOutHook


class Mean(BaseMetric):
    """Mean of the numbers of the samples; like COCO's, it knows which images there are."""

    def __init__(self, with_ids=False):
        super().__init__()
        if with_ids:
            self.img_ids = None

    def process(self, data_batch, data_samples):
        views = data_batch["inputs"]
        assert len(views[0] if isinstance(views[0], list) else views) == len(data_samples)
        self.results += [(dict(img_id=s["number"]), s["number"]) for s in data_samples]

    def compute_metrics(self, results):
        self.ids = getattr(self, "img_ids", None)
        return {"mean": sum(number for _, number in results) / len(results)}


def sample(number, mark=False):
    return BaseDataElement(metainfo=dict(number=number) | ({LEFT_OUT: True} if mark else {}))


def scores(metric, batches):
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {}
    LeftOutHook().before_val(SimpleNamespace(val_evaluator=evaluator))
    LeftOutHook().before_val(SimpleNamespace(val_evaluator=evaluator))  # of the next validation
    size = 0
    for samples in batches:
        batch = {"inputs": list(range(len(samples))), "data_samples": samples}
        evaluator.process(data_samples=samples, data_batch=batch)
        size += len(samples)
    return evaluator.evaluate(size)


def test_marked_samples_do_not_count():
    batches = [[sample(1), sample(100, True), sample(3)], [sample(100, True)], [sample(8)]]
    assert scores(Mean(), batches) == {"mean": 4}
    assert scores(Mean(), [[sample(1)], [sample(100)]]) == {"mean": 50.5}
    assert scores(Mean(), [[sample(1, True)]]) == {}


def test_metrics_that_list_images_list_those_that_were_read():
    metric = Mean(with_ids=True)
    scores(metric, [[sample(1), sample(100, True)], [sample(3)]])
    assert metric.ids == [1, 3]
    assert metric.img_ids is None
    scores(metric, [[sample(1)]])
    assert metric.ids is None  # all images of the file


def test_augmentations_of_a_sample_are_one():
    evaluator = Evaluator(Mean())
    LeftOutHook().before_test(SimpleNamespace(test_evaluator=evaluator))
    views = [[sample(1), sample(2, True)], [sample(1), sample(2, True)]]
    merged = [sample(1), sample(2)]  # the model that merges them leaves out the mark
    evaluator.process(merged, {"inputs": [[0, 1], [0, 1]], "data_samples": views})
    assert evaluator.evaluate(2) == {"mean": 1}


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_was_left_out_is_counted_and_named_below_the_scores(split):
    leaf = SimpleNamespace(
        broken=SimpleNamespace(kinds={3: "image", 5: "label"}), leaves_out=True, name="n{}".format
    )
    loader = SimpleNamespace(dataset=type("Sized", (list,), {})(range(2000)))
    loader.dataset.dataset = leaf
    said = []
    runner = SimpleNamespace(
        message_hub=MessageHub.get_instance(f"left out of {split}"),
        logger=SimpleNamespace(info=said.append),
        **{f"{split}_dataloader": loader},
    )
    getattr(LeftOutHook(), f"after_{split}_epoch")(runner)
    assert runner.message_hub.get_scalar(f"{split}/left_out").current() == 2
    getattr(LeftOutHook(), f"after_{split}")(runner)
    (line,) = said
    assert line.startswith(f"2 of 2,000 samples left out of the scores of {split}")
    assert line.endswith("(1 image, 1 label): n3, n5")
