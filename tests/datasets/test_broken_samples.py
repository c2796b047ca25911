from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from torch.utils.data import DataLoader, Dataset

from mmonepeace.datasets import broken_samples
from mmonepeace.datasets.broken_samples import (
    BrokenSamples,
    BrokenSamplesHook,
    TooManyBrokenError,
)
from mmonepeace.datasets.sample_errors import AudioError, CaptionError, ImageError, MissingError


@pytest.fixture
def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(broken_samples, "print_log", lambda message, *_: logged.append(message))
    return logged


def test_samples_are_counted_by_kind_and_named_once(messages):
    samples = BrokenSamples(100, 0.5)
    errors = [ImageError("cut"), AudioError("cut"), MissingError("gone"), CaptionError("empty")]
    errors += [ImageError("cut too"), KeyError("img_path")]
    for _ in range(2):
        for index, error in enumerate(errors):
            samples.add(index, error, "sample {}".format)
        samples.add_usable(50)
    assert samples.counts == {"missing": 1, "image": 2, "text": 1, "audio": 1, "other": 1}
    assert samples.seen == 7
    assert 5 in samples
    assert 50 not in samples
    assert 99 not in samples
    assert len(messages) == 6
    assert messages[0] == "broken sample sample 0: cut"
    assert messages[5] == "broken sample sample 5: KeyError: 'img_path'."


def add_until_the_end(samples, usable=()):
    for index in usable:
        samples.add_usable(index)
    for count in range(1, len(samples._states) + 1):
        try:
            samples.add(len(samples._states) - count, ImageError("cut"), str)
        except TooManyBrokenError as error:
            return count, str(error)
    return None


@pytest.mark.parametrize(
    ("total", "usable", "fraction", "limit"),
    [
        (100, 0, 0.05, 6),  # of a small set, a fraction of all
        (10_000, 0, 0.05, 51),  # at first, a fraction of a thousand
        (10_000, 5000, 0.05, 264),  # then of what was seen, 5264
        (12, 0, 0.05, 2),  # one may always be broken
        (100, 0, 0.0, 1),
        (20, 0, 0.99, 20),
    ],
)
def test_too_many_end_the_run(messages, total, usable, fraction, limit):
    count, message = add_until_the_end(BrokenSamples(total, fraction), range(usable))
    assert count == limit
    assert f"({count} image), more than max_broken={fraction}" in message
    assert f"The first: {total - count}" in message


def test_the_only_sample_may_not_be_broken(messages):
    with pytest.raises(TooManyBrokenError, match="1 of 1 samples seen are broken"):
        BrokenSamples(1, 0.05).add(0, ImageError("cut"), str)


def test_a_fraction_of_all_or_more_is_refused():
    for fraction in (1, 1.5, -0.1):
        with pytest.raises(ValueError, match=f"max_broken is {fraction}"):
            BrokenSamples(10, fraction)


class EveryFifth(Dataset):
    """Reads forty samples; every fifth one is broken."""

    def __init__(self):
        self.broken = BrokenSamples(40, 0.5)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index % 5:
            self.broken.add_usable(index)
        else:
            self.broken.add(index, (ImageError if index % 2 else MissingError)("cut"), str)
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_the_log_has_the_count_of_all_workers(workers, request):
    loader = DataLoader(EveryFifth(), batch_size=4, num_workers=workers)
    said = []
    runner = SimpleNamespace(
        train_dataloader=loader,
        val_dataloader=loader,
        message_hub=MessageHub.get_instance(request.node.name),
        logger=SimpleNamespace(warning=said.append),
        iter=0,
    )
    hook = BrokenSamplesHook(interval=5)
    seen = []
    for runner.iter, _ in enumerate(loader):
        hook.after_train_iter(runner, runner.iter)
        if "train/broken" in runner.message_hub.log_scalars:
            seen.append(runner.message_hub.get_scalar("train/broken").current())
    hook.after_train(runner)
    assert len(seen) == 6  # from the fifth of ten batches on
    assert seen[-1] == 8
    assert seen == sorted(seen)
    hook.after_val(runner)
    assert said == [
        "8 broken samples were replaced: 4 missing, 4 image.",
        "8 broken samples of val were replaced: 4 missing, 4 image.",
    ]


def test_data_sets_without_a_count_are_not_logged():
    loader = DataLoader(list(range(4)))
    hub = MessageHub.get_instance("no counts")
    runner = SimpleNamespace(train_dataloader=loader, message_hub=hub, iter=9)
    BrokenSamplesHook().after_train_iter(runner, 9)
    BrokenSamplesHook().after_train(runner)
    assert not hub.log_scalars


def test_a_sample_that_two_processes_met_counts_once(monkeypatch):
    others = {(0, 5): "image", (0, 7): "audio"}  # (data set, index)
    monkeypatch.setattr(broken_samples, "all_gather_object", lambda kinds: [kinds, others])
    dataset, said = EveryFifth(), []
    dataset[5], dataset[0]
    runner = SimpleNamespace(
        train_dataloader=DataLoader(dataset), logger=SimpleNamespace(warning=said.append)
    )
    BrokenSamplesHook().after_train(runner)
    assert said == ["3 broken samples were replaced: 1 missing, 1 image, 1 audio."]
