import pytest

from tests.engine.doctor.detection import Detection
from tests.engine.doctor.pairs import Pairs
from tests.engine.doctor.segmentation import Segmentation


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
