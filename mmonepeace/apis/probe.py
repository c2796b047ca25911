"""Probes of frozen features: a setting is chosen on held-out items, then accuracy is measured.

Shapes: N training items.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.feature_cache import extract_features
from mmonepeace.apis.probe_classifiers import Options, fit_attentive, fit_knn, fit_linear
from mmonepeace.apis.sources import LabelledFiles, check_splits
from mmonepeace.choices import Feature, Probe
from mmonepeace.console import progress_bar
from mmonepeace.datasets.feature_shards import Features
from mmonepeace.evaluation.classification import Evaluation, evaluate

HELD_OUT = 0.2  # fraction of each class of the training items, to choose a setting on


class Kind(NamedTuple):
    """A kind of probe: its classifier, the name of its hyperparameter, and values to try."""

    fit: Callable[..., Any]
    setting: str
    settings: tuple[float, ...]


KINDS: dict[Probe, Kind] = {
    "knn": Kind(fit_knn, "k", (1, 5, 10, 20, 50, 100, 200)),
    "linear": Kind(fit_linear, "C", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100)),
    "attentive": Kind(fit_attentive, "learning rate", (1e-3, 3e-3, 1e-2, 3e-2)),
}


class Trial(NamedTuple):
    """Results of one setting."""

    setting: float
    chosen: bool  # the best one on the held-out items; of equal ones, the smallest
    held_out: float | None  # top-1 accuracy there, a fraction; None for an only setting
    converged: bool | None  # see `Fitted`
    evaluations: dict[str, Evaluation]  # split -> that of the probe fitted to all training items


class Probed(NamedTuple):
    """What `probe_files` did."""

    trials: list[Trial]
    feature: Feature
    classes: list[str]
    items: dict[str, int]  # split -> number of files that could be read
    errors: dict[str, str]  # path -> reason for the others


def probe_files(
    embedder: Embedder,
    modality: str,
    kind: Probe,
    splits: Sequence[LabelledFiles],
    cache: str | Path,
    feature: Feature | None = None,
    settings: Sequence[float] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    folds: int | None = None,
) -> Probed:
    """Probe the features of labelled files: of "train", then of the splits to evaluate on.

    With folds there is one split, which `cross_validate` divides; trials are then those of the folds.
    None as the feature takes tokens for "attentive", and for other kinds the embedding, or CLS if
    the model has no projections. See `extract_features` for the cache, `probe` for kinds and
    settings, `Options` for epochs and the seed, and all of these and `check_splits` for errors.
    """
    pooled: Feature = "embedding" if modality in embedder.model.projections else "cls"
    feature = feature or ("tokens" if kind == "attentive" else pooled)
    paths = [path for split in splits for path in split.paths]
    extracted, errors = extract_features(embedder, modality, paths, feature, cache)
    readable = [split.without(errors) for split in splits]
    classes = check_splits(readable[0], readable[1:], errors)
    counts = {split.name: len(split.paths) for split in readable}
    items = torch.arange(len(extracted)).split(list(counts.values()))
    features = {name: extracted.take(i) for name, i in zip(counts, items, strict=True)}
    labels = {split.name: split.labels for split in readable}
    heads = embedder.model.backbone.arch.num_heads
    options = Options(heads, epochs, seed, embedder.model.logit_scale.device)
    if folds:
        trials = cross_validate(kind, features["train"], labels["train"], folds, settings, options)
    else:
        trials = probe(kind, features, labels, settings, options)
    return Probed(trials, feature, classes, counts, errors)


def cross_validate(
    kind: Probe,
    features: Features,
    labels: Sequence[str],
    folds: int,
    settings: Sequence[float] | None = None,
    options: Options = Options(),  # noqa: B008  (a tuple)
) -> list[Trial]:
    """Probe on each of some folds what is fitted to the others, which choose the setting, see `probe`.

    Classes are spread evenly over the folds. Returns the chosen trial of each fold, which is its
    split "fold".

    Raises:
        ValueError: if a class has fewer files than there are folds, or as `probe` does.
    """
    from sklearn.model_selection import StratifiedKFold

    rarest, count = min(Counter(labels).items(), key=itemgetter(1))
    if count < folds:
        raise ValueError(
            f"{folds} folds, but class {rarest!r} has {count} files: each fold needs one of each class."
        )
    trials = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=options.seed)
    for train, fold in splitter.split(np.zeros(len(labels)), labels):
        parts = {"train": train, "fold": fold}
        found = probe(
            kind,
            {name: features.take(torch.from_numpy(part)) for name, part in parts.items()},
            {name: [labels[i] for i in part] for name, part in parts.items()},
            settings,
            options,
        )
        trials += [trial for trial in found if trial.chosen]
    return trials


def probe(
    kind: Probe,
    features: Mapping[str, Features],
    labels: Mapping[str, Sequence[str]],
    settings: Sequence[float] | None = None,
    options: Options = Options(),  # noqa: B008  (a tuple)
) -> list[Trial]:
    """Fit a probe to "train" with each setting, choose one there, and evaluate on the others.

    Features and labels are those of splits, all of whose classes occur in "train"; "attentive"
    takes tokens, other kinds pooled features. By default the settings are those in `KINDS`; values
    of k above N are left out. Returns a trial for each setting, the smallest first.

    Raises:
        ValueError: for a value of k that is not an integer, or if there are several settings, but
            no items to hold out.
    """
    fit = KINDS[kind].fit
    settings = sorted(set(settings or KINDS[kind].settings))
    train, others = features["train"], [name for name in features if name != "train"]
    if kind == "knn":
        if any(k % 1 for k in settings):
            raise ValueError(f"numbers of neighbours are {settings}, expected integers.")
        settings = [k for k in settings if k <= len(train)] or [len(train)]
    classes = sorted(set(labels["train"]))
    class_index = {name: i for i, name in enumerate(classes)}
    y_N = torch.tensor([class_index[label] for label in labels["train"]])
    bar = partial(progress_bar, desc=kind, total=len(settings), leave=False)
    held_out: list[float | None] = [None]
    best = 0
    if len(settings) > 1:
        kept, held = hold_out(y_N, options.seed)
        trained = fit(train.take(kept), y_N[kept], [train.take(held)], settings, options)
        predicted = [fitted.probabilities[0].argmax(1) for fitted in bar(trained)]
        accuracies = [float((guess == y_N[held].numpy()).mean()) for guess in predicted]
        held_out, best = [*accuracies], int(np.argmax(accuracies))
    trained = fit(train, y_N, [features[name] for name in others], settings, options)
    trials = []
    for i, fitted in enumerate(bar(trained)):
        evaluations = {
            name: evaluate(probabilities, labels[name], classes)
            for name, probabilities in zip(others, fitted.probabilities, strict=True)
        }
        trials.append(Trial(settings[i], i == best, held_out[i], fitted.converged, evaluations))
    return trials


def hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of items to fit on, and of about a fifth of each class to choose a setting on.

    Each class has at least one item to fit on; if it is the only one of each, a ValueError says so.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        items = (labels == c).nonzero()[:, 0]
        count = min(math.ceil(HELD_OUT * len(items)), len(items) - 1)
        mask[items[torch.randperm(len(items), generator=generator)[:count]]] = True
    if not mask.any():
        raise ValueError(
            f"each of {len(labels)} classes has one training file, so none can be held out to "
            "choose a setting. Give one setting: --grid VALUE."
        )
    return (~mask).nonzero()[:, 0], mask.nonzero()[:, 0]


def to_row(
    trial: Trial, items: Mapping[str, int], classes: Sequence[str]
) -> dict[str, str | float]:
    """A trial as a row of a table: column -> value; accuracies in per cent.

    `items` has the number of files of each split, `classes` are those of "train".
    """

    def percent(fraction: float | None) -> str:
        return "" if fraction is None else f"{100 * fraction:.2f}"

    row: dict[str, str | float] = {
        "value": f"{trial.setting:g}",
        "chosen": "yes" if trial.chosen else "",
        "converged": {None: "", True: "yes", False: "no"}[trial.converged],
        "classes": len(classes),
        "train_items": items["train"],
        "held_out_top1": percent(trial.held_out),
    }
    for name, evaluation in trial.evaluations.items():
        row[f"{name}_items"] = evaluation.items if name == "fold" else items[name]
        row[f"{name}_top1"] = percent(evaluation.top1)
        row[f"{name}_mean_class"] = percent(evaluation.mean)
        row[f"{name}_chance"] = percent(evaluation.majority)
    return row
