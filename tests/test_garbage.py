import gc
import weakref

import pytest

from mmonepeace.garbage import no_garbage, only_new_garbage


class Circle:
    """Garbage as soon as nobody refers to it."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def as_before():
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    if frozen:
        gc.freeze()


def passes():
    """How often garbage was looked for."""
    return sum(generation["collections"] for generation in gc.get_stats())


def test_what_stays_is_not_looked_at():
    with no_garbage():
        before = passes()
        stays = [[] for _ in range(100_000)]
        assert passes() == before
    more = [[] for _ in range(100)]  # would have been the first ones too many
    assert passes() == before
    assert len(stays) + len(more) == 100_100


def test_garbage_is_found_afterwards():
    with no_garbage():
        circle = weakref.ref(Circle())
    assert circle() is not None
    gc.collect()
    assert circle() is None


def test_garbage_of_before_is_left_alone_until_the_end():
    old = weakref.ref(Circle())
    with only_new_garbage():
        new = weakref.ref(Circle())
        with only_new_garbage(), no_garbage():
            pass
        gc.collect()
        assert old() is not None
    gc.collect()
    assert old() is None
    assert new() is None


def test_an_error_changes_nothing_of_this():
    with pytest.raises(KeyError), only_new_garbage(), no_garbage():
        raise KeyError


def test_nested_contexts_end_once():
    with no_garbage():
        with no_garbage():
            pass
        assert not gc.isenabled()
