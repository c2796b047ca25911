"""Files that mmseg and mmdet refuse in their own ways, or accept in silence."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmonepeace.datasets.guarded_loading import GuardedLoading
from mmonepeace.datasets.sample_errors import ImageError, LabelError, MissingError

SIZE = (6, 8)


@pytest.fixture
def sample(tmp_path):
    """Write an image and its labels; results of loading both."""

    def load(labels, image=None, name="label.png"):
        size = np.shape(labels)[:2] or SIZE
        image = np.zeros((*size, 3), np.uint8) if image is None else image
        Image.fromarray(image).save(tmp_path / "image.png")
        if labels is not None:
            Image.fromarray(np.asarray(labels)).save(tmp_path / name)
        results = dict(
            img_path=str(tmp_path / "image.png"), seg_map_path=str(tmp_path / name),
            seg_fields=[], reduce_zero_label=False,
        )  # fmt: skip
        results = GuardedLoading(LoadImageFromFile())(results)
        return GuardedLoading(LoadAnnotations())(results)

    return load


@pytest.mark.parametrize("size", [(1, 8), (8, 1), (1, 1), (1, 3), (6, 8)])
def test_maps_of_one_row_or_column_keep_both_axes(sample, size):
    labels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
    assert np.array_equal(sample(labels)["gt_seg_map"], labels)


@pytest.mark.parametrize(
    ("labels", "name", "says"),
    [
        (np.full(SIZE, 512, np.uint16), "label.png", "values of more than 8 bits, 512 to 512"),
        (np.full(SIZE, -1, np.int32), "label.tif", "more than 8 bits, -1 to -1"),
        (np.full(SIZE, 0.5, np.float32), "label.tif", "more than 8 bits, 0.5 to 0.5"),
        (np.full(SIZE, np.nan, np.float32), "label.tif", "more than 8 bits"),
        (np.zeros((*SIZE, 3), np.uint8), "label.png", "3 channels"),
    ],
)
def test_what_mmseg_would_truncate_is_refused(sample, labels, name, says):
    with pytest.raises(LabelError, match=f"{name}.*{says}"):
        sample(labels, np.zeros((*SIZE, 3), np.uint8), name)


def test_values_of_16_bits_that_fit_are_kept(sample):
    assert (sample(np.full(SIZE, 200, np.uint16))["gt_seg_map"] == 200).all()


def test_a_map_of_another_size_is_refused(sample):
    with pytest.raises(LabelError, match=r"label.png is 8 x 6 pixels, its image 8 x 7"):
        sample(np.zeros(SIZE, np.uint8), np.zeros((7, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, MissingError, "no such file"),
        (b"", ImageError, "is empty"),
        (b"\x89PNG", ImageError, "cannot be decoded"),
        (b"hello", ImageError, "cannot be decoded"),
    ],
)
def test_images_that_cannot_be_read_are_named(tmp_path, content, error, says):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=f"image.png.*{says}"):
        GuardedLoading(LoadImageFromFile())({"img_path": str(path)})


def test_labels_of_any_library_are_named(tmp_path):
    pytest.importorskip("mmdet", reason="needs mmdetection: make env-full")
    with TRANSFORMS.switch_scope_and_registry("mmdet") as registry:
        load = GuardedLoading(registry.build(dict(type="LoadAnnotations", with_mask=True)))
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((*SIZE, 3)))
    mask = dict(size=[9, 9], counts=[81])
    instances = [
        dict(bbox=[0, 0, 4, 4], bbox_label=0, ignore_flag=0, mask=m)
        for m in (mask, dict(size=[*SIZE], counts=[48]))
    ]
    results = dict(
        img_path=str(tmp_path / "image.png"), instances=instances, ori_shape=SIZE, height=6, width=8
    )
    with pytest.raises(LabelError, match=r"image\.png"):
        load(results)


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6\x20\0\0\0"])
def test_postscript_is_never_handed_to_a_decoder(tmp_path, head):
    path = tmp_path / "image.png"
    path.write_bytes(head)
    load = GuardedLoading(lambda results: pytest.fail("the decoder was called"))
    with pytest.raises(ImageError, match="is PostScript, a program"):
        load(dict(img_path=str(path)))
