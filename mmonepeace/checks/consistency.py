"""Settings of a config that must be there, and that must fit each other; nothing is built."""

from collections.abc import Collection, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from torch.utils.data import IterableDataset

from mmonepeace.checks.best_score import known_scores, unknown_best
from mmonepeace.checks.config import (
    LOADERS,
    dataset_configs,
    metric_configs,
    type_name,
    walk_paths,
)
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.signatures import find_types

PYRAMID_STRIDES = (4, 8, 16, 32, 64)  # of `SimpleFeaturePyramid`
_MULTIMODAL = ("OnePeaceRetriever", "OnePeaceClassifier", "OnePeaceGrounder", "OnePeacePretrainer")
_MULTIMODAL += ("OnePeaceDistiller", "OnePeaceVideoClassifier")
_LOADS = {"LoadImage": "image", "Tokenize": "text", "LoadAudio": "audio", "LoadVideo": "image"}
# Data sets of multimodal tasks, or the `labels` of one, and which losses and metrics fit them.
_CLASS_LOSSES = ("ClassLoss", "HingeLoss")
_LOSSES = {
    "labels='one'": _CLASS_LOSSES,
    "labels='several'": ("MultiLabelLoss",),
    "labels='confidences'": ("MultiLabelLoss", "ClassLoss"),
    "ChoiceDataset": _CLASS_LOSSES,
}
_METRICS = {
    "labels='one'": ("Accuracy",),
    "labels='several'": ("MeanAveragePrecision",),
    "labels='confidences'": ("VQAAccuracy",),
    "ChoiceDataset": ("Accuracy",),
    "BoxDataset": ("GroundingAccuracy",),
}
_KNOWN_METRICS = {name for names in _METRICS.values() for name in names}
# What is used together with each data loader: all of it, or none.
USED_WITH = {
    "train_dataloader": ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"),
    "val_dataloader": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test_dataloader": ("test_dataloader", "test_cfg", "test_evaluator"),
}


def check_consistency(cfg: Config, unused: Collection[str] = (), complete: bool = True) -> None:
    """Check what a run needs, and settings that contradict each other.

    Args:
        cfg: the config.
        unused: top-level keys that a tool does not read.
        complete: whether it must have all that a run needs; the doctor only looks at data sets.

    Raises:
        CheckError: a line for each fault.
    """
    problems = [*_missing(cfg, unused)] if complete else []
    if not problems:
        problems = [*_samplers(cfg, unused), *_crops(cfg), *_stages(cfg), *_strides(cfg)]
        problems += [*_inputs(cfg), *_targets(cfg, unused)]
        if "train_cfg" not in unused:
            problems += _steps_or_epochs(cfg)
        if "val_evaluator" not in unused and not problems:  # a wrong metric has been named
            problems += unknown_best(cfg, known_scores(cfg))
    if problems:
        raise CheckError("\n".join(problems))


def late_schedules(cfg: Config) -> list[str]:
    """Warm-ups that are longer than the run: legitimate for a trial of some steps only."""
    steps = (cfg.get("train_cfg") or {}).get("max_iters")
    return [
        f"param_scheduler.{i}.end is {scheduler.end}, but train_cfg.max_iters is {steps}: the run ends "
        f"before its warm-up. Set param_scheduler.{i}.end to a part of the run, such as {steps // 10}."
        for i, scheduler in enumerate(_schedulers(cfg))
        if isinstance(steps, int)
        and "LinearLR" in f"{scheduler.get('type')}"
        and scheduler.get("start_factor", 1 / 3) < scheduler.get("end_factor", 1.0)
        and steps < scheduler.get("end", 0) < 10**8
    ]


def _missing(cfg: Config, unused: Collection[str]) -> Iterator[str]:
    if not isinstance(cfg.get("model"), dict) or "type" not in cfg.model:
        yield "model is missing or has no type; expected dict(type='mmonepeace.EncoderDecoder', ...)."
    for group in USED_WITH.values():
        names = [name for name in group if name not in (*unused, "param_scheduler")]
        absent = [name for name in names if cfg.get(name) is None]
        if absent and (len(absent) < len(names) or group[0] == "train_dataloader"):
            others = ", ".join(name for name in names if name not in absent)
            verb = "is" if len(absent) == 1 else "are"
            yield f"{' and '.join(absent)} {verb} missing; a run needs it" + (
                f" beside {others}." if others else "."
            )
    for loader in LOADERS:
        node = cfg.get(loader)
        if node is None or loader in unused:
            continue
        if not isinstance(node, dict):
            yield f"{loader} is {node!r}; expected a dict with dataset, sampler and batch_size."
            continue
        needed = {"dataset": "dataset", "sampler": "batch_sampler", "batch_size": "batch_sampler"}
        lacks = [name for name, other in needed.items() if name not in node and other not in node]
        if lacks:
            yield f"{loader} has no {' and no '.join(lacks)}; expected {_example(lacks[0])}."
        elif (
            node.get("sampler") is None
            and node.get("batch_sampler") is None
            and not _is_stream(node.get("dataset"))
        ):
            yield f"{loader}.sampler is None; expected {_example('sampler')}."
    loop = cfg.get("train_cfg")
    if isinstance(loop, dict) and "train_cfg" not in unused:
        if loop.get("max_iters") is None and loop.get("max_epochs") is None:
            yield "train_cfg has neither max_iters nor max_epochs; expected one of them."
        if isinstance(cfg.get("optim_wrapper"), dict) and not cfg.optim_wrapper.get("optimizer"):
            yield "optim_wrapper.optimizer is missing; expected dict(type='AdamW', lr=...)."


