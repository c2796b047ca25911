"""The score by which a run keeps its best checkpoint: is it one that the metrics give?"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from itertools import permutations
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.config import dataset_configs, metric_configs, type_name
from mmonepeace.checks.signatures import find_types

_NAMED = 12  # scores that a message names
# What our metrics give, by their arguments; chance levels are no reason to keep a checkpoint.
_SCORES = {
    "Accuracy": ("top{topk}",),
    "ZeroShotAccuracy": ("top{topk}",),
    "MeanAveragePrecision": ("mAP",),
    "GroundingAccuracy": ("accuracy@{iou_threshold:g}", "mean_iou"),
    "RecallAtK": ("{direction}_R@{topk}", "mean_R@{topk}", "r_mean"),
}


def unknown_best(cfg: Config, scores: Collection[str]) -> Iterator[str]:
    """A line for each `save_best` that is not one of the scores.

    Args:
        cfg: the config.
        scores: names of what the metrics of the validation give.
    """
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    wanted = (hook.get("save_best") if isinstance(hook, dict) else None) or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if scores and name not in ("auto", *scores):
            near = get_close_matches(str(name), scores, 1, 0.3)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            more = ", ..." * (len(scores) > _NAMED)
            yield (
                f"default_hooks.checkpoint.save_best is {name!r}; expected a metric of val_evaluator: "
                f"{', '.join([*scores][:_NAMED])}{more}.{guess}"
            )


def known_scores(cfg: Config) -> list[str]:
    """Names of what the metrics of the validation give; none if one of them is not ours.

    Of other libraries, it is not known before they have measured.
    """
    datasets = [dataset for loader, dataset in dataset_configs(cfg) if loader == "val_dataloader"]
    scores = []
    for evaluator, metric in metric_configs(cfg):
        if evaluator == "val_evaluator":
            names = _scores_of(metric, datasets) if "type" in metric else []
            if not names:
                return []
            scores += names
    return scores


def _scores_of(metric: Mapping[str, Any], datasets: list[Any]) -> list[str]:
    ours = [t for t in find_types(metric["type"]) if t.__module__.startswith("mmonepeace.")]
    kind = type_name(metric)
    if not ours:
        return []
    if kind == "VQAAccuracy":
        reads = {"accuracy": "answers", "confidence": "label"}
        names = [x for x, field in reads.items() if all(d.get(field) for d in datasets)]
    else:
        parameters = inspect.signature(ours[0]).parameters
        given = {name: metric.get(name, p.default) for name, p in parameters.items()}
        branches = sorted({name for d in datasets for name in d.get("columns") or ()})
        given["direction"] = [f"{a}_to_{b}" for a, b in permutations(branches, 2)]
        names = [name for form in _SCORES.get(kind, ()) for name in _fill(form, given)]
    prefix = metric.get("prefix") or getattr(ours[0], "default_prefix", None)
    return [f"{prefix}/{name}" if prefix else name for name in names]


def _fill(form: str, given: Mapping[str, Any]) -> Iterator[str]:
    """A name of a score for each element of the lists among its values."""
    for direction in given["direction"] if "{direction}" in form else [""]:
        for k in given["topk"] if "{topk}" in form else [0]:
            yield form.format(**{**given, "direction": direction, "topk": k})
