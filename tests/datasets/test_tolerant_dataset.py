"""Data sets of mmengine with files that cannot be read, alone and inside wrappers."""

import copy

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmonepeace.datasets.broken_samples import LEFT_OUT, TooManyBrokenError, data_sets_that_count
from mmonepeace.datasets.guarded_loading import GuardedLoading
from mmonepeace.datasets.seeded_dataset import SeededDataset
from mmonepeace.datasets.tolerant_dataset import TolerantDataset, tolerate_broken

COUNT = 40
CUT = (3, 17)


class LoadNumber:
    """Stands for a decoder: two numbers cannot be read; each draws a random number before that."""

    def __call__(self, results):
        results["drawn"] = np.random.randint(1000)
        if results["number"] in CUT:
            raise AssertionError("failed to load")
        return results


class Pack:
    """Some samples are left out, as mmdet leaves out images without boxes."""

    def __init__(self, empty=()):
        self.empty = empty

    def __call__(self, results):
        if results["number"] in self.empty:
            return None
        sample = BaseDataElement(metainfo={"number": results["number"]})
        return {"inputs": results["drawn"], "data_samples": sample}


class Numbers(BaseDataset):
    def load_data_list(self):
        return [dict(number=i, img_path=__file__) for i in range(COUNT)]


def numbers(empty=(), **options):
    return Numbers(pipeline=[LoadNumber(), Pack(empty)], **options)


def number_of(sample):
    return sample["data_samples"].number


def read_all(dataset):
    return [(s["inputs"], number_of(s)) for s in (dataset[i] for i in range(len(dataset)))]


def test_broken_samples_are_replaced_marked_and_counted_once():
    dataset = tolerate_broken(numbers(), 0.1)
    for _ in range(2):
        for index in range(COUNT):
            sample = dataset[index]
            assert bool(sample["data_samples"].get(LEFT_OUT)) == (index in CUT)
            assert (number_of(sample) == index) == (index not in CUT)
    assert dataset.broken.kinds == dict.fromkeys(CUT, "image")
    assert dataset.broken.seen == COUNT
    assert dataset.name(3) == f"3 ({__file__})"


def test_healthy_data_sets_give_what_they_gave():
    expected = SeededDataset(numbers(empty=(5, 6)), seed=1)
    dataset = tolerate_broken(SeededDataset(numbers(empty=(5, 6)), seed=1), 0.1)
    healthy = [i for i in range(COUNT) if i not in (*CUT, 5, 6)]
    for index in healthy:
        assert dataset[index]["inputs"] == expected[index]["inputs"]


def test_replacements_do_not_depend_on_what_was_read_before():
    fresh = [tolerate_broken(SeededDataset(numbers((5, 6)), seed=2), 0.1)[i] for i in range(COUNT)]
    dataset = tolerate_broken(SeededDataset(numbers((5, 6)), seed=2), 0.1)
    first = read_all(dataset)
    assert first == [(s["inputs"], number_of(s)) for s in fresh]
    assert read_all(dataset) == first
    assert set(dataset.broken.kinds) == set(CUT)  # neither those that are empty


@pytest.mark.parametrize(
    ("wrap", "count"),
    [
        (lambda: RepeatDataset(numbers(), times=2), 1),
        (lambda: ConcatDataset([numbers(), numbers()]), 2),
        (lambda: SeededDataset(ConcatDataset([numbers(), numbers()])), 2),
    ],
)
def test_data_sets_inside_wrappers_are_tolerant_each(wrap, count):
    dataset = tolerate_broken(wrap(), 0.1)
    assert len(read_all(dataset)) == 2 * COUNT
    leaves = list(data_sets_that_count(dataset))
    assert [type(leaf) for leaf in leaves] == [TolerantDataset] * count
    assert [set(leaf.broken.kinds) for leaf in leaves] == [set(CUT)] * count


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_end_the_run_with_one_line(workers):
    loader = DataLoader(
        tolerate_broken(numbers(), 0.01), 8, num_workers=workers, collate_fn=pseudo_collate
    )
    with pytest.raises(TooManyBrokenError) as error:
        list(loader)
    message = str(error.value)
    assert "2 image), more than max_broken=0.01" in message
    assert "\n" not in message


def test_a_pipeline_that_never_works_ends_the_run():
    def fails(_):
        raise KeyError("gt_bboxes")

    dataset = tolerate_broken(Numbers(pipeline=[fails]), 0.9)
    with pytest.raises(TooManyBrokenError, match=r"all of the first 10 samples fail.*gt_bboxes"):
        dataset[0]


def test_it_can_be_copied_and_behaves_as_the_data_set():
    dataset = copy.copy(TolerantDataset(numbers(), 0.1))
    assert dataset[4]["data_samples"].number == 4
    assert dataset.get_data_info(4)["number"] == 4
    assert isinstance(dataset.pipeline.transforms[0], GuardedLoading)
    dataset.pipeline = None
    assert dataset.dataset.pipeline is None
