import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmonepeace.models import EoMTHead
from mmonepeace.models.eomt_heads import semantic_targets
from mmonepeace.models.onepeace_eomt import QueryMasks
from tests.conftest import ROOT, TINY

CLASSES, QUERIES, DIM = 3, 5, 32


def outputs(batch=2, shape=(6, 8), blocks=2):
    return tuple(
        QueryMasks(torch.randn(batch, QUERIES, DIM), torch.randn(batch, QUERIES, *shape))
        for _ in range(blocks)
    )


def samples(batch=2, size=(24, 32)):
    made = []
    for _ in range(batch):
        labels = torch.randint(0, CLASSES, (1, size[0] // 8, size[1] // 8))
        labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
        labels[0, 0] = 255
        made.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=size)))
    return made


def test_a_class_is_one_mask_and_ignored_pixels_are_in_none():
    labels = torch.tensor([[0, 2, 2], [255, 0, 2]])
    classes, masks = semantic_targets(labels, 255)
    assert classes.tolist() == [0, 2]
    assert torch.equal(masks, torch.stack([labels == 0, labels == 2]))
    classes, masks = semantic_targets(torch.full((2, 3), 255), 255)
    assert masks.shape == (0, 2, 3)


def test_a_pixel_has_the_class_of_the_query_whose_mask_it_is_in():
    head = EoMTHead(CLASSES, DIM)
    torch.nn.init.zeros_(head.classifier.weight)
    with torch.no_grad():  # the first number of a query is its class
        head.classifier.bias.zero_()
        for label in range(CLASSES):
            head.classifier.weight[label, label] = 30
    queries = torch.zeros(1, 2, DIM)
    queries[0, 0, 2] = queries[0, 1, 1] = 1
    masks = torch.full((1, 2, 6, 8), -30.0)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 30
    logits = head.predict((QueryMasks(queries, masks),), [dict(img_shape=(21, 32))])
    assert logits.shape == (1, CLASSES, 21, 32)
    labels = logits.argmax(1)[0]
    assert labels[:, :15].eq(2).all()
    assert labels[:, 17:].eq(1).all()
    assert logits.min() >= 0


def test_only_the_last_output_is_predicted_from():
    head, given = EoMTHead(CLASSES, DIM), outputs()
    metas = [dict(img_shape=(24, 32))] * 2
    assert torch.equal(head.predict(given, metas), head.predict(given[-1:], metas))


def test_every_block_learns():
    head = EoMTHead(CLASSES, DIM, train_cfg=dict(num_points=50))
    given = tuple(QueryMasks(*(x.requires_grad_() for x in each)) for each in outputs())
    losses = head.loss(given, samples())
    assert sorted(losses) == sorted(
        f"{prefix}loss_{name}" for prefix in ("", "d0.") for name in ("cls", "mask", "dice")
    )
    sum(losses.values()).backward()
    assert all(x.grad.abs().sum() > 0 for each in given for x in each)


def segmentor(**test_cfg):
    init_default_scope("mmseg")
    cfg = Config.fromfile(ROOT / "configs/_base_/models/onepeace_eomt.py").model
    cfg.backbone.update(arch=TINY, img_size=64, num_queries=QUERIES, num_blocks=2)
    cfg.decode_head.update(num_classes=CLASSES)
    cfg.decode_head.train_cfg.num_points = 64
    cfg.test_cfg = test_cfg or dict(mode="whole")
    return MODELS.build(cfg)


WINDOW = dict(mode="slide", crop_size=(64, 64), stride=(40, 40))


@pytest.mark.parametrize("test_cfg", [{}, WINDOW], ids=["whole", "slide"])
def test_a_list_of_sizes_is_predicted_as_single_images_are(test_cfg):
    model = segmentor(**test_cfg).eval()
    images = [
        torch.randint(0, 255, (3, *size), dtype=torch.uint8)
        for size in ((70, 50), (64, 64), (33, 150), (70, 50))
    ]
    metas = [
        SegDataSample(metainfo=dict(ori_shape=x.shape[1:], img_shape=x.shape[1:])) for x in images
    ]
    together = model.test_step(dict(inputs=images, data_samples=metas))
    for image, meta, one in zip(images, metas, together, strict=True):
        (alone,) = model.test_step(dict(inputs=[image], data_samples=[meta]))
        assert one.seg_logits.data.shape == (CLASSES, *image.shape[1:])
        torch.testing.assert_close(one.seg_logits.data, alone.seg_logits.data)


def test_a_segmentor_learns_one_image():
    torch.manual_seed(0)
    model = segmentor().train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    labels = torch.zeros(1, 64, 96, dtype=torch.long)
    labels[:, :, 30:] = 1
    labels[:, 40:] = 2
    image = 80 * labels.expand(3, -1, -1).to(torch.uint8)
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)
    batch = model.data_preprocessor(dict(inputs=[image] * 2, data_samples=[sample] * 2), True)
    for _ in range(60):
        loss = sum(model.loss(**batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    (said,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert (said.pred_sem_seg.data == labels).float().mean() > 0.85
