import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.apis import inference_model
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmonepeace.models.segmentor import LabelsOnly, SegDataPreProcessor
from mmonepeace.models.sliding_window import BandResizer
from tests.conftest import TINY, randomise

CROP, STRIDE = (64, 48), (43, 32)
BN = dict(type="BN")
CLASSES = 5


def build(head=None, neck=None, size_divisor=None, **test_cfg):
    """A segmentor around a tiny ONE-PEACE whose output depends on the whole crop."""
    head = head or dict(type="FCNHead", num_classes=CLASSES)
    if head["type"] == "FCNHead":
        head = dict(
            in_channels=32, in_index=1, channels=8, num_convs=1, norm_cfg=BN,
            loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True, use_sigmoid=True),
        ) | head  # fmt: skip
    cfg = dict(
        type="mmonepeace.EncoderDecoder",
        data_preprocessor=dict(
            type="SegDataPreProcessor",
            mean=[120.0] * 3,
            std=[60.0] * 3,
            test_cfg=size_divisor and dict(size_divisor=size_divisor),
        ),
        backbone=dict(
            type="mmonepeace.OnePeace",
            arch=TINY | {"depth": 4},
            img_size=64,
            rpb="per_block",
            out_indices=[0, 1, 2, 3],
        ),
        neck=neck,
        decode_head=head,
        test_cfg=dict(mode="slide", crop_size=CROP, stride=STRIDE) | test_cfg,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return randomise(MODELS.build(Config(cfg)._cfg_dict)).eval()


@pytest.fixture(scope="module")
def segmentor():
    return build()


@contextmanager
def options(model, **test_cfg):
    old, model.test_cfg = model.test_cfg, copy.copy(model.test_cfg)
    model.test_cfg.update(test_cfg)
    try:
        yield model
    finally:
        model.test_cfg = old


def mmseg_slides(model, images):
    """mmseg's own sliding window."""
    metas = [dict(img_shape=images.shape[2:]) for _ in images]
    with torch.no_grad():
        return MMSegEncoderDecoder.slide_inference(model, images, metas)


def mmseg_predicts(model, images, metas):
    """mmseg's own window and what it makes of the logits."""
    samples = [SegDataSample(metainfo=meta) for meta in metas]
    return model.postprocess_result(mmseg_slides(model, images), samples)


def assert_same_labels(actual, expected_logits, atol=1e-4):
    """Where labels differ, the logits of both must be as good as equal."""
    assert actual.shape == (1, *expected_logits.shape[1:])
    assert actual.dtype == torch.int64
    chosen = expected_logits.gather(0, actual)
    torch.testing.assert_close(chosen[0], expected_logits.max(0).values, rtol=1e-4, atol=atol)


# ---------------------------------------------------------------------------- the sliding window


@pytest.mark.parametrize("crop_batch", [1, 3, 100])
@pytest.mark.parametrize(
    "size", [CROP, (20, 30), (64, 30), (107, 80), (128, 96), (97, 131), (150, 49), (30, 200)]
)
def test_the_window_gives_what_that_of_mmseg_gives(size, crop_batch):
    model = build(crop_batch=crop_batch).double()  # crops alone and in batches: equal to 1e-14
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    actual = model.slide_inference(images, [{}, {}])
    assert actual.dtype == torch.float32
    assert not actual.requires_grad
    expected = mmseg_slides(model, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)


def test_what_the_caller_knows_of_the_images_stays_as_it_is(segmentor):
    metas = [dict(img_shape=(90, 60), pad_shape=(96, 64), ori_shape=(9, 6), n=i) for i in range(3)]
    before = copy.deepcopy(metas)
    seen = []

    def encode_decode(crops, crop_metas):
        assert len(crop_metas) == len(crops)
        for meta in crop_metas:
            assert meta["img_shape"] == meta["pad_shape"] == crops.shape[2:] == CROP
            seen.append(meta["n"])
            meta["batch_input_shape"] = "of a head that writes here"
        return crops

    model = copy.copy(segmentor)
    model.encode_decode = encode_decode
    model.out_channels = 3
    images = torch.randn(3, 3, 96, 64)
    torch.testing.assert_close(model.slide_inference(images, metas), images)
    assert metas == before
    assert seen == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_logits_may_be_kept_in_half_precision_or_elsewhere(segmentor, dtype, bound):
    images = torch.randn(2, 3, 107, 90)
    with options(segmentor, accumulate_dtype=dtype, accumulate_device="cpu"):
        logits = segmentor.slide_inference(images, [{}, {}])
        sample = segmentor.predict(images)[0]
    assert logits.dtype == sample.seg_logits.data.dtype == getattr(torch, dtype)
    expected = mmseg_slides(segmentor, images)
    torch.testing.assert_close(logits.float(), expected, rtol=bound, atol=1e-4)
    assert_same_labels(sample.pred_sem_seg.data, expected[0])  # taken before rounding


def test_smooth_blending_keeps_what_is_constant_and_hides_the_borders_of_crops(segmentor):
    model = copy.copy(segmentor)
    model.out_channels = 1
    images = torch.randn(1, 3, 150, 200)
    with options(model, blend="smooth"):
        model.encode_decode = lambda crops, metas: torch.full_like(crops[:, :1], 3)
        constant = model.slide_inference(images, [{}])
        torch.testing.assert_close(constant, torch.full((1, 1, 150, 200), 3.0))
        # crops that disagree as a whole
        model.encode_decode = lambda crops, metas: crops[:, :1, :1, :1].expand_as(crops[:, :1])
        smooth = model.slide_inference(images, [{}])
    step = max(smooth.diff(dim=d).abs().max() for d in (2, 3))
    mean = model.slide_inference(images, [{}])
    assert step < 0.3 * max(mean.diff(dim=d).abs().max() for d in (2, 3))


def test_bfloat16_autocast_is_summed_in_float32(segmentor):
    images = torch.randn(1, 3, 107, 90)
    with torch.autocast("cpu", torch.bfloat16):
        logits = segmentor.slide_inference(images, [{}])
        expected = mmseg_slides(segmentor, images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("test_cfg", "message"),
    [
        (dict(blend="foo"), "blend is 'foo'.*'mean' or 'smooth'"),
        (dict(stride=(65, 32)), "larger than crop_size"),
        (dict(crop_size=(0, 48)), "crop_size is .*positive"),
        (dict(crop_size=None), "crop_size is None"),
        (dict(crop_batch=0), "crop_batch is 0"),
        (dict(accumulate_dtype="int8"), "accumulate_dtype is 'int8'.*float16"),
        (dict(accumulate_device="disk"), "accumulate_device is 'disk'"),
        (dict(dtype="half"), "dtype is 'half', it should be one of float32, float16, bfloat16"),
        (dict(max_logits_gb=-1), "max_logits_gb is -1"),
        (dict(max_logits_gb="much"), "max_logits_gb is 'much'"),
        (dict(max_logits_gb=float("nan")), "max_logits_gb is nan"),
    ],
)
def test_an_invalid_window_is_refused_before_the_first_image(test_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**test_cfg)


def test_a_window_without_a_size_is_refused():
    cfg = dict(build(mode="whole", crop_size=None).test_cfg, mode="slide")
    del cfg["stride"]
    model = build(mode="whole")
    model.test_cfg = cfg
    with pytest.raises(ValueError, match=r"no stride\. Set"):
        model.predict(torch.randn(1, 3, 64, 64))


# ------------------------------------------------------------------------------------ predictions

SITUATIONS = {
    "as it is": dict(ori_shape=(107, 90)),
    "enlarged": dict(ori_shape=(301, 222)),
    "made smaller": dict(ori_shape=(31, 44)),
    "taller and narrower": dict(ori_shape=(200, 33)),
    "padded": dict(ori_shape=(200, 150), img_padding_size=(0, 10, 0, 7)),
    "padded all around": dict(ori_shape=(60, 150), padding_size=[3, 4, 50, 6]),
    "mirrored": dict(ori_shape=(150, 90), flip=True, flip_direction="horizontal"),
    "upside down, padded": dict(
        ori_shape=(77, 130), flip=True, flip_direction="vertical", img_padding_size=(0, 8, 0, 9)
    ),
    "not flipped after all": dict(ori_shape=(107, 90), flip=False, flip_direction="vertical"),
}


@pytest.mark.parametrize("chunk", [1, 40_000, 10**9])  # bytes: one row, some, all
@pytest.mark.parametrize("situation", SITUATIONS)
def test_predictions_are_those_of_mmseg_and_labels_need_no_logits(
    segmentor, situation, chunk, monkeypatch
):
    monkeypatch.setattr("mmonepeace.models.segmentor._CHUNK_BYTES", chunk)
    resize, rows_at_once = BandResizer.__call__, []
    monkeypatch.setattr(
        BandResizer,
        "__call__",
        lambda self, band: rows_at_once.append(band.shape[1]) or resize(self, band),
    )
    images = torch.randn(2, 3, 107, 90)
    metas = [SITUATIONS[situation] | dict(img_path=f"{i}.png") for i in range(2)]
    expected = mmseg_predicts(segmentor, images, metas)
    samples = [SegDataSample(metainfo=meta) for meta in metas]
    actual = segmentor.predict(images, samples)
    with options(segmentor, max_logits_gb=0):
        labels_only = segmentor.predict(images, [SegDataSample(metainfo=meta) for meta in metas])
    for ours, bare, theirs, sample in zip(actual, labels_only, expected, samples, strict=True):
        assert ours is sample
        assert ours.metainfo == bare.metainfo == theirs.metainfo
        assert set(ours.keys()) == set(theirs.keys())
        logits = theirs.seg_logits.data
        torch.testing.assert_close(ours.seg_logits.data, logits, rtol=1e-5, atol=1e-5)
        for one in (ours, bare):
            assert_same_labels(one.pred_sem_seg.data, logits)
        assert "seg_logits" not in bare
    assert (max(rows_at_once) == 1) == (chunk == 1)


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_predictions_in_bfloat16_are_those_of_autocast_and_come_in_float32(mode, segmentor):
    image = torch.rand(1, 3, 80, 96)
    sample = [SegDataSample(metainfo=dict(ori_shape=(80, 96), img_shape=(80, 96)))]
    with options(segmentor, mode=mode), torch.no_grad():
        exact = segmentor.predict(image, copy.deepcopy(sample))[0].seg_logits.data
        with options(segmentor, dtype="bfloat16"):
            ours = segmentor.predict(image, copy.deepcopy(sample))[0].seg_logits.data
        with torch.autocast("cpu", torch.bfloat16):
            around = segmentor.predict(image, copy.deepcopy(sample))[0].seg_logits.data
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, exact)
    torch.testing.assert_close(ours, around.float(), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("max_logits_gb", [0, 2])
@pytest.mark.parametrize("align_corners", [False, True])
def test_binary_heads_give_a_probability_and_a_threshold(max_logits_gb, align_corners):
    head = dict(
        type="FCNHead", num_classes=2, out_channels=1, threshold=0.4, align_corners=align_corners
    )
    model = build(head, max_logits_gb=max_logits_gb)
    images = torch.randn(1, 3, 107, 90)
    meta = dict(ori_shape=(140, 51))
    (actual,) = model.predict(images, [SegDataSample(metainfo=meta)])
    (expected,) = mmseg_predicts(model, images, [meta])
    probability = expected.seg_logits.data
    sure = (probability - 0.4).abs() > 1e-4
    assert 0 < (probability > 0.4).float().mean() < 1
    assert actual.pred_sem_seg.data.dtype == expected.pred_sem_seg.data.dtype
    assert actual.pred_sem_seg.shape == expected.pred_sem_seg.shape
    assert (actual.pred_sem_seg.data == expected.pred_sem_seg.data)[sure].all()
    if max_logits_gb:
        torch.testing.assert_close(actual.seg_logits.data, probability, rtol=1e-5, atol=1e-5)


def test_images_without_samples_are_predicted_as_they_are(segmentor):
    images = torch.randn(2, 3, 107, 90)
    expected = MMSegEncoderDecoder.predict(segmentor, images)
    for actual, theirs in zip(segmentor.predict(images), expected, strict=True):
        torch.testing.assert_close(
            actual.seg_logits.data, theirs.seg_logits.data, rtol=1e-5, atol=1e-5
        )


def test_the_limit_counts_logits_of_one_image_at_its_original_size(segmentor):
    images = torch.randn(2, 3, 64, 48)
    metas = [dict(ori_shape=(100, 100)), dict(ori_shape=(100, 101))]
    limit = 100 * 100 * CLASSES * 4 / 1e9

    def kept(**test_cfg):
        with options(segmentor, **test_cfg):
            actual = segmentor.predict(images, [SegDataSample(metainfo=meta) for meta in metas])
        return ["seg_logits" in sample for sample in actual]

    assert kept(max_logits_gb=limit) == [True, False]
    assert kept(max_logits_gb=limit, accumulate_dtype="float16") == [True, True]
    assert kept(max_logits_gb=limit / 2) == [False, False]


def test_a_prediction_without_logits_keeps_the_rest_and_says_how_to_have_them(segmentor):
    sample = SegDataSample(metainfo=dict(ori_shape=(70, 50), img_path="street.png"))
    sample.gt_sem_seg = ground_truth = PixelData(data=torch.zeros(1, 70, 50, dtype=torch.long))
    images = torch.randn(1, 3, 70, 50)
    (sample,) = segmentor.predict(images, [sample])  # logits from before are not kept either
    with options(segmentor, max_logits_gb=0):
        (actual,) = segmentor.predict(images, [sample])
    assert isinstance(actual, LabelsOnly)
    assert "seg_logits" not in actual
    assert not hasattr(actual, "seg_logits")
    assert actual.gt_sem_seg is ground_truth
    assert set(actual.to_dict()) >= {"gt_sem_seg", "pred_sem_seg", "img_path", "ori_shape"}
    assert actual.cpu().clone().pred_sem_seg.shape == (70, 50)
    with pytest.raises(AttributeError, match=r"street\.png.*model\.test_cfg\.max_logits_gb="):
        _ = actual.seg_logits


# --------------------------------------------------- images of different sizes, pipelines and TTA

LOAD = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
TO_MULTIPLES = [LOAD[0], dict(type="ResizeToMultiple", size_divisor=32), LOAD[1]]
TTA = [
    LOAD[0],
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=s, keep_ratio=True) for s in (0.75, 1.25)],
            [
                dict(type="RandomFlip", prob=float(flipped), direction=direction)
                for flipped, direction in ((0, "horizontal"), (1, "horizontal"), (1, "vertical"))
            ],
            [dict(type="PackSegInputs")],
        ],
    ),
]
SIZES = [(71, 90), (40, 33), (71, 90), (97, 60), (71, 90)]


