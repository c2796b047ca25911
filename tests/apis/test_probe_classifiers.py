import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmonepeace.apis.probe_classifiers import (
    MAX_GRADIENT,
    AttentiveProbe,
    Options,
    fit_attentive,
    fit_knn,
    fit_linear,
)  # fmt: skip
from mmonepeace.datasets.feature_shards import Features


def pooled(x_ND):
    """Features of vectors, in two shards."""
    half = len(x_ND) // 2
    where = [(int(i >= half), i - half * (i >= half), 1) for i in range(len(x_ND))]
    return Features([x_ND[:half].float(), x_ND[half:].float()], torch.tensor(where))


def clusters(seed, number, classes=4, dim=10, spread=0.3):
    """Vectors around a centre for each class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    return centres[labels] + spread * torch.randn(number, dim, generator=generator), labels


def sequences(seed, number, classes=3, dim=24):
    """Tokens that are noise but for one at a random place, which reveals the class, in any length."""
    generator = torch.Generator().manual_seed(seed)
    codes = 8 * torch.eye(dim)[:classes]
    labels = torch.arange(number) % classes
    rows, where = [], []
    for label in labels:
        length = int(torch.randint(3, 12, (), generator=generator))
        x_TD = torch.randn(length, dim, generator=generator)
        x_TD[int(torch.randint(length, (), generator=generator))] += codes[label]
        where.append((0, sum(map(len, rows)), length))
        rows.append(F.layer_norm(x_TD, (dim,)).half())
    return Features([torch.cat(rows)], torch.tensor(where)), labels


def right(fitted, labels):
    return (fitted.probabilities[0].argmax(1) == labels.numpy()).mean()


# ------------------------------------------------------------------------------------------ k-NN


def test_knn_is_a_weighted_vote_of_brute_force():
    x, y = clusters(0, 60, spread=1.5)
    q, _ = clusters(1, 25, spread=1.5)
    for fitted in fit_knn(pooled(x), y, [pooled(q)], [1, 3, 10, 60, 100], Options()):
        cosines = F.normalize(q.double()) @ F.normalize(x.double()).T
        for row, found in zip(cosines, fitted.probabilities[0], strict=True):
            nearest = row.argsort(descending=True)[: int(fitted.setting)]
            votes = np.zeros(4)
            for i in nearest.tolist():
                votes[y[i]] += np.exp(row[i].item() / 0.07)
            np.testing.assert_allclose(found, votes / votes.sum(), atol=1e-5)


def test_knn_does_not_depend_on_order_or_length_of_vectors():
    x, y = clusters(0, 50, spread=1.5)
    q, _ = clusters(1, 20, spread=1.5)
    (expected,) = fit_knn(pooled(x), y, [pooled(q)], [7], Options())
    order = torch.randperm(50)
    longer = x[order] * torch.rand(50, 1).add(0.5)
    (found,) = fit_knn(pooled(longer), y[order], [pooled(3 * q)], [7], Options())
    np.testing.assert_allclose(found.probabilities[0], expected.probabilities[0], atol=1e-5)


def test_knn_of_many_queries_is_that_of_a_few(monkeypatch):
    x, y = clusters(0, 30)
    q, _ = clusters(1, 20)
    (whole,) = fit_knn(pooled(x), y, [pooled(q)], [5], Options())
    monkeypatch.setattr("mmonepeace.apis.probe_classifiers.CHUNK", 3)
    (parts,) = fit_knn(pooled(x), y, [pooled(q)], [5], Options())
    np.testing.assert_allclose(parts.probabilities[0], whole.probabilities[0], atol=1e-6)


# ---------------------------------------------------------------------------------------- linear


def minimum(x_ND, y_N, c):
    """The minimum of the documented loss, by Newton's method on all parameters."""
    x_ND = (x_ND - x_ND.mean(0)) / x_ND.std(0, correction=0)
    x_ND = torch.cat([x_ND, torch.ones(len(x_ND), 1)], 1).double()
    classes, decay = int(y_N.max()) + 1, torch.ones(x_ND.shape[1], 1).double() / (c * len(y_N))
    decay[-1] = 1e-12  # the bias, which has one degree of freedom too many

    def loss(w):
        penalty = decay / 2 * w.view(-1, classes).square()
        return F.cross_entropy(x_ND @ w.view(-1, classes), y_N) + penalty.sum()

    w = torch.zeros(x_ND.shape[1] * classes).double()
    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(loss, w)
        w = w - torch.linalg.lstsq(torch.autograd.functional.hessian(loss, w), gradient).solution
    return (x_ND @ w.view(-1, classes)).softmax(1).numpy()


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_logistic_regression_finds_the_minimum(c):
    x, y = clusters(0, 40, classes=3, dim=4, spread=1.0)
    x = x * torch.tensor([1, 1e-3, 1e3, 1]) + 5
    (fitted,) = fit_linear(pooled(x), y, [pooled(x)], [c], Options())
    assert fitted.converged
    np.testing.assert_allclose(fitted.probabilities[0], minimum(x, y, c), atol=1e-3)


