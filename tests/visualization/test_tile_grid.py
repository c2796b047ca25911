import numpy as np
from PIL import Image

from mmonepeace.visualization.tile_grid import TileGrid


def test_tiles_are_where_the_spacing_says():
    edges = dict(left=0.1, right=0.9, bottom=0.25, top=0.75)
    grid = TileGrid(2, 3, (6, 4), 10, **edges, wspace=0, hspace=0)
    assert grid.tiles.shape == (2, 3)
    grid.tiles[0, 2].imshow(np.zeros((2, 2, 3)), aspect="auto")
    black = grid.to_array().sum(-1) == 0
    assert black.shape == (40, 60)
    assert black[11:19, 39:53].all()
    assert black.sum() <= 11 * 17


def test_a_figure_is_written_with_its_folders(tmp_path):
    grid = TileGrid(1, 1, (2, 1), 50, layout="constrained")
    image = grid.tiles[0, 0].imshow(np.eye(3))
    bar = grid.add_colour_bar(image, "what it is")
    grid.save(tmp_path / "new/grid.png")
    assert Image.open(tmp_path / "new/grid.png").size == (100, 50)
    assert bar.ax.get_ylabel() == "what it is"
    assert bar.ax.get_position().x0 > grid.tiles[0, 0].get_position().x1