@pytest.fixture(scope="module")
def image_paths(tmp_path_factory):
    """Files of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        coarse.resize((width, height)).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return paths


def predict(model, pipeline, paths):
    """As mmseg.apis does."""
    model.cfg = Config(dict(test_pipeline=pipeline))
    with DefaultScope.overwrite_default_scope("mmseg"):
        return inference_model(model, paths)


def predict_tta(model, paths):
    """As the Runner does with `tta_model` and `tta_pipeline`."""
    with DefaultScope.overwrite_default_scope("mmseg"), torch.no_grad():
        data = pseudo_collate([Compose(copy.deepcopy(TTA))(dict(img_path=p)) for p in paths])
        return MODELS.build(dict(type="SegTTAModel", module=model)).test_step(data)


def assert_a_list_gives_what_single_calls_give(model, pipeline, paths):
    together = predict(model, pipeline, paths)
    assert [result.pred_sem_seg.shape for result in together] == SIZES
    assert [result.img_path for result in together] == paths
    for path, result in zip(paths, together, strict=True):
        expected = predict(model, pipeline, path).seg_logits.data
        assert expected.std() > 1e-3
        torch.testing.assert_close(result.seg_logits.data, expected, rtol=1e-4, atol=1e-3)
        assert_same_labels(result.pred_sem_seg.data, expected, atol=1e-3)
    with options(model, max_logits_gb=0):  # which whole images ignore
        for bare, result in zip(predict(model, pipeline, paths), together, strict=True):
            assert_same_labels(bare.pred_sem_seg.data, result.seg_logits.data)


@pytest.mark.parametrize("pipeline", [LOAD, TO_MULTIPLES], ids=["load", "resize"])
@pytest.mark.parametrize("size_divisor", [None, 32])
@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_a_list_of_sizes_gives_what_single_calls_give(image_paths, pipeline, size_divisor, mode):
    model = build(size_divisor=size_divisor, crop_batch=4, mode=mode)
    assert_a_list_gives_what_single_calls_give(model, pipeline, image_paths)


def test_no_more_images_are_prepared_at_once_than_share_a_batch_of_crops(image_paths):
    model = build(crop_batch=2)
    counts = []
    model.data_preprocessor.register_forward_pre_hook(
        lambda module, inputs: counts.append(len(inputs[0]["inputs"]))
    )
    predict(model, LOAD, image_paths)
    assert sorted(counts) == [1, 1, 1, 2]


def test_test_time_augmentation_needs_logits_and_says_so(image_paths):
    model = build()
    averaged = predict_tta(model, image_paths)
    assert [sample.pred_sem_seg.shape for sample in averaged] == SIZES
    model.test_cfg.max_logits_gb = 0
    with pytest.raises(AttributeError, match=r"0\.png.*Test-time augmentation.*max_logits_gb"):
        predict_tta(model, image_paths)


# ------------------------------------------------------------------------------------ Mask2Former


UPERNET = dict(
    type="UPerHead", in_channels=[32] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=CLASSES,
    norm_cfg=BN, loss_decode=dict(type="CrossEntropyLoss"),
)  # fmt: skip
PYRAMID = dict(type="Feature2Pyramid", embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=BN)


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (16, 160), (33, 15), (300, 1)])
def test_images_narrower_than_a_patch_are_predicted_and_learnt_from(size, mode):
    model = build(UPERNET, PYRAMID)
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    labels = torch.arange(size[0] * size[1]).reshape(1, *size) % CLASSES
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)
    with options(model, mode=mode):
        (prediction,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert prediction.pred_sem_seg.data.shape == (1, *size)
    assert prediction.seg_logits.data.isfinite().all()
    if mode == "whole":
        model.train()
        model.data_preprocessor.size_divisor = 1
        batch = dict(inputs=[image] * 2, data_samples=[sample] * 2)
        loss = model.loss(**model.data_preprocessor(batch, True))["decode.loss_ce"]
        loss.backward()
        assert loss.isfinite()
        gradients = [p.grad for p in model.neck.parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_pooling_of_narrow_maps_is_that_of_mmseg_where_mmseg_can():
    model = build(UPERNET, PYRAMID)
    maps = [torch.randn(2, 32, 5, 8) for _ in range(4)]
    plain = MODELS.build(PYRAMID | {"type": "mmseg.Feature2Pyramid"}).eval()
    plain.load_state_dict(model.neck.state_dict())
    for ours, theirs in zip(model.neck(maps), plain(maps), strict=True):
        assert torch.equal(ours, theirs)


def mask2former(num_classes=CLASSES, dim=32):
    """mmseg's head with a tenth of the usual widths."""
    attention = dict(embed_dims=dim, num_heads=4, dropout=0.0, batch_first=True)
    ffn = dict(embed_dims=dim, feedforward_channels=2 * dim, num_fcs=2, ffn_drop=0.0)
    positions = dict(num_feats=dim // 2, normalize=True)
    return dict(
        type="Mask2FormerHead",
        in_channels=[dim] * 4,
        strides=[4, 8, 16, 32],
        feat_channels=dim,
        out_channels=dim,
        num_classes=num_classes,
        num_queries=7,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type="mmdet.MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=8),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(**attention, num_levels=3, num_points=4), ffn_cfg=ffn
                ),
            ),
            positional_encoding=positions,
        ),
        enforce_decoder_input_project=False,
        positional_encoding=positions,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn),
        ),
        loss_cls=dict(type="mmdet.CrossEntropyLoss", class_weight=[1.0] * num_classes + [0.1]),
        loss_mask=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True),
        loss_dice=dict(type="mmdet.DiceLoss", use_sigmoid=True, activate=True),
    )