def test_where_a_fit_starts_does_not_matter():
    x, y = clusters(0, 40, spread=1.0)
    *_, after_others = fit_linear(pooled(x), y, [pooled(x)], [1e-4, 1e-2, 1, 100], Options())
    (alone,) = fit_linear(pooled(x), y, [pooled(x)], [100], Options())
    np.testing.assert_allclose(after_others.probabilities[0], alone.probabilities[0], atol=2e-3)


def test_what_has_not_converged_says_so(monkeypatch):
    monkeypatch.setattr("mmonepeace.apis.probe_classifiers.LBFGS_STEPS", 2)
    x, y = clusters(0, 40, spread=1.0)
    (fitted,) = fit_linear(pooled(x), y, [pooled(x)], [100], Options())
    assert fitted.converged is False
    assert MAX_GRADIENT < 1e-3


def test_more_widths_than_items_and_constant_ones_are_fitted():
    x, y = clusters(0, 12, dim=40)
    x[:, 3], x[:, 5] = 7.0, 1 + 1e-7 * torch.randn(12)
    (fitted,) = fit_linear(pooled(x), y, [pooled(x)], [1.0], Options())
    assert fitted.converged
    assert right(fitted, y) == 1
    (same,) = fit_linear(pooled(torch.ones(12, 4)), y, [pooled(x[:, :4])], [1.0], Options())
    np.testing.assert_allclose(same.probabilities[0], 0.25, atol=1e-3)


# ------------------------------------------------------------------------------------- attentive


def test_attention_finds_the_token_that_reveals_the_class():
    train, y = sequences(0, 300)
    test, truth = sequences(1, 90)
    (fitted,) = fit_attentive(train, y, [test], [1e-2], Options(num_heads=2))
    assert right(fitted, truth) > 0.97
    means = [torch.stack([s.sequences(torch.tensor([i]))[0][0].mean(0) for i in range(len(s))])
             for s in (train, test)]  # fmt: skip
    (linear,) = fit_linear(pooled(means[0]), y, [pooled(means[1])], [1.0], Options())
    assert right(linear, truth) < right(fitted, truth)


def test_padding_changes_nothing():
    probe = AttentiveProbe(8, 2, 3).eval()
    torch.nn.init.normal_(probe.queries)
    x = torch.randn(5, 7, 8)
    pad = torch.zeros(5, 7, dtype=torch.bool)
    alone = probe(x, pad)
    longer = torch.cat([x, 100 * torch.randn(5, 4, 8)], 1)
    pad = torch.cat([pad, torch.ones(5, 4, dtype=torch.bool)], 1)
    torch.testing.assert_close(probe(longer, pad), alone)


def test_the_order_of_tokens_does_not_matter():
    probe = AttentiveProbe(8, 2, 3).eval()
    torch.nn.init.normal_(probe.queries)
    x, pad = torch.randn(5, 7, 8), torch.zeros(5, 7, dtype=torch.bool)
    torch.testing.assert_close(probe(x[:, torch.randperm(7)], pad), probe(x, pad))


def test_a_head_has_the_values_of_its_own_attention():
    probe = AttentiveProbe(6, 3, 4).eval()
    torch.nn.init.normal_(probe.queries)
    x = torch.randn(1, 5, 6)
    weights = (x[0] @ probe.queries.T).softmax(0)
    values = probe.values(x[0]).view(5, 3, 2)
    pooled = torch.einsum("th,thd->hd", weights, values).flatten()
    expected = probe.classifier(probe.norm(pooled[None]))
    torch.testing.assert_close(probe(x, torch.zeros(1, 5, dtype=torch.bool)), expected)


def test_a_seed_gives_the_same_probe_and_leaves_the_generator_alone():
    train, y = sequences(0, 40)
    state = torch.random.get_rng_state()
    runs = [
        next(fit_attentive(train, y, [train], [1e-2], Options(2, epochs=2, seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, same, other = (run.probabilities[0] for run in runs)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize("number", [2, 65])
def test_any_number_of_items_can_be_trained(number):
    train, y = sequences(0, number, classes=2)
    (fitted,) = fit_attentive(train, y, [train], [1e-2], Options(1, epochs=1))
    assert np.isfinite(fitted.probabilities[0]).all()
