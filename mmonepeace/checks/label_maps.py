"""Label maps: do they belong to their pictures, and their numbers to the classes?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mmonepeace.checks.decoding import LabelMap
from mmonepeace.checks.report import Bin, Report, Section
from mmonepeace.checks.segmentation import IGNORED, Row
from mmonepeace.checks.splits import Split

_SHOWN = 8  # numbers outside the classes that are shown one by one
_MANY = 0.1  # share of files from which on a number outside the classes is no slip


def check_label_maps(
    split: Split,
    rows: Sequence[Row],
    numbers: Mapping[Split, set[int]],
    ignored: int | None,
    report: Report,
) -> tuple[Bin, ...]:
    """Check the label maps of a split.

    Args:
        split: whose they are.
        rows: its pictures that can be read, with their label maps.
        numbers: split -> those in its label maps, as they lie in the files.
        ignored: the number that the loss ignores.
        report: gets the findings.

    Returns:
        the histogram; none where no label map can be counted.
    """
    lines = [f"{row.labels.path}: {row.labels.error}" for row in rows if row.labels.error]
    if lines:
        report.add(
            "label-unreadable",
            split.name,
            "label maps cannot be read: they are cut, empty or no pictures",
            lines,
            of=len(rows),
        )
    rows = [row for row in rows if not row.labels.error]
    _check_kinds(split, [row.labels for row in rows], report)
    _check_sizes(split.name, rows, report)
    counted = [row for row in rows if row.labels.values]
    if not counted or not split.classes:
        report.sections.append(Section(split.name, _summary(rows)))
        return ()
    if not _are_misread(split, counted, numbers, ignored, report):
        _check_outside(split, counted, ignored, report)
        _check_contents(split.name, counted, ignored, report)
    bins = _histogram(counted, split.classes, ignored)
    report.sections.append(Section(split.name, _summary(rows), "pixels", bins))
    return bins


def _summary(rows: Sequence[Row]) -> str:
    if not rows:
        return "no picture with a label map that can be read"
    widths, heights = zip(*(row.picture.size for row in rows), strict=True)
    return (
        f"{len(rows):,} pictures with label maps, {min(widths)} to {max(widths)} pixels wide, "
        f"{min(heights)} to {max(heights)} high"
    )


def _histogram(rows: Sequence[Row], classes: Sequence[str], ignored: int | None) -> tuple[Bin, ...]:
    pixels, images = Counter[int](), Counter[int]()
    for row in rows:
        pixels.update(row.values)
        images.update(row.values.keys())
    bins = [Bin(i, name, pixels.pop(i, 0), images[i]) for i, name in enumerate(classes)]
    bins.append(Bin(None, f"ignored ({ignored})", pixels.pop(ignored, 0), images[ignored]))
    outside = sorted(pixels)
    bins += [Bin(None, f"no class: {n}", pixels.pop(n), images[n]) for n in outside[:_SHOWN]]
    if pixels:
        files = sum(not set(row.values).isdisjoint(pixels) for row in rows)
        bins.append(Bin(None, "no class: others", pixels.total(), files))
    return tuple(bins)


# ----------------------------------------------------------------------------------------- files


def _check_kinds(split: Split, maps: Sequence[LabelMap], report: Report) -> None:
    """Find label maps that are no maps of whole numbers with 8 bits."""
    total = len(maps)
    several = [m for m in maps if m.channels != 1]
    if several:
        # Of (grey, alpha) the first is compared, of the others three.
        grey = all(
            len(set(colour[: 1 if len(colour) == 2 else 3])) == 1
            for m in several
            for colour in m.colours.values()
        )
        report.add(
            "label-not-single-channel",
            split.name,
            "label maps have several channels, "
            + ("all with the same numbers" if grey else "as if they were colours, not classes"),
            [f"{m.path}: {m.mode}, {len(m.colours)} colours" for m in several],
            fix="python -c \"from PIL import Image; Image.open('FILE').getchannel(0).save('FILE')\""
            if grey
            else None,
            of=total,
        )
    lines = [f"{m.path}: {m.lossy}" for m in maps if m.lossy and m.channels == 1]
    if lines:
        what = "label maps are of a format that changes numbers at the borders"
        report.add("label-lossy", split.name, what, lines, of=total)
    deep = [m for m in maps if m.mode[0] in "IF" and m.channels == 1]
    bad = [m for m in deep if _is_cut(m)]
    if deep:
        what = "label maps have more than 8 bits, which mmsegmentation cuts them to: "
        effect = "256 becomes 0, fractions are dropped" if bad else "the numbers that occur fit"
        lines = [f"{m.path}: {m.mode}, {_span(m.values)}" for m in bad or deep]
        level = "error" if bad else None
        report.add("label-depth", split.name, what + effect, lines, level=level, of=total)
    _check_palettes(split, [m for m in maps if m.mode == "P"], report)


def _is_cut(labels: LabelMap) -> bool:
    """Whether its numbers do not fit into 8 bits."""
    return labels.fractional or any(not 0 <= value <= IGNORED for value in labels.values)


def _check_palettes(split: Split, maps: Sequence[LabelMap], report: Report) -> None:
    if not maps:
        return
    loaders = [step for part in split.parts for step in part.steps("LoadAnnotations")]
    if any(step.get("imdecode_backend") == "cv2" for step in loaders):
        what = "LoadAnnotations(imdecode_backend='cv2') reads label maps with a palette as colours"
        report.add("label-palette-lost", split.name, what, [m.path for m in maps])
        return
    what = "label maps have a palette: their numbers count, not their colours"
    report.add("label-palette", split.name, what, [m.path for m in maps])
    dataset = split.parts[0].dataset
    number_of = {tuple(colour): i for i, colour in enumerate(dataset.metainfo.get("palette") or ())}
    lines = []
    for m in maps:
        labels = {value - dataset.reduce_zero_label: value for value in m.values if value < IGNORED}
        shown = {label: m.colours.get(value) for label, value in labels.items()}
        wrong = [f"{n} has the colour of {number_of[c]}" for n, c in shown.items()
                 if number_of.get(c, n) != n]  # fmt: skip
        # Palettes that are filled up have one colour many times.
        if (
            wrong
            and set(shown.values()) <= set(number_of)
            and len(set(shown.values())) == len(shown)
        ):
            lines.append(f"{m.path}: {', '.join(wrong[:3])}")
    if lines:
        what = (
            "the colours of label maps are those of the classes in another order, as if a program "
            "that sorts palettes had changed the numbers"
        )
        report.add("label-palette-order", split.name, what, lines)


def _check_sizes(split: str, rows: Sequence[Row], report: Report) -> None:
    found: dict[str, list[str]] = {}
    for row in rows:
        size, picture = row.labels.size, row.picture
        code = "label-size-differs"
        if size == picture.size:
            if picture.orientation == 1 or picture.stored_size != picture.size:
                continue
            code = "label-perhaps-not-turned"
        elif size == picture.stored_size:
            code = "label-not-turned"
        line = f"{row.labels.path}: {size[0]} x {size[1]}, picture {picture.size[0]} x {picture.size[1]}"
        found.setdefault(code, []).append(line)
    whats = {
        "label-size-differs": "label maps have another size than their picture",
        "label-not-turned": "pictures are turned by their EXIF data, and their label maps are not",
        "label-perhaps-not-turned": "pictures are turned by their EXIF data without a change of size; "
        "whether their label maps are turned too cannot be seen",
    }
    for code, lines in found.items():
        report.add(code, split, whats[code], lines, of=len(rows))


# --------------------------------------------------------------------------------------- numbers


def _are_misread(
    split: Split,
    rows: Sequence[Row],
    by_split: Mapping[Split, set[int]],
    ignored: int | None,
    report: Report,
) -> bool:
    """Whether the numbers of a split as a whole mean something else than the config says."""
    everywhere = set().union(*by_split.values())
    elsewhere = set().union(*(found for other, found in by_split.items() if other is not split))
    pixels = sum((Counter(row.labels.values) for row in rows), Counter[int]())
    numbers, classes = set(pixels) - {IGNORED}, len(split.classes)
    datasets = [part.dataset for part in split.parts]
    if any(dataset.label_map for dataset in datasets):
        return False
    reduced = all(dataset.reduce_zero_label for dataset in datasets)
    zero = pixels[0] / pixels.total()
    if not reduced and numbers and (min(numbers), max(numbers)) == (1, classes):
        what = f"the numbers are 1 to {classes}, those of {classes} classes are 0 to {classes - 1}"
        report.add("reduce-zero-label-forgotten", split.name, what)
        return True
    black_and_white = set(pixels) == {0, IGNORED} and (
        IGNORED not in elsewhere or elsewhere == {0, IGNORED}
    )
    if black_and_white and classes > 1 and ignored == IGNORED:
        report.add(
            "label-255-is-a-class",
            split.name,
            f"0 and 255 are the only numbers, and 255, {1 - zero:.1%} of the pixels, is ignored: are "
            "these masks of black and white?",
        )
        return True
    if reduced and zero and max(everywhere - {IGNORED}) < classes:
        whole = everywhere >= set(range(classes)) and not split.left_out
        report.add(
            "reduce-zero-label-wrong",
            split.name,
            f"reduce_zero_label takes label 0 out, {zero:.1%} of the pixels, and makes class 0 of "
            f"label 1; but no label is {classes}, so the last class never occurs: the numbers, "
            f"{_span(everywhere)}, look like classes counted from 0",
            level="error" if whole else "warning",
            share=zero,
        )
        return whole
    if reduced and zero:
        report.add(
            "label-zero-ignored",
            split.name,
            f"reduce_zero_label takes label 0 out: {zero:.1%} of the pixels",
            level="warning" if zero > 0.5 else None,
            share=zero,
        )
    return False


def _check_outside(split: Split, rows: Sequence[Row], ignored: int | None, report: Report) -> None:
    """Hold the number of each pixel against the classes."""
    classes, reduced = len(split.classes), split.parts[0].dataset.reduce_zero_label
    if ignored != IGNORED:
        lines = [row.labels.path for row in rows if IGNORED in row.values]
        if lines:
            what = f"255 occurs, and the head ignores {ignored} instead"
            report.add("label-255-not-ignored", split.name, what, lines, of=len(rows))
    found: dict[str, list[int]] = {}
    for row in rows:
        # What a codec made and what does not fit into 8 bits have their own findings.
        if not row.labels.lossy and not _is_cut(row.labels):
            numbers = set(row.values) - {ignored, IGNORED} - set(range(classes))
            if numbers:
                found[row.labels.path] = sorted(numbers)
    numbers = sorted(set().union(*found.values()))
    if not found:
        return
    hint = ""
    if len(numbers) > max(_SHOWN, classes):
        hint = (
            "so many numbers look like blending: was something scaled with interpolation (use the "
            "nearest), or once a JPEG? "
        )
    elif len(found) > max(1, _MANY * len(rows)) and not reduced:
        other = "0 means 'other' and reduce_zero_label=True is missing, or " * (
            numbers == [classes]
        )
        hint = f"{other}there are {numbers[-1] + 1} classes and all want a name; else "
    report.add(
        "label-outside-classes",
        split.name,
        f"label maps have numbers outside 0 to {classes - 1}"
        + " (after reduce_zero_label)" * reduced
        + f", which are {_few(numbers)}; {ignored} is ignored",
        [f"{path}: {_few(values)}" for path, values in found.items()],
        fix=f"{hint}correct the files (255 for what belongs to no class), or name the missing classes.",
        of=len(rows),
    )


def _check_contents(split: str, rows: Sequence[Row], ignored: int | None, report: Report) -> None:
    """Find label maps that say nothing, or say the same of different pictures."""
    shown = {row.labels.path: set(row.values) - {ignored} for row in rows}
    empty = [path for path, numbers in shown.items() if not numbers]
    if empty:
        what = "label maps are ignored as a whole: nothing to learn"
        level = "error" if len(empty) == len(rows) else None
        report.add("label-all-ignored", split, what, empty, level=level, of=len(rows))
    several = len(rows[0].sample.part.classes) > 1
    single = [path for path, numbers in shown.items() if several and len(numbers) == 1]
    kinds = set().union(*(shown[path] for path in single))
    if single and len(single) == len(rows) > 1:
        what = f"every label map has a single class: {_few(sorted(kinds))}"
        level = "error" if len(kinds) == 1 else "warning"
        report.add("labels-constant", split, what, single, level=level)
    elif single:
        report.add("label-constant", split, "label maps have a single class", single, of=len(rows))
    alike: dict[bytes, dict[bytes, str]] = {}
    for row in rows:
        if len(row.values) > 1:
            alike.setdefault(row.labels.digest, {})[row.picture.digest] = row.labels.path
    lines = [" = ".join(paths.values()) for paths in alike.values() if len(paths) > 1]
    if lines:
        what = "different pictures have exactly the same label map"
        report.add("label-repeats", split, what, lines)


def _span(numbers: Iterable[int]) -> str:
    numbers = sorted(numbers)
    return f"{numbers[0]} to {numbers[-1]}"


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + ", ..." * (len(numbers) > _SHOWN)