@pytest.fixture(scope="module")
def masked():
    neck = dict(type="Feature2Pyramid", embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=BN)
    return build(mask2former(), neck, size_divisor=32, crop_batch=3)


@pytest.mark.ops
@pytest.mark.parametrize("pipeline", [LOAD, TO_MULTIPLES], ids=["pad", "resize"])
def test_mask2former_slides_over_a_list_of_sizes(masked, image_paths, pipeline):
    assert_a_list_gives_what_single_calls_give(masked, pipeline, image_paths)


@pytest.mark.ops
def test_mask2former_slides_as_mmseg_would_where_mmseg_can(masked):
    images = torch.randn(1, 3, 128, 96)
    actual = masked.slide_inference(images, [dict(pad_shape=(128, 96))])
    torch.testing.assert_close(actual, mmseg_slides(masked, images), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError):  # what happens without our window
        MMSegEncoderDecoder.slide_inference(
            masked, images, [dict(img_shape=(128, 96), pad_shape=(128, 96))]
        )


@pytest.mark.ops
@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_mask2former_with_test_time_augmentation(masked, image_paths, mode):
    with options(masked, mode=mode):
        together = predict_tta(masked, image_paths)
        alone = [predict_tta(masked, [path])[0] for path in image_paths]
    assert [sample.pred_sem_seg.shape for sample in together] == SIZES
    for one, other in zip(together, alone, strict=True):
        differing = one.pred_sem_seg.data != other.pred_sem_seg.data
        assert differing.float().mean() < 0.01


