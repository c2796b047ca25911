"""Label maps: do they belong to their images, and have a format that training reads?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmonepeace.checks.decoding import ImageInfo, Job, LabelMap, image_reader, read_label_map
from mmonepeace.checks.report import Bin, Section
from mmonepeace.checks.segmentation import IGNORED
from mmonepeace.checks.splits import Sample, Split

SHOWN = 8  # values that are shown one by one


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
        LabelledImage(sample, labels, records.get((image_reader("drop"), sample.path)))
        for sample, labels in read.items()
        if labels
    ]
    return [pair for pair in pairs if not (pair.image and pair.image.error)]


def check_formats(split: Split, maps: Sequence[LabelMap]) -> None:
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
    cut = [m for m in deep if is_cut(m)]
    add(
        "label-depth",
        cut or deep,
        [f"{m.mode}, {span(m.values)}" for m in cut or deep],
        effect="256 becomes 0, fractions are dropped" if cut else "the values that occur fit",
        level=None if cut else "note",
    )
    _check_palettes(split, [m for m in maps if m.mode == "P"])


def is_cut(labels: LabelMap) -> bool:
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
    sides = f"{_pixels(widths)} wide, {_pixels(heights)} high"
    summary = f"{len(pairs):,} images with label maps, {sides}"
    counted = [pair for pair in pairs if pair.labels.values]
    if not counted or not split.classes:
        return Section(split.name, summary)
    pixels, images = Counter[Any](), Counter[Any]()
    for pair in counted:
        pixels.update(pair.values)
        images.update(pair.values.keys())
    bins = [Bin(i, name, pixels.pop(i, 0), images[i]) for i, name in enumerate(split.classes)]
    bins.append(Bin(None, f"ignored ({ignored})", pixels.pop(ignored, 0), images[ignored]))
    outside = sorted(pixels)[:SHOWN]
    bins += [Bin(None, f"no class: {v}", pixels.pop(v), images[v]) for v in outside]
    if pixels:
        files = sum(not set(pair.values).isdisjoint(pixels) for pair in counted)
        bins.append(Bin(None, "no class: others", pixels.total(), files))
    return Section(split.name, summary, "pixels", tuple(bins))


def _pixels(sides: Sequence[int]) -> str:
    """The smallest and the largest of some sides, or the one that all have."""
    low, high = min(sides), max(sides)
    return f"{low} pixels" if low == high else f"{low} to {high} pixels"


def span(values: Iterable[int]) -> str:
    """The smallest and the largest of some values, or the one that occurs."""
    values = sorted(values)
    return f"{values[0]} to {values[-1]}" if values[0] != values[-1] else f"{values[0]}"
