"""The detectors of the configs, small: losses, predictions, any size."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmonepeace.models.eomt_heads import panoptic_targets
from tests.conftest import ROOT

pytestmark = pytest.mark.ops
TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "ffn_dim": 48}
KINDS = (
    "mask-rcnn", "cascade-mask-rcnn", "retinanet", "mask2former-instance", "eomt-instance",
)  # fmt: skip


def small(kind):
    """The model of a base config, with three classes and a tiny backbone."""
    cfg = Config.fromfile(ROOT / f"configs/_base_/models/onepeace_{kind}.py").model
    cfg.backbone.update(arch=TINY, img_size=128)
    if kind == "eomt-instance":
        cfg.backbone.update(num_queries=10, num_blocks=2, query_ffn="own")
        cfg.panoptic_head.num_things_classes = cfg.panoptic_fusion_head.num_things_classes = 3
        cfg.train_cfg.num_points = 64
        cfg.test_cfg.max_per_image = 10
        return cfg
    if kind == "mask2former-instance":
        cfg.backbone.update(norm_cfg=dict(type="BN"), spatial_dim=8)
        cfg.panoptic_head.update(in_channels=[32] * 4, num_things_classes=3, num_queries=10)
        cfg.panoptic_head.loss_cls.class_weight = [1.0] * 3 + [0.1]
        cfg.panoptic_head.pixel_decoder.encoder.num_layers = 1
        cfg.panoptic_head.transformer_decoder.num_layers = 1
        cfg.panoptic_fusion_head.num_things_classes = 3
        cfg.train_cfg.num_points = 64
        cfg.test_cfg.max_per_image = 10  # of 10 queries
        return cfg
    cfg.backbone.window_size = 4
    cfg.neck.update(in_channels=32, out_channels=16)
    if kind == "retinanet":
        cfg.bbox_head.update(in_channels=16, feat_channels=16, num_classes=3)
        return cfg
    roi = cfg.roi_head
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 16
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32, num_classes=3)
    roi.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3)
    cfg.train_cfg.rpn_proposal.max_per_img = cfg.test_cfg.rpn.max_per_img = 50
    return cfg


def build(kind):
    init_default_scope("mmdet")
    return MODELS.build(small(kind))


def batch(sizes=((96, 120), (80, 140)), boxes=2):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for height, width in sizes:
        corners = torch.tensor([[5.0, 6, 60, 50], [30, 20, 75, 70]])[:boxes]
        masks = torch.zeros(boxes, height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=corners,
            labels=torch.tensor([0, 2])[:boxes],
            masks=BitmapMasks(masks.numpy(), height, width),
        )
        samples.append(sample)
    inputs = [torch.randint(0, 255, (3, h, w), dtype=torch.uint8) for h, w in sizes]
    return {"inputs": inputs, "data_samples": samples}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boxes", [2, 0])
def test_losses_reach_every_parameter_and_predictions_have_the_size_of_the_image(kind, boxes):
    model = build(kind)
    model.train()
    losses, _ = model.parse_losses(
        model(**model.data_preprocessor(batch(boxes=boxes), True), mode="loss")
    )
    assert torch.isfinite(losses)
    losses.backward()
    if boxes:
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch())
    for result, size in zip(results, ((96, 120), (80, 140)), strict=True):
        actual = result.pred_instances
        assert set(actual.labels.tolist()) <= {0, 1, 2}
        if "masks" in actual:
            assert actual.masks.shape[1:] == size
        else:
            assert kind == "retinanet"


def test_one_stage_trains_in_bfloat16():
    model = build("retinanet").train()
    data = model.data_preprocessor(batch(), True)
    exact, _ = model.parse_losses(model(**data, mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.1)


def test_the_cascade_has_one_mask_head_which_learns_once():
    model = build("cascade-mask-rcnn")
    names = [n for n, _ in model.named_parameters() if "mask_head" in n]
    assert "roi_head.mask_head.convs.0.ln.weight" in names
    model.train()
    losses = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert [name for name in losses if "mask" in name] == ["s0.loss_mask"]


def test_rescored_masks_are_ranked_by_box_and_mask():
    model = build("cascade-mask-rcnn").eval()
    with torch.no_grad():
        (result, _) = model.test_step(batch())
    actual = result.pred_instances
    assert ((actual.mask_scores >= 0) & (actual.mask_scores <= actual.scores)).all()
    # A mask that covers something has a mean probability above one half.
    covers = actual.mask_scores > 0
    assert covers.any()
    assert (actual.mask_scores[covers] > 0.5 * actual.scores[covers]).all()
    model.roi_head.test_cfg.mask_rescoring = False
    with torch.no_grad():
        (plain, _) = model.test_step(batch())
    assert "mask_scores" not in plain.pred_instances


def test_queries_are_instances_and_stuff():
    from mmengine.structures import PixelData

    init_default_scope("mmdet")
    cfg = small("eomt-instance")
    cfg.data_preprocessor.update(pad_seg=True, seg_pad_value=255)
    cfg.panoptic_head.num_stuff_classes = cfg.panoptic_fusion_head.num_stuff_classes = 2
    cfg.test_cfg.update(panoptic_on=True, instance_on=False, object_mask_thr=0.0, iou_thr=0.0)
    model = MODELS.build(cfg).train()
    data = batch()
    for sample in data["data_samples"]:
        height, width = sample.img_shape
        stuff = torch.full((1, height, width), 255)
        stuff[:, :40] = 4
        stuff[:, 60:] = 1  # a class of instances, whose masks are in `gt_instances`
        sample.gt_sem_seg = PixelData(sem_seg=stuff)
    prepared = model.data_preprocessor(data, True)
    samples = prepared["data_samples"]
    labels, masks = panoptic_targets(samples[0], 3, torch.device("cpu"))
    assert labels.tolist() == [0, 2, 4]
    assert masks.shape == (3, *samples[0].batch_input_shape)
    assert masks[2].any(1).sum() == 40
    losses, _ = model.parse_losses(model(**prepared, mode="loss"))
    assert losses.isfinite()
    model.eval()
    with torch.no_grad():
        (result, _) = model.test_step(batch())
    assert result.pred_panoptic_seg.sem_seg.shape == (1, 96, 120)
    assert set((result.pred_panoptic_seg.sem_seg % 1000).unique().tolist()) <= {0, 1, 2, 3, 4, 5}