def _example(name: str) -> str:
    return {
        "dataset": "a dict such as dict(type='BaseSegDataset', ...)",
        "sampler": "a dict such as dict(type='InfiniteSampler', shuffle=True)",
        "batch_size": "an integer of 1 or more",
    }[name]


def _samplers(cfg: Config, unused: Collection[str]) -> Iterator[str]:
    loop = cfg.get("train_cfg") or {}
    for loader in LOADERS:
        sampler: Any = (cfg.get(loader) or {}).get("sampler")
        if loader in unused or not isinstance(sampler, dict) or not _is_endless(sampler):
            continue
        fix = f"Set {loader}.sampler.type=DefaultSampler."
        if loader != "train_dataloader":
            yield f"{loader}.sampler.type is {sampler['type']!r}, which never ends. {fix}"
        elif "max_epochs" in loop:
            yield (
                f"{loader}.sampler.type is {sampler['type']!r}, which never ends, but train_cfg counts "
                f"epochs. {fix}"
            )


def _is_stream(dataset: Any) -> bool:
    """Whether a data set gives its samples in an order of its own."""
    found = find_types(dataset.get("type")) if isinstance(dataset, dict) else ()
    return any(isinstance(each, type) and issubclass(each, IterableDataset) for each in found)


def _is_endless(sampler: Any) -> bool:
    return any(
        isinstance(each, type) and (issubclass(each, InfiniteSampler) or "Endless" in each.__name__)
        for each in find_types(sampler.get("type"))
    )


def _crops(cfg: Config) -> Iterator[str]:
    size: Any = ((cfg.get("model") or {}).get("data_preprocessor") or {}).get("size")
    for loader, dataset in dataset_configs(cfg):
        for i, step in enumerate(dataset.get("pipeline") or ()):
            crop = step.get("crop_size")
            if loader != "train_dataloader" or not _is_pair(crop) or not _is_pair(size):
                continue
            if any(a > b for a, b in zip(crop, size, strict=True)):
                yield (
                    f"{loader}.dataset.pipeline.{i}.crop_size is {tuple(crop)}, but "
                    f"model.data_preprocessor.size, to which images are padded, is {tuple(size)}. Set "
                    "both to the same size."
                )


def _stages(cfg: Config) -> Iterator[str]:
    stage = (cfg.get("model") or {}).get("stage")
    for loader, dataset in dataset_configs(cfg):
        for i, step in enumerate(dataset.get("pipeline") or ()):
            if stage and type_name(step) == "MaskTokens" and step.get("stage") != stage:
                yield (
                    f"{loader}.dataset.pipeline.{i}.stage is {step.get('stage')!r}, but model.stage is "
                    f"{stage!r}. Set both to one of them: --stage {stage}"
                )


def _inputs(cfg: Config) -> Iterator[str]:
    """What pipelines load is what a model of several modalities takes."""
    model: Any = cfg.get("model") or {}
    kind = type_name(model) if "type" in model else ""
    if kind not in _MULTIMODAL or not isinstance(model.get("backbone"), dict):
        return
    branches = set(model.backbone.get("modalities") or ("image",))
    views = (model.get("head") or {}).get("num_views", 1)
    for loader, dataset in dataset_configs(cfg):
        steps = {
            f"{loader}.dataset.pipeline.{i}": s for i, s in enumerate(dataset.get("pipeline") or ())
        }
        for path, step in steps.items():
            name = _LOADS.get(type_name(step))
            if type_name(step) == "MaskTokens" and kind != "OnePeacePretrainer":
                yield f"{path} is MaskTokens, which {kind} has no use for. Leave it out."
            if name and name not in branches:
                yield (
                    f"{path} loads {name}, but model.backbone.modalities has {', '.join(branches)}. "
                    "Leave it out, or add the modality."
                )
        second = any(step.get("second") for step in steps.values())
        if steps and second is not (views == 2):
            yield (
                f"{loader} loads {'two images' if second else 'one image'} of each sample, but "
                f"model.head.num_views is {views}. Set it to {2 if second else 1}, or "
                f"{'leave out' if second else 'add'} LoadImage(second=True)."
            )


