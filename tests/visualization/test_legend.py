import numpy as np
import pytest

from mmonepeace.visualization.legend import class_colours


@pytest.mark.parametrize("palette", ["random", None, [(1, 2, 3)]])
def test_classes_without_a_palette_get_colours_that_differ(palette):
    colours = class_colours(palette, 30)
    assert colours.shape == (30, 3)
    assert len(np.unique(colours, axis=0)) == 30


def test_a_longer_palette_gives_its_first_colours():
    assert class_colours([(1, 2, 3), (4, 5, 6)], 1).tolist() == [[1, 2, 3]]