def labelled(size=(20, 24)):
    """Images whose first channel is ten times the label, and their samples."""
    images, samples = [], []
    for i in range(4):
        labels = torch.randint(0, 4, (1, size[0] // 4, size[1] // 4))
        labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
        images.append((labels * 10).expand(3, -1, -1).to(torch.uint8).contiguous())
        sample = SegDataSample(metainfo=dict(img_shape=size, seg_map_path=f"{i}.png"))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


CROPPED = dict(size=(16, 16), flip=0.5)


def test_batches_of_training_are_augmented_with_their_labels():
    torch.manual_seed(0)
    preprocess = SegDataPreProcessor(
        mean=[0, 0, 10], std=[1, 1, 2], augmentation=CROPPED, label_stride=4
    )
    batch = preprocess(labelled(), training=True)
    assert batch["inputs"].shape == (4, 3, 16, 16)
    for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        labels = sample.gt_sem_seg.data
        assert labels.shape == (1, 4, 4)
        assert labels.dtype == torch.int64
        assert sample.img_shape == sample.pad_shape == (16, 16)
        torch.testing.assert_close(image[1], image[2] * 2 + 10, rtol=0, atol=1e-3)  # normalised
        middle = image[0, 1:3, 1:3].mean() / 10
        assert abs(middle - labels[0, 0, 0]) < 1.5
    same = preprocess(labelled())["inputs"]
    assert same.shape == (4, 3, 20, 24)  # not of training


def test_images_of_several_sizes_are_padded_with_ignored_labels():
    torch.manual_seed(0)
    low, high = labelled((16, 24)), labelled((20, 16))
    mixed = {key: low[key][:2] + high[key][2:] for key in low}
    whole = SegDataPreProcessor(mean=None, std=None, augmentation=dict(size=(20, 24)))
    batch = whole(mixed, training=True)
    for i, (rows, columns) in enumerate([(16, 24)] * 2 + [(20, 16)] * 2):
        labels = batch["data_samples"][i].gt_sem_seg.data
        inside = torch.zeros(20, 24, dtype=torch.bool)
        inside[:rows, :columns] = True
        assert ((labels[0] != 255) == inside).all()
        seen, expected = batch["inputs"][i, 1][inside], labels[0][inside] * 10.0
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-3)


def test_what_augmentation_cannot_move_is_refused():
    preprocess = SegDataPreProcessor(augmentation=CROPPED)
    edges = labelled()
    edges["data_samples"][1].gt_edge_map = PixelData(data=torch.zeros(1, 20, 24))
    with pytest.raises(ValueError, match="has gt_edge_map, gt_sem_seg: `augmentation` moves"):
        preprocess(edges, training=True)
    edges["data_samples"][1] = SegDataSample()
    with pytest.raises(ValueError, match="has no labels: `augmentation` moves"):
        preprocess(edges, training=True)
    turned = labelled()
    turned["data_samples"][2].gt_sem_seg = PixelData(data=torch.zeros(1, 24, 20))
    with pytest.raises(ValueError, match=r"2.png has \(24, 20\) pixels, its image \(20, 24\)"):
        preprocess(turned, training=True)


def test_options_beside_augmentation_are_checked():
    with pytest.raises(ValueError, match=r"batch_augments is .*Use `augmentation`"):
        SegDataPreProcessor(batch_augments=[dict(type="Mixup")])
    with pytest.raises(ValueError, match=r"size is \(32, 32\), expected none"):
        SegDataPreProcessor(augmentation=CROPPED, size=(32, 32))
    with pytest.raises(ValueError, match="label_stride is 4, which needs `augmentation`"):
        SegDataPreProcessor(label_stride=4)
    with pytest.raises(ValueError, match="label_stride is 0, expected pixels"):
        SegDataPreProcessor(augmentation=CROPPED, label_stride=0)