def _targets(cfg: Config, unused: Collection[str]) -> Iterator[str]:
    """What data sets tell of the samples is what the loss and the metrics of a task compare with."""
    model: Any = cfg.get("model") or {}
    kind = type_name(model) if "type" in model else ""
    if kind not in ("OnePeaceClassifier", "OnePeaceGrounder", "OnePeaceVideoClassifier"):
        return
    loss = model.get("loss")
    loss = type_name(loss) if isinstance(loss, dict) and "type" in loss else "ClassLoss"
    for loader, dataset in dataset_configs(cfg):
        target = _target(dataset)
        if loader in unused or target is None:
            continue
        if (kind == "OnePeaceGrounder") is not (target == "BoxDataset"):
            fit = "BoxDataset" if kind == "OnePeaceGrounder" else "LabelledDataset or ChoiceDataset"
            yield f"{loader}.dataset is {target}, but {kind} is trained with {fit}."
            continue
        ranked = dataset.get("num_candidates", 4) if target == "ChoiceDataset" else 1
        candidates = model.get("num_candidates", 1)
        if ranked != candidates:
            yield (
                f"{loader}.dataset has {ranked} candidates of each question, model.num_candidates is "
                f"{candidates}. Set model.num_candidates={ranked}, and model.head.num_classes=1."
            )
        elif loader == "train_dataloader" and loss not in _LOSSES.get(target, (loss,)):
            fit = " or ".join(_LOSSES[target])
            yield f"model.loss is {loss}, but {loader}.dataset has {target}. It needs {fit}."
        metrics = [m for name, m in metric_configs(cfg) if name[:4] == loader[:4] and "type" in m]
        for metric in map(type_name, metrics):
            if metric in _KNOWN_METRICS and metric not in _METRICS[target]:
                yield (
                    f"{loader[:-10]}evaluator is {metric}, but {loader}.dataset has {target}. It needs "
                    f"{' or '.join(_METRICS[target])}."
                )


def _target(dataset: Any) -> str | None:
    """A key of `_METRICS`; None for a data set without targets, or of another kind."""
    name = type_name(dataset) if "type" in dataset else ""
    if name == "LabelledDataset" and dataset.get("label") is not None:
        return f"labels={dataset.get('labels', 'one')!r}"
    if name == "BoxDataset" and dataset.get("box", "region_coord") is None:
        return None
    return name if name in _METRICS else None


def _strides(cfg: Config) -> Iterator[str]:
    """Anchors and regions of a detector are on the maps that its pyramid gives."""
    model: Any = cfg.get("model") or {}
    neck = model.get("neck")
    if not isinstance(neck, dict) or type_name(neck) != "SimpleFeaturePyramid":
        return
    for path, node in walk_paths(model, "model"):
        for name, all_maps in (("strides", True), ("featmap_strides", False)):
            given = node.get(name)
            if not isinstance(given, (list, tuple)) or (all_maps and "ratios" not in node):
                continue
            expected = list(PYRAMID_STRIDES[: None if all_maps else len(given)])
            if list(given) != expected:
                yield (
                    f"{path}.{name} is {list(given)}; the maps of SimpleFeaturePyramid have strides "
                    f"{list(PYRAMID_STRIDES)}. Use {'all' if all_maps else 'the first'} of them."
                )


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _steps_or_epochs(cfg: Config) -> Iterator[str]:
    if (cfg.get("train_cfg") or {}).get("max_iters") is None:
        return
    for i, scheduler in enumerate(_schedulers(cfg)):
        if scheduler.get("by_epoch", True) and not scheduler.get("convert_to_iter_based"):
            yield (
                f"param_scheduler.{i}.by_epoch is True, but train_cfg counts steps: the schedule would "
                f"never move. Set param_scheduler.{i}.by_epoch=False, and begin and end in steps."
            )
    hooks: dict[str, Any] = cfg.get("default_hooks") or {}
    saving = hooks.get("checkpoint")
    if not isinstance(saving, dict) or type_name(saving) != "CheckpointHook":
        return
    if saving.get("by_epoch", True) and saving.get("interval", -1) > 0:
        yield (
            "default_hooks.checkpoint.by_epoch is True, but train_cfg counts steps: nothing would be "
            "saved before the end. Set default_hooks.checkpoint.by_epoch=False."
        )


def _schedulers(cfg: Config) -> list[Any]:
    """Schedules of the optimiser; those of several optimisers are left out."""
    given = cfg.get("param_scheduler") or []
    listed = [given] if isinstance(given, dict) and "type" in given else given
    return [s for s in listed if isinstance(s, dict)] if isinstance(listed, (list, tuple)) else []
