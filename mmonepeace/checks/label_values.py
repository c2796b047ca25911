"""Label values: are they class indices, or outside the classes of the data set?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmonepeace.checks.label_maps import SHOWN, LabelledImage, check_formats, is_cut, span
from mmonepeace.checks.segmentation import IGNORED
from mmonepeace.checks.splits import Split

_MANY = 0.1  # fraction of files from which on a value outside the classes is not a slip


def check_labels(
    split: Split,
    pairs: Sequence[LabelledImage],
    values: Mapping[str, set[int]],
    ignored: int | None,
    max_broken: float,
) -> None:
    """Check that the label maps of a split can be read and that their values are class indices.

    `values` are those in the files of each split, `ignored` the value that the loss ignores,
    `max_broken` the fraction of the samples that may be unreadable.
    """
    lines = [f"{pair.labels.path}: {pair.labels.error}" for pair in pairs if pair.labels.error]
    few = len(lines) <= max(1, max_broken * len(pairs)) and max_broken  # as BrokenSamples counts
    split.add("label-unreadable" if few else "labels-unreadable", lines, of=len(pairs))
    readable = [pair for pair in pairs if not pair.labels.error]
    check_formats(split, [pair.labels for pair in readable])
    counted = [pair for pair in readable if pair.labels.values]
    if counted and split.classes and not _are_misread(split, counted, values, ignored):
        _check_values(split, counted, ignored)
        _check_contents(split, counted, ignored)


def _are_misread(
    split: Split,
    pairs: Sequence[LabelledImage],
    by_split: Mapping[str, set[int]],
    ignored: int | None,
) -> bool:
    """Whether the values of a split as a whole mean something other than the config says."""
    everywhere = set().union(*by_split.values())
    elsewhere = set().union(*(some for name, some in by_split.items() if name != split.name))
    pixels = sum((Counter(pair.labels.values) for pair in pairs), Counter[int]())
    values, classes = set(pixels) - {IGNORED}, len(split.classes)
    datasets = [info.built for info in split.datasets]
    if any(dataset.label_map for dataset in datasets):
        return False
    reduced = all(dataset.reduce_zero_label for dataset in datasets)
    zero = pixels[0] / pixels.total()

    def add(code: str, **details: Any) -> None:
        split.add(code, classes=classes, last=classes - 1, **details)

    if not reduced and values and (min(values), max(values)) == (1, classes):
        add("reduce-zero-label-forgotten")
        return True
    black_and_white = set(pixels) == {0, IGNORED} and (
        IGNORED not in elsewhere or elsewhere == {0, IGNORED}
    )
    if black_and_white and classes > 1 and ignored == IGNORED:
        add("label-255-is-a-class", share=1 - zero)
        return True
    if reduced and zero and max(everywhere - {IGNORED}) < classes:
        complete = everywhere >= set(range(classes)) and not split.left_out
        level = "error" if complete else "warning"
        add("reduce-zero-label-wrong", share=zero, values=span(everywhere), level=level)
        return complete
    if reduced and zero:
        add("label-zero-ignored", share=zero, level="warning" if zero > 0.5 else None)
    return False


def _check_values(split: Split, pairs: Sequence[LabelledImage], ignored: int | None) -> None:
    if ignored != IGNORED:
        lines = [pair.labels.path for pair in pairs if IGNORED in pair.values]
        split.add("label-255-not-ignored", lines, of=len(pairs), ignored=ignored)
    # What a codec made and what does not fit into 8 bits have their own findings.
    exact = [pair for pair in pairs if not pair.labels.lossy and not is_cut(pair.labels)]
    values = {pair.labels.path: set(pair.values) - {IGNORED} for pair in exact}
    reduced = split.datasets[0].built.reduce_zero_label
    check_values(split, values, len(split.classes), ignored, reduced)


def check_values(
    split: Split,
    values: Mapping[str, Iterable[int]],
    classes: int,
    ignored: int | None,
    reduced: bool = False,
) -> None:
    """Check the values of label maps, by path and as the loss sees them, against the classes.

    `classes` is their number, `reduced` whether `reduce_zero_label` was applied.
    """
    known = {ignored, *range(classes)}
    outside = {path: sorted(set(some) - known) for path, some in values.items()}
    outside = {path: some for path, some in outside.items() if some}
    bad, hint = sorted(set().union(*outside.values())), ""
    if len(bad) > max(SHOWN, classes):
        hint = (
            "so many values look like interpolation: were the label maps resized (use nearest), or "
            "once saved as JPEG? "
        )
    elif len(outside) > max(1, _MANY * len(values)) and not reduced:
        hint = f"there are {bad[-1] + 1} classes and all need a name; else "
    split.add(
        "label-outside-classes",
        [f"{path}: {_few(some)}" for path, some in outside.items()],
        of=len(values),
        last=classes - 1,
        reduced=" (after reduce_zero_label)" * reduced,
        values=_few(bad),
        ignored=ignored,
        hint=hint,
    )


def _check_contents(split: Split, pairs: Sequence[LabelledImage], ignored: int | None) -> None:
    """Find label maps that say nothing, or say the same of different images."""
    shown = {pair.labels.path: set(pair.values) - {ignored} for pair in pairs}
    empty = [path for path, values in shown.items() if not values]
    level = "error" if len(empty) == len(pairs) else None
    split.add("label-all-ignored", empty, level=level, of=len(pairs))
    several = len(pairs[0].sample.dataset.classes) > 1
    single = [path for path, values in shown.items() if several and len(values) == 1]
    classes = set().union(*(shown[path] for path in single))
    if len(single) == len(pairs) > 1:
        level = "error" if len(classes) == 1 else "warning"
        split.add("labels-constant", single, level=level, classes=_few(sorted(classes)))
    else:
        split.add("label-constant", single, of=len(pairs))
    alike: dict[bytes, dict[bytes, str]] = {}
    for pair in pairs:
        if len(pair.values) > 1 and pair.image:
            alike.setdefault(pair.labels.digest, {})[pair.image.digest] = pair.labels.path
    copies = [" = ".join(paths.values()) for paths in alike.values() if len(paths) > 1]
    split.add("label-repeats", copies)


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + ", ..." * (len(values) > SHOWN)
