"""Classes: their names and colours, the heads that tell them apart, and where they occur."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from mmonepeace.checks.heads import find_heads, head_classes
from mmonepeace.checks.report import Bin, Report
from mmonepeace.checks.splits import Part, Split


def check_config(cfg: Config, splits: Sequence[Split], report: Report) -> None:
    """Check names, colours and numbers of the classes in a config."""
    dense = [s for s in splits if s.kind in ("segmentation", "detection")]
    labelled = [s for s in splits if s in dense or s.classes]
    parts = [part for split in labelled for part in split.parts]
    silent = [s.name for s in dense if s.name != "test" and not s.step("LoadAnnotations")]
    if silent:
        what = "pipelines have no LoadAnnotations, the transform that loads labels"
        report.add("labels-not-loaded", "config", what, silent)
    for part in parts:
        _check_names(part, report)
        _check_palette(part, report)
    lines = [f"{s.name}: {', '.join(p.classes)}" for s in labelled for p in s.parts]
    if len({part.classes for part in parts}) > 1:
        report.add(
            "classes-differ",
            "config",
            "the data sets of the config have different classes, or in another order",
            dict.fromkeys(lines),
        )
    if parts and parts[0].classes:
        _check_heads(cfg.get("model") or {}, len(parts[0].classes), report)


def _check_names(part: Part, report: Report) -> None:
    classes = part.dataset.metainfo.get("classes")
    twice = sorted({name for name in part.classes if part.classes.count(name) > 1})
    if isinstance(classes, str):
        _add_once(report, "classes-missing", f"classes is the text {classes!r}, no tuple of names")
    elif not classes:
        _add_once(report, "classes-missing", "the data set names no classes")
    elif twice:
        _add_once(report, "class-names-repeat", "names stand in classes twice", twice)


def _check_palette(part: Part, report: Report) -> None:
    classes, palette = part.classes, part.palette
    if not palette or isinstance(palette, str) or not classes:
        return
    whole = type(part.dataset).METAINFO.get("classes") or ()
    if len(palette) not in (len(classes), len(whole)):
        _add_once(
            report,
            "palette-length",
            f"the palette has {len(palette)} colours, there are {len(classes)} classes",
        )
    bad = [f"colour {i}: {colour}" for i, colour in enumerate(palette) if not _is_colour(colour)]
    if bad:
        _add_once(report, "palette-values", "the palette has entries that are no colours", bad)
        return
    names: dict[tuple[int, ...], list[str]] = {}
    for name, colour in zip(classes, palette, strict=False):
        names.setdefault(tuple(colour), []).append(name)
    same = [f"{colour}: {', '.join(n)}" for colour, n in names.items() if len(n) > 1]
    if same:
        what = "classes have the same colour: pictures of predictions cannot tell them apart"
        _add_once(report, "palette-repeats", what, same)


def _add_once(report: Report, code: str, what: str, where: Sequence[str] = ()) -> None:
    """For what the data sets of a config mostly have in common."""
    if not report.has(code):
        report.add(code, "config", what, where)


def _is_colour(entry: Any) -> bool:
    """Whether something is (red, green, blue)."""
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 3
        and all(isinstance(v, int) and 0 <= v <= 255 for v in entry)
    )


# ----------------------------------------------------------------------------------------- heads


def _check_heads(model: ConfigDict, number: int, report: Report) -> None:
    wrong = [head for head in head_classes(model) if head.found != number - head.others]
    if wrong:
        report.add(
            "num-classes",
            "config",
            f"heads tell another number of classes apart than the {number} of the data",
            [f"{head.path} = {head.found}" for head in wrong],
            fix="--cfg-options " + " ".join(f"{h.path}={number - h.others}" for h in wrong),
        )
    for path, head in find_heads(model):
        weights = head.get("class_weight")
        if isinstance(weights, (list, tuple)) and len(weights) not in (number, number + 1):
            report.add(
                "class-weight-length",
                "config",
                f"{path}.class_weight has {len(weights)} numbers, there are {number} classes",
            )


# ------------------------------------------------------------------------------------ occurrence


def check_occurrence(
    bins: Mapping[str, Sequence[Bin]], sampled: Mapping[str, bool], report: Report
) -> None:
    """Find classes that do not occur.

    Args:
        bins: split -> its histogram.
        sampled: split -> whether only some of it was looked at.
        report: gets the findings.
    """
    present = {
        split: {b.label for b in found if b.images and b.label is not None}
        for split, found in bins.items()
    }
    names = {b.label: b.name for found in bins.values() for b in found if b.label is not None}
    train = next((split for split in bins if split.startswith("train")), None)
    learnt = present.get(train, set(names))
    anywhere = set().union(*present.values())
    for split, found in present.items():
        only_here = found - learnt
        if only_here:
            report.add(
                "class-only-in-val",
                split,
                "classes occur here and never in train: they cannot be learnt",
                _named(only_here, names),
                level="warning" if sampled[train] else None,
            )
        # A class that occurs nowhere is reported once, for train.
        absent = set(names) - anywhere if split == train else learnt - found
        if absent:
            code, loss = (
                ("class-absent-train", "cannot be learnt")
                if split == train
                else ("class-absent-val", "get no score")
            )
            what = f"classes never occur: they {loss}"
            report.add(code, split, what, _named(absent, names), of=len(names))


def _named(labels: set[int], names: Mapping[int, str]) -> list[str]:
    return [f"{label} {names[label]}" for label in sorted(labels)]
