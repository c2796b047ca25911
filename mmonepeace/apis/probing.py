"""How much of some labels can be read off frozen features: settings, trials, results.

Shapes: N training items.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.features import Feature, Features, extract_features
from mmonepeace.apis.labelled_files import Split, check_splits
from mmonepeace.apis.probe import Options, fit_attentive, fit_knn, fit_linear
from mmonepeace.apis.zero_shot import Evaluation, evaluate

HELD_OUT = 0.2  # of each class of the training items, to choose a setting on


class Kind(NamedTuple):
    """A probe.

    Attributes:
        fit: see `probes`.
        setting: what its settings are.
        settings: those that are tried.
    """

    fit: Callable
    setting: str
    settings: tuple[float, ...]


KINDS = {
    "knn": Kind(fit_knn, "k", (1, 5, 10, 20, 50, 100, 200)),
    "linear": Kind(fit_linear, "C", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100)),
    "attentive": Kind(fit_attentive, "learning rate", (1e-3, 3e-3, 1e-2, 3e-2)),
}


def hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to fit on, and about a fifth of each class to choose on; a class keeps its last item.

    Args:
        labels: (N,) int64.
        seed: of the choice.

    Raises:
        ValueError: if each class has one item only.
    """
    generator = torch.Generator().manual_seed(seed)
    held = []
    for c in labels.unique():
        rows = (labels == c).nonzero()[:, 0]
        count = min(math.ceil(HELD_OUT * len(rows)), len(rows) - 1)
        held.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held)] = True
    if not mask.any():
        raise ValueError(
            f"each of {len(labels)} classes has one training file, so none can be held out to "
            "choose a setting. Give one setting: --grid VALUE."
        )
    return (~mask).nonzero()[:, 0], mask.nonzero()[:, 0]


class Trial(NamedTuple):
    """What came of one setting.

    Attributes:
        setting: its value.
        chosen: whether it is the best one on what was held out; of equal ones, the smallest.
        held_out: top-1 there, as a share of 1; None for an only setting, which needs no choice.
        converged: see `probes.Fitted`.
        evaluations: of the probe that was fitted to all training items, for each other split.
    """

    setting: float
    chosen: bool
    held_out: float | None
    converged: bool | None
    evaluations: dict[str, Evaluation]


def probe(
    kind: str,
    features: Mapping[str, Features],
    labels: Mapping[str, Sequence[str]],
    settings: Sequence[float] | None = None,
    options: Options = Options(),  # noqa: B008  (a tuple)
) -> list[Trial]:
    """Fit a probe to "train" with each setting, choose one there, and measure it on the others.

    Args:
        kind: a key of `KINDS`.
        features: split -> features; tokens for "attentive", pooled ones for the others.
        labels: split -> names of classes, all of which "train" has.
        settings: None takes those of the kind. Numbers of neighbours above N are left out.
        options: see `Options`.

    Returns:
        a trial for each setting, the smallest first.

    Raises:
        ValueError: for a number of neighbours that is not whole, or if there is a choice, but
            nothing to hold out.
    """
    fit = KINDS[kind].fit
    settings = sorted(set(settings or KINDS[kind].settings))
    if kind == "knn":
        if any(k % 1 for k in settings):
            raise ValueError(f"numbers of neighbours are {settings}, expected whole ones.")
        settings = [k for k in settings if k <= len(features["train"])] or [len(features["train"])]
    classes = sorted(set(labels["train"]))
    numbers = {name: i for i, name in enumerate(classes)}
    y_N = torch.tensor([numbers[label] for label in labels["train"]])
    held_out: list[float | None] = [None]
    bar = partial(tqdm, desc=kind, total=len(settings), leave=False, disable=None)
    if len(settings) > 1:
        rows, held = hold_out(y_N, options.seed)
        train, queries = features["train"].take(rows), [features["train"].take(held)]
        held_out = [
            float((fitted.probabilities[0].argmax(1) == y_N[held].numpy()).mean())
            for fitted in bar(fit(train, y_N[rows], queries, settings, options))
        ]
    best = int(np.argmax(held_out)) if len(settings) > 1 else 0
    others = [name for name in features if name != "train"]
    queries = [features[name] for name in others]
    trials = []
    for i, fitted in enumerate(bar(fit(features["train"], y_N, queries, settings, options))):
        evaluations = {
            name: evaluate(found, labels[name], classes)
            for name, found in zip(others, fitted.probabilities, strict=True)
        }
        trials.append(Trial(settings[i], i == best, held_out[i], fitted.converged, evaluations))
    return trials


class Probed(NamedTuple):
    """What `probe_files` did.

    Attributes:
        trials: see `probe`.
        feature: what was probed.
        classes: those of the training files.
        items: split -> number of files that could be read.
        errors: path -> reason for the others.
    """

    trials: list[Trial]
    feature: Feature
    classes: list[str]
    items: dict[str, int]
    errors: dict[str, str]


def probe_files(
    embedder: Embedder,
    modality: str,
    kind: str,
    splits: Sequence[Split],
    cache: str | Path,
    feature: Feature | None = None,
    settings: Sequence[float] | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> Probed:
    """Extract features of labelled files, as far as they are not known, and probe them.

    Args:
        embedder: the model; it may lack projections.
        modality: image or audio.
        kind: a key of `KINDS`.
        splits: "train" first, then those to measure on.
        cache: see `extract_features`.
        feature: None takes tokens for "attentive", and for the others the embedding, or CLS where
            there are no projections.
        settings: see `probe`.
        epochs: see `Options`.
        seed: see `Options`.

    Raises:
        ValueError: see `check_splits`, `extract_features` and `probe`.
    """
    pooled = "embedding" if modality in embedder.model.projections else "cls"
    feature = feature or ("tokens" if kind == "attentive" else pooled)
    paths = [path for split in splits for path in split.paths]
    found, errors = extract_features(embedder, modality, paths, feature, cache)
    known = [split.without(errors) for split in splits]
    classes = check_splits(known[0], known[1:], errors)
    parts = torch.arange(len(found)).split([len(split.paths) for split in known])
    features = {split.name: found.take(rows) for split, rows in zip(known, parts, strict=True)}
    labels = {split.name: split.labels for split in known}
    heads = embedder.model.backbone.arch.num_heads
    options = Options(heads, epochs, seed, embedder.model.logit_scale.device)
    trials = probe(kind, features, labels, settings, options)
    items = {split.name: len(split.paths) for split in known}
    return Probed(trials, feature, classes, items, errors)


def to_row(
    trial: Trial, items: Mapping[str, int], classes: Sequence[str]
) -> dict[str, str | float]:
    """A trial as a row of a table: name of a column -> value; shares in per cent.

    Args:
        trial: from `probe`.
        items: split -> number of its files.
        classes: those of "train".
    """

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.2f}"

    row: dict[str, str | float] = {
        "value": f"{trial.setting:g}",
        "chosen": "yes" if trial.chosen else "",
        "converged": {None: "", True: "yes", False: "no"}[trial.converged],
        "classes": len(classes),
        "train_items": items["train"],
        "held_out_top1": percent(trial.held_out),
    }
    for name, found in trial.evaluations.items():
        row[f"{name}_items"] = items[name]
        row[f"{name}_top1"] = percent(found.top1)
        row[f"{name}_mean_class"] = percent(found.mean)
        row[f"{name}_chance"] = percent(found.majority)
    return row
