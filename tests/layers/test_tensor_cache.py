import torch

from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache


def counted(limit):
    """A kept function of numbers, and how often each was computed."""
    calls = []

    @byte_bounded_lru_cache(limit)
    def zeros(count):
        calls.append(count)
        return torch.zeros(count)

    return zeros, calls


def test_the_last_tensors_are_kept_as_far_as_there_is_room():
    zeros, calls = counted(limit=24)
    assert zeros(2) is zeros(2)
    zeros(3)
    zeros(2)  # asked for again: 3 goes first
    zeros(4)
    assert calls == [2, 3, 4]
    zeros(2)
    assert calls == [2, 3, 4]
    zeros(3)
    assert calls == [2, 3, 4, 3]


def test_a_tensor_larger_than_the_room_is_kept_until_the_next():
    zeros, calls = counted(limit=24)
    assert zeros(100) is zeros(100)
    zeros(1)
    zeros(100)
    assert calls == [100, 1, 100]


def test_what_is_forgotten_is_computed_again():
    zeros, calls = counted(limit=24)
    zeros(2)
    zeros.cache_clear()
    zeros(2)
    assert calls == [2, 2]


def test_tensors_made_in_inference_serve_training():
    zeros, _ = counted(limit=24)
    with torch.inference_mode():
        made = zeros(2)
    assert not made.is_inference()
    (made * torch.ones(2, requires_grad=True)).sum().backward()
