import numpy as np
import pytest
import torch

from mmonepeace.apis.probe import KINDS, cross_validate, hold_out, probe, to_row
from mmonepeace.apis.probe_classifiers import Options
from mmonepeace.datasets.feature_shards import Features
from mmonepeace.evaluation.classification import pool
from tests.apis.test_probe_classifiers import clusters, pooled, sequences

NAMES = ["bird", "cat", "dog", "emu"]


def names(labels):
    return [NAMES[i] for i in labels]


def test_a_fifth_of_each_class_is_held_out_and_the_last_item_never():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 2 + [3])
    rows, held = hold_out(labels, seed=0)
    assert sorted([*rows.tolist(), *held.tolist()]) == list(range(60))
    assert labels[held].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(hold_out(labels, seed=0)[1], held)
    assert not torch.equal(hold_out(labels, seed=1)[1], held)
    with pytest.raises(ValueError, match=r"nothing|none can be held out.*--grid VALUE"):
        hold_out(torch.arange(4), seed=0)


@pytest.mark.parametrize("kind", ["knn", "linear"])
@pytest.mark.parametrize(("classes", "dim", "number"), [(2, 5, 30), (4, 40, 90)])
def test_what_can_be_separated_is(kind, classes, dim, number):
    sets = [clusters(seed, number, classes, dim) for seed in range(3)]
    features = {
        name: pooled(x) for name, (x, _) in zip(("train", "val", "test"), sets, strict=True)
    }
    labels = {name: names(y) for name, (_, y) in zip(features, sets, strict=True)}
    trials = probe(kind, features, labels)
    (chosen,) = (trial for trial in trials if trial.chosen)
    assert [chosen.evaluations[name].top1 for name in ("val", "test")] == [1, 1]
    assert chosen.held_out == 1
    wanted = [k for k in KINDS[kind].settings if kind != "knn" or k <= number]
    assert [trial.setting for trial in trials] == wanted
    assert chosen.converged is {"knn": None, "linear": True}[kind]


def test_tokens_that_can_be_separated_are():
    sets = {name: sequences(seed, 150) for seed, name in enumerate(("train", "val"))}
    features = {name: x for name, (x, _) in sets.items()}
    labels = {name: names(y) for name, (_, y) in sets.items()}
    trials = probe("attentive", features, labels, [1e-2, 1e-3], Options(2, epochs=60))
    assert [trial.setting for trial in trials] == [1e-3, 1e-2]
    assert max(trial.evaluations["val"].top1 for trial in trials if trial.chosen) > 0.95


def test_noise_is_not_separated_and_settings_are_not_chosen_on_val():
    x, y = torch.randn(400, 6), names(torch.arange(400) % 4)
    features = {"train": pooled(x), "val": pooled(torch.randn(400, 6))}
    labels = {"train": y, "val": y}
    for kind in ("knn", "linear"):
        trials = probe(kind, features, labels)
        (chosen,) = (trial for trial in trials if trial.chosen)
        assert chosen.held_out == max(trial.held_out for trial in trials)
        assert chosen.setting == min(t.setting for t in trials if t.held_out == chosen.held_out)
        assert 0.15 < chosen.evaluations["val"].top1 < 0.35
        assert chosen.evaluations["val"].majority == 0.25


def test_one_setting_needs_no_choice_and_one_item_a_class_is_enough():
    x, y = clusters(0, 4)
    features, labels = {"train": pooled(x), "val": pooled(x)}, {"train": names(y), "val": names(y)}
    (trial,) = probe("knn", features, labels, [1])
    assert (trial.chosen, trial.held_out, trial.evaluations["val"].top1) == (True, None, 1)
    with pytest.raises(ValueError, match="none can be held out"):
        probe("linear", features, labels)
    with pytest.raises(ValueError, match=r"\[0.5\], expected integers"):
        probe("knn", features, labels, [0.5])
    (all_of_them,) = probe("knn", features, labels, [50])
    assert all_of_them.setting == 4


def test_rows_are_in_per_cent_with_a_blank_for_what_is_not_known():
    x, y = clusters(0, 8)
    labels = {"train": names(y), "val": [*names(y[:7]), "cat"]}
    (trial,) = probe("knn", {"train": pooled(x), "val": pooled(x)}, labels, [1])
    assert to_row(trial, {"train": 8, "val": 8}, NAMES) == {
        "value": "1",
        "chosen": "yes",
        "converged": "",
        "classes": 4,
        "train_items": 8,
        "held_out_top1": "",
        "val_items": 8,
        "val_top1": "87.50",
        "val_mean_class": "91.67",
        "val_chance": "37.50",
    }


def test_useless_features_give_the_frequency_of_a_class():
    same = Features([torch.ones(1, 3)], torch.tensor([[0, 0, 1]]).expand(12, 3))
    labels = {"train": ["cat"] * 8 + ["dog"] * 4, "val": ["cat"] * 9 + ["dog"] * 3}
    trials = probe("linear", {"train": same, "val": same}, labels)
    assert {trial.evaluations["val"].top1 for trial in trials} == {0.75}
    assert np.isfinite([trial.held_out for trial in trials]).all()


def test_folds_are_disjoint_and_their_spread_is_that_of_noise():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 8, generator=generator)
    labels = names([i % 3 for i in range(60)])
    trials = cross_validate("linear", pooled(noise), labels, 4)
    evaluations = [trial.evaluations["fold"] for trial in trials]
    assert [e.items for e in evaluations] == [15] * 4
    assert all(total == 5 for e in evaluations for _, total in e.classes.values())
    together = pool(evaluations)
    assert together.items == 60
    assert 0.1 < together.top1 < 0.6
    wrong = sum(count for *_, count in together.confusions)
    assert together.top1 == pytest.approx(1 - wrong / 60)
    assert together.mean == pytest.approx(together.top1)
