import pytest
import torch
import torch.nn.functional as F
from torch import distributed as dist

from mmonepeace.engine.processes import exit_distributed
from mmonepeace.models.losses import contrastive, denoising_contrastive
from tests.processes import spawn


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


def _two_ranks(rank, folder, a, b, how):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    x, y = (t.chunk(2)[rank].clone().requires_grad_() for t in (a, b))
    loss = contrastive(x, y, torch.tensor(5.0), how=how).loss
    loss.backward()
    torch.save([loss.detach(), x.grad, y.grad], f"{folder}/{rank}.pt")
    exit_distributed(0)


@pytest.mark.parametrize("how", ["official", "full"])
def test_two_processes_are_one_with_the_whole_batch(how, tmp_path):
    a, b = unit(6, 5).detach(), unit(6, 5).detach()
    spawn(_two_ranks, (str(tmp_path), a, b, how), 2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    loss = contrastive(*whole, torch.tensor(5.0), how=how).loss
    loss.backward()
    torch.testing.assert_close(sum(r[0] for r in ranks) / 2, loss.detach())
    for i, x in enumerate(whole, 1):
        # Data parallel training averages over processes.
        torch.testing.assert_close(torch.cat([r[i] for r in ranks]) / 2, x.grad)


def pairs_of_features(batch=3, length=7, dim=5):
    keep = torch.tensor([[0, 2, 3, -1], [0, 1, 4, 6], [0, 1, 2, 3]])
    pad = torch.zeros(batch, length, dtype=torch.bool)
    pad[0, 5:] = True
    return torch.randn(batch, length, dim), torch.randn(batch, length, dim), keep, pad


def test_denoising_is_a_smoothed_cross_entropy_over_all_real_tokens():
    student, teacher, keep, pad = pairs_of_features()
    places = [(b, i) for b in range(3) for i in range(1, 7) if not pad[b, i]]
    masked = [(b, i) for b, i in places if i not in keep[b]]
    assert len(masked) == 2 + 3 + 3
    u = F.normalize(torch.stack([student[p] for p in masked]), dim=1)
    v = F.normalize(torch.stack([teacher[p] for p in places]), dim=1)
    target = torch.full((len(masked), len(places)), 0.1 / (len(places) - 1))
    for row, place in enumerate(masked):
        target[row, places.index(place)] = 0.9
    expected = F.cross_entropy(2.5 * u @ v.t(), target)
    torch.testing.assert_close(denoising_contrastive(student, teacher, keep, pad), expected)


def _denoise_on_a_rank(rank, folder, features, split):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    student, *others = (x.split(split)[rank].clone() for x in features)
    student.requires_grad_()
    loss = denoising_contrastive(student, *others, max_logits=20, gather_tokens=True)
    loss.backward()
    torch.save([loss.detach(), student.grad], f"{folder}/{rank}.pt")
    exit_distributed(0)


@pytest.mark.parametrize("nothing_masked", [False, True])
def test_with_the_tokens_of_all_processes_two_are_one(nothing_masked, tmp_path):
    features = pairs_of_features()
    if nothing_masked:  # in the second process
        features[2][2] = torch.tensor([0, 1, 2, 3])
        features[3][2, 4:] = True
    # 2 + 3 masked tokens of 4 + 6 in the first process, 3 of 6 or 0 of 3 in the second.
    spawn(_denoise_on_a_rank, (str(tmp_path), features, [2, 1]), 2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = features[0].clone().requires_grad_()
    loss = denoising_contrastive(whole, *features[1:])
    loss.backward()
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]) / 2, whole.grad)
    assert (ranks[1][0] == 0) == nothing_masked


def test_alone_gathering_changes_nothing():
    features = pairs_of_features()
    expected = denoising_contrastive(*features)
    assert torch.equal(denoising_contrastive(*features, gather_tokens=True), expected)


def test_parts_give_the_same_value_and_gradient():
    student, teacher, keep, pad = pairs_of_features()
    results = []
    for max_logits in (2**26, 20, 1):
        x = student.clone().requires_grad_()
        loss = denoising_contrastive(x, teacher, keep, pad, max_logits=max_logits)
        loss.backward()
        results.append((loss.detach(), x.grad))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


def test_nothing_masked_gives_zero_with_a_gradient():
    student = torch.randn(2, 3, 4, requires_grad=True)
    loss = denoising_contrastive(student, torch.randn(2, 3, 4), torch.tensor([[0, 1, 2]] * 2))
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@pytest.mark.parametrize("enabled", [False, True])
def test_autocast_does_not_round_the_logits(enabled):
    a, b, scale = unit(5, 8), unit(5, 8), torch.tensor(100.0)
    student, teacher, keep, pad = pairs_of_features()
    expected = contrastive(a, b, scale).loss, denoising_contrastive(student, teacher, keep, pad)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        loss = contrastive(a, b, scale).loss, denoising_contrastive(student, teacher, keep, pad)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
