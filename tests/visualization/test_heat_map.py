import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmonepeace.visualization.heat_map import draw_heat_maps

QUERIES = ["sky", "a $5 price and $6, " * 12, "<b>", "four", "five"]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    found = []
    save = Figure.savefig

    def kept(self, *args, **options):
        found.append(self)
        return save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("shape", [(40, 90), (90, 30)])
def test_each_query_has_a_panel_with_a_scale_of_its_own(tmp_path, figures, count, shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    maps = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    draw_heat_maps(tmp_path / "new/maps.png", image, maps, QUERIES[:count])
    Image.open(tmp_path / "new/maps.png").load()
    panels = [axis for axis in figures[0].axes if axis.images]
    np.testing.assert_array_equal(panels[0].images[0].get_array(), image)
    overlays = [panel.images[1] for panel in panels[1:]]
    assert len(overlays) == count
    for overlay, values in zip(overlays, maps, strict=True):
        np.testing.assert_array_equal(overlay.get_array(), values)
        low, high = overlay.get_clim()
        assert values.min() <= low < high <= values.max()
        assert f"{low:.3f} to {high:.3f}" in overlay.axes.get_title()


def test_titles_lie_inside_the_figure_whatever_they_hold(tmp_path, figures):
    maps = np.zeros((5, 20, 20), np.float32)
    maps[:, 5, 5] = 1
    draw_heat_maps(tmp_path / "maps.png", np.zeros((20, 20, 3), np.uint8), maps, QUERIES)
    figure = figures[0]
    width, height = figure.canvas.get_width_height()
    titles = [axis.title for axis in figure.axes if axis.get_title()]
    assert "".join(t.get_text() for t in titles).count("$") >= 2
    for title in titles:
        box = title.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
