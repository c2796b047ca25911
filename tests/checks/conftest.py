import shutil

import pytest

from tests.checks.detection import Detection
from tests.checks.pairs import Pairs
from tests.checks.segmentation import Segmentation


@pytest.fixture
def segmentation(tmp_path):
    return Segmentation(tmp_path)


@pytest.fixture
def detection(tmp_path):
    pytest.importorskip("mmdet", reason="needs mmdetection: pip install -e .[det]")
    return Detection(tmp_path)


@pytest.fixture
def pair_data(tmp_path):
    return Pairs(tmp_path)


@pytest.fixture
def seg_data_copy(seg_data, tmp_path):
    return shutil.copytree(seg_data, tmp_path / "data")
