"""Pictures, whatever they are labelled with: can they be read, what are they, do they repeat?"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from mmonepeace.checks.decoding import LOOK, Picture, Sound
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm")
GUESSED = 10  # missing files for which others are suggested: looking for them takes time
_SMALL, _LONG = 16, 10  # sides below, ratios of sides beyond these are extreme
_ALIKE = 0.99  # correlation of thumbnails; photographs that differ stay below 0.989 (BCCD)
_FLAT = 2.0  # standard deviation of a thumbnail that shows too little to compare
_BLOCK = 2048  # thumbnails compared at once
_LEAK = "what training has seen, validation cannot judge"

Record = Picture | Sound


def check_missing(split: Split, report: Report) -> None:
    """Take samples without their file out of a split, and report them."""
    missing = [sample for sample in split.samples if not Path(sample.path).is_file()]
    if not missing:
        return
    total, gone = len(split.samples), set(missing)
    split.samples = [sample for sample in split.samples if sample not in gone]
    paths = dict.fromkeys(Path(sample.path) for sample in missing)
    lines = [f"{path}{_similar(path) if i < GUESSED else ''}" for i, path in enumerate(paths)]
    report.add("file-missing", split.name, "files are listed, but not there", lines, of=total)


def _similar(path: Path) -> str:
    """The file of the same folder whose name is nearest, case aside."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    names = {p.name.lower(): p.name for p in sorted(there) if p.is_file()}
    near = get_close_matches(path.name.lower(), names, 1, 0.85)
    return f" (there is {names[near[0]]})" if near else ""


def check_pictures(split: Split, pictures: Sequence[Picture], report: Report) -> list[Picture]:
    """Check what each picture is by itself; those that can be read."""
    name, total = split.name, len(pictures)
    loader = split.step("LoadImageFromFile")
    known = loader or split.step("LoadImage")  # others may read what Pillow cannot
    lines = [f"{p.path}: {p.error}" for p in pictures if p.error]
    if lines:
        report.add(
            "image-unreadable",
            name,
            "pictures cannot be read: they are cut, empty or no pictures",
            lines,
            level=None if known else "warning",
            of=total,
        )
    pictures = [p for p in pictures if not p.error]
    if loader and loader.get("imdecode_backend", "cv2") == "cv2":
        lines = [f"{p.path}: {p.format}" for p in pictures if not p.for_opencv]
        if lines:
            what = "OpenCV, which decodes pictures in training, does not know the format of some"
            report.add("image-format", name, what, lines, of=total)
    lines = [f"{p.path}: {p.exif_error}" for p in pictures if p.exif_error]
    if lines:
        what = "EXIF data are broken: readers differ in whether they turn such pictures"
        report.add("image-exif-corrupt", name, what, lines, of=total)
    lines = [f"{p.path}: orientation {p.orientation}" for p in pictures if p.orientation != 1]
    if lines:
        what = "pictures are turned by their EXIF data when they are read"
        report.add("image-exif-turned", name, what, lines, of=total)
    modes = Counter(p.mode for p in pictures)
    if set(modes) - {"RGB"}:
        counts = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
        mixed = loader.get("color_type") == "unchanged" and len(modes) > 1
        report.add(
            "image-channels",
            name,
            f"pictures are not RGB with 8 bits; all are {counts}",
            [f"{p.path}: {p.mode}" for p in pictures if p.mode != "RGB"],
            level="error" if mixed else None,
            fix="color_type='unchanged' of LoadImageFromFile leaves them so: take it out." * mixed,
            of=total,
        )
    lines = [p.path for p in pictures if p.constant]
    if lines:
        report.add("image-constant", name, "pictures are of a single colour", lines, of=total)
    _check_sizes(split, pictures, report)
    return pictures


def _check_sizes(split: Split, pictures: Sequence[Picture], report: Report) -> None:
    odd = [p for p in pictures if min(p.size) < _SMALL or max(p.size) > _LONG * min(p.size)]
    if odd:
        report.add(
            "image-extreme-size",
            split.name,
            f"pictures have a side below {_SMALL} pixels, or one over {_LONG} times the other",
            [f"{p.path}: {p.size[0]} x {p.size[1]}" for p in odd],
            of=len(pictures),
        )
    crop = split.step("RandomCrop").get("crop_size")
    if not crop or split.step("RandomCrop").get("crop_type", "absolute") != "absolute":
        return
    sides = (crop, crop) if isinstance(crop, int) else crop
    # mmdetection names the width first, mmsegmentation the height.
    width, height = sides if split.kind == "detection" else sides[::-1]
    small = [p for p in pictures if 4 * p.size[0] < width or 4 * p.size[1] < height]
    if small:
        report.add(
            "image-small-for-crop",
            split.name,
            f"pictures have less than a quarter of the width or height of training crops, {width} x "
            f"{height}: they become blurs, or specks in padding",
            [f"{p.path}: {p.size[0]} x {p.size[1]}" for p in small],
            of=len(pictures),
        )


