import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from mmonepeace.models.mixup import Mixup
from mmonepeace.registry import MODELS
from tests.conftest import TINY


def batch(size=6, classes=4):
    """Images of one number each, and one-hot labels."""
    images = torch.arange(1.0, size + 1)[:, None, None, None].expand(size, 3, 8, 8).clone()
    return images, F.one_hot(torch.arange(size) % classes, classes)


def test_mixup_weights_partners_and_labels_alike():
    images, scores = batch()
    before, labels = images.clone(), scores.float()
    np.random.seed(0)
    mixed, targets = Mixup(4, cutmix_alpha=0)(images, scores)
    ratio = ((mixed - before.flip(0)) / (before - before.flip(0)))[0, 0, 0, 0]
    torch.testing.assert_close(mixed, ratio * before + (1 - ratio) * before.flip(0))
    torch.testing.assert_close(targets, ratio * labels + (1 - ratio) * labels.flip(0))


def test_cutmix_weights_labels_by_area():
    images, scores = batch()
    before, labels = images.clone(), scores.float()
    np.random.seed(2)
    mixed, targets = Mixup(4, mixup_alpha=0)(images, scores)
    kept = (mixed == before).float().mean((1, 2, 3))
    assert torch.equal(mixed, torch.where(mixed == before, before, before.flip(0)))
    assert 0 < kept[0] < 1
    torch.testing.assert_close(targets, kept[0] * labels + (1 - kept[0]) * labels.flip(0))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [1, 5, 6])
def test_any_number_of_images_is_mixed(size, mode):
    images, scores = batch(size)
    last = images[-1].clone()
    mixed, targets = Mixup(4, mode=mode)(images, scores)
    torch.testing.assert_close(targets.sum(1), torch.ones(size))
    if size % 2:
        assert torch.equal(mixed[-1], last)
        assert torch.equal(targets[-1], scores[-1].float())


def test_without_probability_nothing_changes():
    images, scores = batch()
    before = images.clone()
    mixed, targets = Mixup(4, prob=0.0)(images, scores)
    assert torch.equal(mixed, before)
    assert torch.equal(targets, scores.float())


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"cutmix_alpha 0; expected 0 or more"):
        Mixup(4, mixup_alpha=0, cutmix_alpha=0)
    with pytest.raises(ValueError, match="one class per image"):
        Mixup(4)(torch.zeros(2, 3, 8, 8), torch.ones(2, 4))


def classifier(**options):
    pytest.importorskip("mmpretrain", reason="needs mmpretrain: pip install -e .[cls]")
    loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
    backbone = dict(type="mmonepeace.OnePeace", arch=TINY, img_size=32, out_type="avg_featmap")
    head = dict(type="LinearClsHead", num_classes=4, loss=loss, in_channels=32)
    cfg = dict(type="mmonepeace.ImageClassifier", backbone=backbone, head=head, **options)
    return MODELS.build(cfg)


def test_the_classifier_learns_from_mixed_batches_with_smoothed_labels():
    from mmpretrain.structures import DataSample

    model = classifier(mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0))
    images = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(4)]
    data = dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(4)])
    plain = classifier().data_preprocessor({**data, "data_samples": data["data_samples"]}, True)
    np.random.seed(3)
    mixed = model.data_preprocessor(data, training=True)
    assert not torch.equal(mixed["inputs"], plain["inputs"])
    targets = torch.stack([sample.gt_score for sample in mixed["data_samples"]])
    logits = model.head((model.backbone(mixed["inputs"])[-1],))
    expected = SoftTargetCrossEntropy()(logits, 0.9 * targets + 0.1 / 4)
    loss = model.loss(mixed["inputs"], mixed["data_samples"])["loss"]
    torch.testing.assert_close(loss, expected)
    still = model.data_preprocessor(data, training=False)
    assert torch.equal(still["inputs"], plain["inputs"])


def test_a_batch_is_mixed_once():
    with pytest.raises(ValueError, match="leave one out"):
        classifier(mixup={}, train_cfg=dict(augments=dict(type="Mixup", alpha=0.8)))
