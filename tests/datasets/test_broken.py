import pytest

from mmonepeace.datasets import broken
from mmonepeace.datasets.audio_io import AudioError
from mmonepeace.datasets.broken import (
    BrokenSamples,
    CaptionError,
    MissingError,
    TooManyBrokenError,
)
from mmonepeace.datasets.image_io import ImageError


@pytest.fixture
def messages(monkeypatch):
    found = []
    monkeypatch.setattr(broken, "print_log", lambda message, *_: found.append(message))
    return found


def test_samples_are_counted_by_kind_and_named_once(messages):
    samples = BrokenSamples(100, 0.5)
    errors = [ImageError("cut"), AudioError("cut"), MissingError("gone"), CaptionError("empty")]
    for _ in range(2):
        for index, error in enumerate([*errors, ImageError("cut too")]):
            samples.add(index, error, "sample {}".format)
        samples.add_usable(50)
    assert samples.counts == {"missing": 1, "image": 2, "text": 1, "audio": 1}
    assert samples.seen == 6
    assert 4 in samples
    assert 50 not in samples
    assert 99 not in samples
    assert len(messages) == 5
    assert messages[0] == "broken sample sample 0: cut"


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
    ("total", "usable", "share", "limit"),
    [
        (100, 0, 0.05, 6),  # of a small set, a share of all
        (10_000, 0, 0.05, 51),  # at first, a share of a thousand
        (10_000, 5000, 0.05, 264),  # then of what was seen, 5264
        (100, 0, 0.0, 1),
        (20, 0, 0.99, 20),
    ],
)
def test_too_many_end_the_run(messages, total, usable, share, limit):
    count, message = add_until_the_end(BrokenSamples(total, share), range(usable))
    assert count == limit
    assert f"({count} image), more than max_broken={share}" in message
    assert f"The first: {total - count}" in message


def test_a_share_of_all_or_more_is_refused():
    for share in (1, 1.5, -0.1):
        with pytest.raises(ValueError, match=f"max_broken is {share}"):
            BrokenSamples(10, share)
