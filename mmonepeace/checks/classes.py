"""Classes: their names and colours, the heads that classify them, and where they occur."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from mmonepeace.checks.catalogue import Level
from mmonepeace.checks.heads import find_heads, head_classes, softmax_of_one
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import DatasetInfo, Split, palette_of


def check_classes(cfg: Config, splits: Sequence[Split], report: Report) -> None:
    """Check names, colours and number of the classes in a config."""
    dense = [s for s in splits if s.kind in ("segmentation", "detection")]
    labelled = [s for s in splits if s in dense or s.classes]
    silent = [s.name for s in dense if s.name != "test" and not s.step("LoadAnnotations")]
    report.add("labels-not-loaded", "config", silent)
    for info in (info for split in labelled for info in split.datasets):
        _check_names(info, report)
        _check_palette(info, report)
    lists = {s.name + ": " + ", ".join(i.classes): i.classes for s in labelled for i in s.datasets}
    if len(set(lists.values())) > 1:
        report.add("classes-differ", "config", lists)
    classes = next(iter(lists.values()), ())
    model = cfg.get("model") or {}
    is_dense = "decode_head" in model
    if not check_one_class(model, classes, is_dense, report) and classes:
        check_heads(model, classes, report)


def _check_names(info: DatasetInfo, report: Report) -> None:
    classes = info.built.metainfo.get("classes")
    if isinstance(classes, str):
        error = f"classes is the string {classes!r}, not a tuple of names: ({classes!r},)"
        report.add("classes-missing", "config", error=error)
    elif not classes:
        report.add("classes-missing", "config", error="a data set has no classes")
    else:
        twice = sorted({name for name in info.classes if info.classes.count(name) > 1})
        report.add("class-names-repeat", "config", twice)


def _check_palette(info: DatasetInfo, report: Report) -> None:
    classes, palette = info.classes, palette_of(info.cfg)
    if not palette or isinstance(palette, str) or not classes:
        return
    known = type(info.built).METAINFO.get("classes") or ()
    if len(palette) not in (len(classes), len(known)):
        report.add("palette-length", "config", colours=len(palette), classes=len(classes))
    bad = [f"colour {i}: {colour}" for i, colour in enumerate(palette) if not _is_colour(colour)]
    report.add("palette-values", "config", bad)
    if bad:
        return
    names: dict[tuple[int, ...], list[str]] = {}
    for name, colour in zip(classes, palette, strict=False):
        names.setdefault(tuple(colour), []).append(name)
    same = [f"{colour}: {', '.join(n)}" for colour, n in names.items() if len(n) > 1]
    report.add("palette-repeats", "config", same)


def _is_colour(entry: Any) -> bool:
    """Whether something is (red, green, blue)."""
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 3
        and all(isinstance(v, int) and 0 <= v <= 255 for v in entry)
    )


def check_one_class(
    model: ConfigDict, classes: Sequence[str], is_dense: bool, report: Report
) -> bool:
    """Find a softmax over one class; `is_dense`: if pixels are classified.

    Returns:
        whether there is one.
    """
    lines = [f"classes is {tuple(classes)}"] if is_dense and len(classes) == 1 else []
    for path, head in softmax_of_one(model):
        if head.get("num_classes") != 1:
            lines.append(f"{path}: out_channels is 1, and its loss has no use_sigmoid=True")
        elif len(classes) < 2:  # else it is simply the wrong number
            lines.append(f"{path}.num_classes is 1")
    name = classes[0] if len(classes) == 1 else "object"
    fix = (
        "either with a class for the background, label 0 in the label maps: "
        f"classes=('background', {name!r}) and num_classes=2 in every head; or, with the same and a "
        "sigmoid, add out_channels=1, threshold=0.5, loss_decode=dict(type='CrossEntropyLoss', "
        "use_sigmoid=True) to every head."
        if is_dense
        else "either add a class of images without it and set num_classes=2; or take a sigmoid: "
        "head=dict(type='MultiLabelLinearClsHead')."
    )
    report.add("one-class", "config", lines, fix=fix)
    return bool(lines)


def check_heads(model: ConfigDict, classes: Sequence[str], report: Report) -> None:
    """Check that the heads of a model have as many classes as the data."""
    count = len(classes)
    wrong = [
        (path, value, count - others)
        for path, value, others in head_classes(model)
        if value != count - others
    ]
    report.add(
        "num-classes",
        "config",
        [f"{path} is {value}" for path, value, _ in wrong],
        classes=count,
        names=", ".join(classes[:5]) + ", ..." * (count > 5),
        options=" ".join(f"{path}={expected}" for path, _, expected in wrong),
    )
    for path, head in find_heads(model):
        weights = head.get("class_weight")
        if isinstance(weights, (list, tuple)) and len(weights) not in (count, count + 1):
            numbers: dict[str, Any] = {"weights": len(weights), "classes": count}
            report.add("class-weight-length", "config", path=path, **numbers)


def check_occurrence(splits: Sequence[Split], report: Report) -> None:
    """Find classes that do not occur, by the histograms of a report."""
    bins = {s.split: s.bins for s in report.sections if any(b.amount for b in s.bins)}
    present = {
        split: {b.label for b in histogram if b.images and b.label is not None}
        for split, histogram in bins.items()
    }
    names = {b.label: b.name for some in bins.values() for b in some if b.label is not None}
    train = next((split for split in bins if split.startswith("train")), None)
    learnt = present[train] if train else set(names)
    anywhere = set().union(*present.values())
    sampled = any(split.left_out for split in splits if split.name == train)
    for split, labels in present.items():
        level: Level | None = "warning" if sampled else None
        report.add("class-only-in-val", split, _named(labels - learnt, names), level=level)
        # A class that occurs nowhere is reported once, for train.
        absent = set(names) - anywhere if split == train else learnt - labels
        code = "class-absent-train" if split == train else "class-absent-val"
        report.add(code, split, _named(absent, names), of=len(names))


def _named(labels: set[int], names: Mapping[int, str]) -> list[str]:
    return [f"{label} {names[label]}" for label in sorted(labels)]
