"""Label maps: do they belong to their images, and their values to the classes?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmonepeace.checks.decoding import ImageInfo, Job, LabelMap, read_image, read_label_map
from mmonepeace.checks.report import Bin, Section
from mmonepeace.checks.segmentation import IGNORED
from mmonepeace.checks.splits import Sample, Split

_SHOWN = 8  # values that are shown one by one
_MANY = 0.1  # fraction of files from which on a value outside the classes is not a slip


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A label map that was read, with its image, unless that was not read."""

    sample: Sample
    labels: LabelMap
    image: ImageInfo | None

    @cached_property
    def values(self) -> dict[int, int]:
        """Label value -> pixels, as the loss sees them."""
        dataset = self.sample.dataset.built
        counts: Counter[int] = Counter()
        for value, pixels in self.labels.values.items():
            if dataset.reduce_zero_label:
                value = IGNORED if value in (0, IGNORED) else value - 1
            counts[(dataset.label_map or {}).get(value, value)] += pixels
        return dict(counts)


def pair_up(split: Split, records: Mapping[Job, Any]) -> list[LabelledImage]:
    """The samples of a split whose label maps were read, without those of unreadable images."""
    read = {s: records.get((read_label_map, s.label)) for s in split.samples if s.label}
    pairs = [
        LabelledImage(sample, labels, records.get((read_image, sample.path)))
        for sample, labels in read.items()
        if labels
    ]
    return [pair for pair in pairs if not (pair.image and pair.image.error)]


def check_labels(
    split: Split,
    pairs: Sequence[LabelledImage],
    values: Mapping[str, set[int]],
    ignored: int | None,
) -> None:
    """Check that the label maps of a split can be read and that their values are class indices.

    `values` are those in the files of each split, `ignored` the value that the loss ignores.
    """
    lines = [f"{pair.labels.path}: {pair.labels.error}" for pair in pairs if pair.labels.error]
    split.add("label-unreadable", lines, of=len(pairs))
    readable = [pair for pair in pairs if not pair.labels.error]
    _check_formats(split, [pair.labels for pair in readable])
    counted = [pair for pair in readable if pair.labels.values]
    if counted and split.classes and not _are_misread(split, counted, values, ignored):
        _check_values(split, counted, ignored)
        _check_contents(split, counted, ignored)


def _check_formats(split: Split, maps: Sequence[LabelMap]) -> None:
    """Find label maps that are not maps of integers with 8 bits."""

    def add(code: str, chosen: Sequence[LabelMap], lines: list[str], **options: Any) -> None:
        lines = [f"{m.path}: {line}" for m, line in zip(chosen, lines, strict=True)]
        split.add(code, lines, of=len(maps), **options)

    several = [m for m in maps if m.channels != 1]
    # Of (grey, alpha) the first is compared, of the others three.
    grey = all(
        len(set(colour[: 1 if len(colour) == 2 else 3])) == 1
        for m in several
        for colour in m.colours.values()
    )
    add(
        "label-not-single-channel",
        several,
        [f"{m.mode}, {len(m.colours)} colours" for m in several],
        kind="all with the same values" if grey else "as if they were colours",
        fix="python -c \"from PIL import Image; Image.open('FILE').getchannel(0).save('FILE')\""
        if grey
        else None,
    )
    lossy = [m for m in maps if m.lossy and m.channels == 1]
    add("label-lossy", lossy, [m.lossy for m in lossy])
    deep = [m for m in maps if m.mode[0] in "IF" and m.channels == 1]
    cut = [m for m in deep if _is_cut(m)]
    add(
        "label-depth",
        cut or deep,
        [f"{m.mode}, {_span(m.values)}" for m in cut or deep],
        effect="256 becomes 0, fractions are dropped" if cut else "the values that occur fit",
        level=None if cut else "note",
    )
    _check_palettes(split, [m for m in maps if m.mode == "P"])


def _is_cut(labels: LabelMap) -> bool:
    """Whether its values do not fit into 8 bits."""
    return labels.fractional or any(not 0 <= value <= IGNORED for value in labels.values)


