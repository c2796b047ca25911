import pytest
import torch
import torch.nn.functional as F

from mmonepeace.models.task_losses import ClassLoss, HingeLoss, MultiLabelLoss, box_losses


def test_smoothing_is_spread_over_all_classes():
    logits, classes, eps = torch.randn(5, 4), torch.tensor([0, 3, 2, 2, 1]), 0.2
    target = F.one_hot(classes, 4) * (1 - eps) + eps / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ClassLoss(eps)(logits, classes), expected)
    assert ClassLoss().accuracy(torch.eye(4)[[0, 3, 1, 1, 1]], classes) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"label_smoothing is 1\.5"):
        ClassLoss(1.5)


def test_distributions_are_not_smoothed_and_their_accuracy_is_expected():
    logits, target = torch.randn(3, 4), torch.rand(3, 4)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ClassLoss(0.3)(logits, target), expected)
    expected = (target * logits.softmax(1)).sum() / 3
    torch.testing.assert_close(ClassLoss.accuracy(logits, target), expected)


def test_several_labels_are_summed_over_classes():
    logits, target = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.3], [0, 0]])
    p = logits.sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / 2
    torch.testing.assert_close(MultiLabelLoss()(logits, target), expected)
    assert MultiLabelLoss.accuracy(logits, target) == 0.5  # targets 1 and 0 of the best


def test_the_hinge_counts_the_right_candidate_too():
    scores = torch.tensor([[0.0, 2.0, 0.5, -3.0], [4.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = HingeLoss()(scores, torch.tensor([1, 0]))
    assert loss.item() == 1.0  # all others are further away than the margin
    loss.backward()
    assert not scores.grad.any()
    assert HingeLoss(2.5)(scores, torch.tensor([0, 0])).item() == pytest.approx(
        (4.5 + 2.5 + 3 + 0 + 2.5) / 2
    )


def test_losses_are_in_float32_under_autocast():
    logits = torch.randn(4, 1000).mul_(8).bfloat16()
    expected = F.cross_entropy(logits.float(), torch.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = ClassLoss()(logits, torch.arange(4))
    assert loss.dtype == torch.float32
    assert loss == expected


def iou_by_hand(a, b):
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(w, 0) * max(h, 0)
    either = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - both
    w, h = (max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1))
    return both / either - (w * h - either) / (w * h)


def test_boxes_in_order_count_for_the_generalised_iou():
    boxes = torch.tensor(
        [[0.1, 0.1, 0.5, 0.4], [0.7, 0.7, 0.9, 0.9], [0.5, 0.1, 0.2, 0.9], [0.3, 0.3, 0.3, 0.6]]
    )
    target = torch.tensor([[0.2, 0.0, 0.6, 0.4]]).expand(4, 4)
    l1, giou = box_losses(boxes, target)
    torch.testing.assert_close(l1, (boxes - target).abs().sum() / 4)
    expected = sum(1 - iou_by_hand(*pair) for pair in zip(boxes[:2].tolist(), target.tolist(), strict=False)) / 2  # fmt: skip
    assert giou.item() == pytest.approx(expected, abs=1e-6)


def test_without_a_box_in_order_only_the_l1_loss_is_left():
    boxes = torch.tensor([[0.6, 0.1, 0.2, 0.9], [0.5] * 4], requires_grad=True)
    target = torch.tensor([[0.1, 0.2, 0.4, 0.8], [0.25, 0.25, 0.75, 0.75]])
    l1, giou = box_losses(boxes, target)
    assert giou.item() == 0
    (l1 + giou).backward()
    assert torch.equal(boxes.grad, (boxes.detach() - target).sign() / 2)


@pytest.mark.parametrize("side", [1e-4, 1e-7, 1e-12])
def test_boxes_of_hardly_any_size_have_finite_gradients(side):
    boxes = torch.tensor(
        [[0.2, 0.2, 0.2 + side, 0.2 + side], [0, 0, side, 1.0]], requires_grad=True
    )
    for target in (torch.tensor([[0.4, 0.4, 0.8, 0.9]]).expand(2, 4), boxes.detach().clone()):
        boxes.grad = None
        sum(box_losses(boxes, target)).backward()
        assert boxes.grad.isfinite().all()