# ------------------------------------------------------------------------------------ duplicates


def check_duplicates(
    records: Mapping[str, Sequence[Record]], labels: Mapping[str, Hashable], report: Report
) -> None:
    """Find files that are in two splits, pictures that repeat, and those that nearly do.

    Args:
        records: split -> its pictures or sounds that can be read.
        labels: path -> something that is equal for equal labels; pictures without are not in it.
        report: gets the findings.
    """
    for split, found in records.items():
        _check_within(split, found, labels, report)
    train = next((split for split in records if split.startswith("train")), None)
    for split in records:
        if train is not None and split != train:
            _check_between(records[train], split, records[split], labels, report)


def _check_within(
    split: str, records: Sequence[Record], labels: Mapping[str, Hashable], report: Report
) -> None:
    same, contrary = [], []
    for paths in _by_digest(records).values():
        if len(paths) > 1:
            kinds = {labels[path] for path in paths if path in labels}
            (contrary if len(kinds) > 1 else same).append(" = ".join(paths))
    if contrary:
        what = "equal pictures have different labels: one of them is wrong"
        report.add("duplicate-label-conflict", split, what, contrary)
    if same:
        what = "pictures or sounds are there more than once, and so count more"
        report.add("duplicate-within-split", split, what, same)


def _check_between(
    learnt: Sequence[Record],
    split: str,
    tested: Sequence[Record],
    labels: Mapping[str, Hashable],
    report: Report,
) -> None:
    total = len(tested)
    paths = {Path(record.path).resolve() for record in learnt}
    shared = {record.path for record in tested if Path(record.path).resolve() in paths}
    if shared:
        what = f"files are those of train: {_LEAK}"
        report.add("split-shares-files", split, what, sorted(shared), of=total)
    tested = [record for record in tested if record.path not in shared]
    by_digest = _by_digest(learnt)
    pairs = [(by_digest[r.digest][0], r) for r in tested if r.digest in by_digest]
    if pairs:
        differ = sum(labels.get(path) != labels.get(record.path) for path, record in pairs)
        other = f"; {differ:,} of them have other labels there" * bool(differ)
        # Black margins of maps and scans may well be the same.
        black = all(isinstance(record, Picture) and record.constant for _, record in pairs)
        report.add(
            "duplicate-across-splits",
            split,
            f"pictures or sounds equal one of train{other}: {_LEAK}",
            [f"{path} = {record.path}" for path, record in pairs],
            level="warning" if black else None,
            of=total,
        )
    equal = {record.path for _, record in pairs}
    lines = _near_duplicates(learnt, [r for r in tested if r.path not in equal])
    if lines:
        what = f"pictures look nearly the same as one of train: {_LEAK}"
        report.add("near-duplicate-across-splits", split, what, lines, of=total)


def _by_digest(records: Sequence[Record]) -> dict[bytes, list[str]]:
    """Digest -> paths of the different files that have it."""
    groups: dict[bytes, dict[Path, str]] = {}
    for record in records:
        groups.setdefault(record.digest, {}).setdefault(Path(record.path).resolve(), record.path)
    return {digest: list(paths.values()) for digest, paths in groups.items()}


def _near_duplicates(learnt: Sequence[Record], tested: Sequence[Record]) -> list[str]:
    """The pairs that look alike, mirrored ones included.

    Thumbnails are compared by correlation, which recompression, scaling and another brightness
    hardly change.
    """
    learnt, looks = _looks(learnt)
    tested, wanted = _looks(tested)
    if not learnt or not tested:
        return []
    best, partner = np.zeros(len(tested)), np.zeros(len(tested), int)
    for start in range(0, len(learnt), _BLOCK):
        block = looks[start : start + _BLOCK]
        mirrored = block.reshape(-1, LOOK, LOOK)[:, :, ::-1].reshape(block.shape)
        alike = np.maximum(wanted @ block.T, wanted @ mirrored.T)
        partner = np.where(alike.max(1) > best, start + alike.argmax(1), partner)
        best = np.maximum(best, alike.max(1))
    return [
        f"{learnt[partner[i]].path} ~ {tested[i].path} ({best[i]:.3f})"
        for i in np.flatnonzero(best >= _ALIKE)
    ]


def _looks(records: Sequence[Record]) -> tuple[list[Picture], np.ndarray]:
    """Those that show something to compare, and their thumbnails with mean 0 and length 1."""
    seen = [r for r in records if isinstance(r, Picture) and r.look.std() >= _FLAT]
    looks = np.array([r.look for r in seen], np.float32).reshape(-1, LOOK * LOOK)
    looks -= looks.mean(1, keepdims=True)
    return seen, looks / np.linalg.norm(looks, axis=1, keepdims=True)