def _check_palettes(split: Split, maps: Sequence[LabelMap]) -> None:
    loaders = [step for info in split.datasets for step in info.steps("LoadAnnotations")]
    lost = any(step.get("imdecode_backend") == "cv2" for step in loaders)
    code = "label-palette-lost" if lost else "label-palette"
    split.add(code, [m.path for m in maps])
    if lost:
        return
    dataset = split.datasets[0].built
    palette = dataset.metainfo.get("palette") or ()
    class_of: dict[Any, int] = {tuple(colour): i for i, colour in enumerate(palette)}
    lines = []
    for m in maps:
        labels = {value - dataset.reduce_zero_label: value for value in m.values if value < IGNORED}
        shown = {label: m.colours.get(value) for label, value in labels.items()}
        wrong = [
            f"{label} has the colour of {class_of[colour]}"
            for label, colour in shown.items()
            if class_of.get(colour, label) != label
        ]
        # Palettes that are padded have one colour many times.
        distinct = len(set(shown.values())) == len(shown)
        if wrong and distinct and set(shown.values()) <= set(class_of):
            lines.append(f"{m.path}: {', '.join(wrong[:3])}")
    split.add("label-palette-order", lines)


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
        add("reduce-zero-label-wrong", share=zero, values=_span(everywhere), level=level)
        return complete
    if reduced and zero:
        add("label-zero-ignored", share=zero, level="warning" if zero > 0.5 else None)
    return False


def _check_values(split: Split, pairs: Sequence[LabelledImage], ignored: int | None) -> None:
    if ignored != IGNORED:
        lines = [pair.labels.path for pair in pairs if IGNORED in pair.values]
        split.add("label-255-not-ignored", lines, of=len(pairs), ignored=ignored)
    # What a codec made and what does not fit into 8 bits have their own findings.
    exact = [pair for pair in pairs if not pair.labels.lossy and not _is_cut(pair.labels)]
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
    if len(bad) > max(_SHOWN, classes):
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


def check_sizes(split: Split, pairs: Sequence[LabelledImage]) -> None:
    """Check that label maps have the size of their images."""
    sizes: dict[str, list[str]] = {}
    for labels, image in ((pair.labels, pair.image) for pair in pairs if pair.image):
        size = labels.size
        code = "label-size-differs"
        if size == image.size:
            if image.orientation == 1 or image.stored_size != image.size:
                continue
            code = "label-perhaps-not-turned"
        elif size == image.stored_size:
            code = "label-not-turned"
        line = f"{labels.path}: {size[0]} x {size[1]}, image {image.size[0]} x {image.size[1]}"
        sizes.setdefault(code, []).append(line)
    for code, lines in sizes.items():
        split.add(code, lines, of=len(pairs))


def histogram(split: Split, pairs: Sequence[LabelledImage], ignored: int | None) -> Section:
    """How often each class occurs in the label maps of a split."""
    if not pairs:
        return Section(split.name, "no image with a label map that can be read")
    widths, heights = zip(*(pair.image.size for pair in pairs if pair.image), strict=True)
    summary = (
        f"{len(pairs):,} images with label maps, {min(widths)} to {max(widths)} pixels wide, "
        f"{min(heights)} to {max(heights)} high"
    )
    counted = [pair for pair in pairs if pair.labels.values]
    if not counted or not split.classes:
        return Section(split.name, summary)
    pixels, images = Counter[Any](), Counter[Any]()
    for pair in counted:
        pixels.update(pair.values)
        images.update(pair.values.keys())
    bins = [Bin(i, name, pixels.pop(i, 0), images[i]) for i, name in enumerate(split.classes)]
    bins.append(Bin(None, f"ignored ({ignored})", pixels.pop(ignored, 0), images[ignored]))
    outside = sorted(pixels)[:_SHOWN]
    bins += [Bin(None, f"no class: {v}", pixels.pop(v), images[v]) for v in outside]
    if pixels:
        files = sum(not set(pair.values).isdisjoint(pixels) for pair in counted)
        bins.append(Bin(None, "no class: others", pixels.total(), files))
    return Section(split.name, summary, "pixels", tuple(bins))


def _span(values: Iterable[int]) -> str:
    values = sorted(values)
    return f"{values[0]} to {values[-1]}"


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + ", ..." * (len(values) > _SHOWN)
