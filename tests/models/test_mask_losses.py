import pytest
import torch
from mmengine.config import ConfigDict

from mmonepeace.models.mask_losses import MaskLoss, MaskTargets

CLASSES, QUERIES, POINTS = 4, 6, 200


def predictions(count=2, batch=2):
    return [
        (torch.randn(batch, QUERIES, CLASSES + 1), 3 * torch.randn(batch, QUERIES, 8, 12))
        for _ in range(count)
    ]


def boxes(*corners, size=(32, 48)):
    masks = torch.zeros(len(corners), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def targets():
    return [
        MaskTargets(torch.tensor([0, 3]), boxes((0, 0, 16, 20), (10, 20, 30, 48))),
        MaskTargets(torch.tensor([2, 1, 2]), boxes((0, 0, 9, 9), (5, 5, 32, 30), (0, 40, 8, 48))),
    ]


def perfect(target, order, sure=20.0):
    """Logits that say a target by the queries of an order."""
    logits = torch.zeros(QUERIES, CLASSES + 1)
    logits[:, -1] = sure
    masks = torch.full((QUERIES, *target.masks_NHW.shape[1:]), -sure)
    for query, label, mask in zip(order, *target, strict=False):
        logits[query] = 0
        logits[query, label] = sure
        masks[query, mask] = sure
    return logits[None], masks[None]


@pytest.mark.parametrize("order", [[0, 1, 2], [5, 0, 3]])
def test_a_perfect_prediction_is_matched_and_costs_nothing_wherever_it_is(order):
    target = targets()[1]
    logits, masks = perfect(target, order)
    loss = MaskLoss(CLASSES, num_points=POINTS)
    queries, matched = loss.match(logits[0], masks[0], target)
    assert {(int(q), int(n)) for q, n in zip(queries, matched, strict=True)} == {
        (order[n], n) for n in range(3)
    }
    given = loss([(logits, masks)], [target])
    assert given["loss_cls"] < 1e-3
    wrong = loss([(logits.roll(1, 1), -masks)], [target])
    assert wrong["loss_cls"] > 1
    # Not zero: at borders, where most points are, they lie between pixels.
    assert given["loss_dice"] < 0.2 * wrong["loss_dice"]
    assert given["loss_mask"] < 0.2 * wrong["loss_mask"]


def test_queries_may_be_permuted():
    loss, order = MaskLoss(CLASSES, num_points=POINTS), torch.randperm(QUERIES)
    (logits, masks), target = (x[0] for x in predictions(1)[0]), targets()[1]
    found = []
    for chosen in (torch.arange(QUERIES), order):
        torch.manual_seed(0)  # of the points
        queries, matched = loss.match(logits[chosen], masks[chosen], target)
        found.append({(int(chosen[q]), int(n)) for q, n in zip(queries, matched, strict=True)})
    assert found[0] == found[1]


def test_images_without_masks_teach_the_classes_only():
    none = MaskTargets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 32, 48, dtype=torch.bool))
    logits, masks = predictions(1)[0]
    masks.requires_grad_()
    given = MaskLoss(CLASSES, num_points=POINTS)([(logits, masks)], [none, none])
    assert given["loss_mask"] == given["loss_dice"] == 0
    assert given["loss_cls"] > 0
    sum(given.values()).backward()
    assert masks.grad.eq(0).all()  # a gradient, for DDP
    mixed = MaskLoss(CLASSES, num_points=POINTS)([(logits, masks)], [none, targets()[1]])
    assert mixed["loss_mask"] > 0


def test_more_masks_than_queries_are_matched_as_far_as_there_are_queries():
    corners = [(i, 0, i + 4, 48) for i in range(QUERIES + 3)]
    many = MaskTargets(torch.zeros(QUERIES + 3, dtype=torch.long), boxes(*corners))
    queries, matched = MaskLoss(CLASSES, num_points=POINTS).match(
        *(x[0] for x in predictions(1)[0]), many
    )
    assert sorted(queries.tolist()) == list(range(QUERIES))
    assert len(set(matched.tolist())) == QUERIES


def test_a_prediction_that_is_not_a_number_gives_a_loss_that_is_none():
    """What watches for diverging runs reports it; matching must not fail before."""
    logits, masks = predictions(1)[0]
    logits[0, 0, 0] = masks[1, 2, 3, 3] = torch.nan
    given = MaskLoss(CLASSES, num_points=POINTS)([(logits, masks)], targets())
    assert given["loss_cls"].isnan()


def test_uncertain_points_are_near_the_border_of_a_mask():
    x = torch.linspace(-8, 8, 64)
    masks = x.expand(1, 64, 64)  # its border is in the middle
    points = MaskLoss(CLASSES, num_points=POINTS).uncertain_points(masks)
    assert points.shape == (1, POINTS, 2)
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance[: POINTS * 3 // 4].max() < 0.2
    assert distance[POINTS * 3 // 4 :].max() > 0.3


@pytest.mark.ops
def test_losses_are_those_of_mmdet():
    """mmdet draws its points in the same order, so that equal seeds give equal losses."""
    from mmdet.models import Mask2FormerHead
    from mmdet.registry import MODELS, TASK_UTILS
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    init_default_scope("mmdet")
    head = Mask2FormerHead.__new__(Mask2FormerHead)
    torch.nn.Module.__init__(head)
    head.num_classes, head.num_queries, head.num_points = CLASSES, QUERIES, POINTS
    head.oversample_ratio, head.importance_sample_ratio = 3.0, 0.75
    costs = [
        dict(type="ClassificationCost", weight=2.0),
        dict(type="CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
        dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
    ]
    head.assigner = TASK_UTILS.build(dict(type="HungarianAssigner", match_costs=costs))
    head.sampler = TASK_UTILS.build(dict(type="MaskPseudoSampler"))
    head.class_weight = [1.0] * CLASSES + [0.1]
    cfg = ConfigDict(
        cls=dict(type="CrossEntropyLoss", loss_weight=2.0, class_weight=head.class_weight),
        mask=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0),
        dice=dict(
            type="DiceLoss", use_sigmoid=True, activate=True, naive_dice=True, eps=1.0,
            loss_weight=5.0,
        ),
    )  # fmt: skip
    head.loss_cls, head.loss_mask, head.loss_dice = (MODELS.build(c) for c in cfg.values())
    outputs = predictions(3)
    truth = [InstanceData(labels=t.labels_N, masks=t.masks_NHW.long()) for t in targets()]
    torch.manual_seed(0)
    expected = head.loss_by_feat(*zip(*outputs, strict=True), truth, [{}, {}])
    torch.manual_seed(0)
    actual = MaskLoss(CLASSES, num_points=POINTS)(outputs, targets())
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value.squeeze(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(num_points=0), dict(oversample_ratio=0.5), dict(importance_ratio=1.5)]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MaskLoss(CLASSES, **options)
