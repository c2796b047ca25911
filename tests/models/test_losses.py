import pytest
import torch
import torch.nn.functional as F

from mmonepeace.models.losses import contrastive


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1).requires_grad_()


def test_it_is_the_mean_of_two_cross_entropies():
    a, b, scale = unit(5, 8), unit(5, 8), torch.tensor(7.0)
    logits = scale * a @ b.t()
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.t(), torch.arange(5))) / 2  # fmt: skip
    torch.testing.assert_close(contrastive(a, b, scale).loss, expected)


def test_each_direction_trains_its_own_side_only():
    a, b = unit(4, 6), unit(4, 6)
    contrastive(a, b.detach(), torch.tensor(5.0)).loss.backward()
    one_sided = F.cross_entropy(5 * a @ b.detach().t(), torch.arange(4)) / 2
    torch.testing.assert_close(a.grad, torch.autograd.grad(one_sided, a)[0])


def test_smoothing_spreads_over_the_others():
    a, b, eps = unit(3, 4), unit(3, 4), 0.3
    target = torch.full((3, 3), eps / 2).fill_diagonal_(1 - eps)
    logits = a @ b.t()
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    torch.testing.assert_close(contrastive(a, b, torch.tensor(1.0), eps).loss, expected)


def test_equal_captions_are_right_answers_for_each_other():
    a = unit(4, 6)
    groups = torch.tensor([1, 1, 2, 3])
    swapped = a[[1, 0, 2, 3]].detach()
    result = contrastive(a, swapped, torch.tensor(50.0), groups_B=groups)
    assert result.a_to_b == 1
    assert contrastive(a, swapped, torch.tensor(50.0)).a_to_b == 0.5
    distinct = contrastive(a, swapped, torch.tensor(5.0), groups_B=torch.arange(4)).loss
    torch.testing.assert_close(distinct, contrastive(a, swapped, torch.tensor(5.0)).loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_pair_alone_has_a_finite_loss(smoothing):
    loss = contrastive(unit(1, 4), unit(1, 4), torch.tensor(3.0), smoothing).loss
    assert loss.isfinite()


def test_half_precision_embeddings_are_compared_in_full_precision():
    a, b = unit(4, 6).detach().bfloat16(), unit(4, 6).detach().bfloat16()
    assert contrastive(a, b, torch.tensor(3.0)).loss.dtype == torch.float32
