"""Image files, whatever they are labelled with: do they exist, can they be read, what are they?"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from mmonepeace.checks.decoding import ImageInfo
from mmonepeace.checks.splits import Sample, Split

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm",
)  # fmt: skip
_GUESSED = 10  # missing files for which others are suggested: looking for them takes time
_SMALLEST, _LONGEST = 16, 10  # side, and ratio of the sides, beyond which a size is extreme


def check_missing(split: Split, tolerated: float = 0.0) -> None:
    """Take samples without their file out of a split; report them if they exceed a fraction."""
    total = len(split.samples)
    missing = {sample for sample in split.samples if not _exists(sample)}
    paths = dict.fromkeys(Path(s.path) for s in split.samples if s in missing)
    split.samples = [sample for sample in split.samples if sample not in missing]
    if len(missing) > tolerated * total:
        split.add("file-missing", with_guesses(paths), of=total)


def _exists(sample: Sample) -> bool:
    """Whether there is its file, or the folder of frames of a video."""
    is_folder = sample.label == "video" and os.path.isdir(sample.path)
    return is_folder or os.path.isfile(sample.path)


def with_guesses(paths: Iterable[Path]) -> list[str]:
    """Missing files, the first of them with a file of their folder that may be meant."""
    return [f"{path}{_similar(path) if i < _GUESSED else ''}" for i, path in enumerate(paths)]


def _similar(path: Path) -> str:
    stem, siblings = path.stem.lower(), path.parent.iterdir() if os.path.isdir(path.parent) else ()
    names = {p.name.lower(): p.name for p in sorted(siblings) if p.is_file()}
    near = [n for n in names if n.startswith(stem) and not n[len(stem) : len(stem) + 1].isalnum()]
    near = near or get_close_matches(path.name.lower(), names, 1, 0.85)
    return f" (there is {names[near[0]]})" if near else ""


def check_images(split: Split, images: Sequence[ImageInfo]) -> list[ImageInfo]:
    """Check each image by itself.

    Returns:
        those that can be read.
    """
    total = len(images)
    loader = split.step("LoadImageFromFile")
    known = loader or split.step("LoadImage")  # others may read what Pillow cannot
    lines = [f"{image.path}: {image.error}" for image in images if image.error]
    level = None if known else "warning"
    split.add("image-unreadable", lines, level=level, of=total)
    images = [image for image in images if not image.error]

    def add(code: str, lines: list[str], **options: object) -> None:
        split.add(code, lines, of=total, **options)

    if loader and loader.get("imdecode_backend", "cv2") == "cv2":
        add("image-format", [f"{i.path}: {i.format}" for i in images if not i.for_opencv])
    add("image-exif-corrupt", [f"{i.path}: {i.exif_error}" for i in images if i.exif_error])
    rotated = [i for i in images if i.orientation != 1]
    add("image-exif-turned", [f"{i.path}: orientation {i.orientation}" for i in rotated])
    modes = Counter(i.mode for i in images)
    mixed = loader.get("color_type") == "unchanged" and len(modes) > 1
    add(
        "image-channels",
        [f"{i.path}: {i.mode}" for i in images if i.mode != "RGB"],
        counts=", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()),
        level="error" if mixed else None,
        fix="color_type='unchanged' of LoadImageFromFile keeps these modes: remove it." * mixed,
    )
    add("image-constant", [i.path for i in images if i.constant and not i.in_alpha])
    fix = "LoadImage(alpha='white') puts white behind them; so does --alpha white of mmonepeace embed."
    in_alpha = [i.path for i in images if i.in_alpha]
    add("image-in-alpha", in_alpha, fix=fix if split.step("LoadImage") else None)
    _check_sizes(split, images)
    return images


def _check_sizes(split: Split, images: Sequence[ImageInfo]) -> None:
    def add(code: str, chosen: list[ImageInfo], **details: int) -> None:
        lines = [f"{image.path}: {image.size[0]} x {image.size[1]}" for image in chosen]
        split.add(code, lines, of=len(images), **details)

    extreme = [i for i in images if min(i.size) < _SMALLEST or max(i.size) > _LONGEST * min(i.size)]
    add("image-extreme-size", extreme, smallest=_SMALLEST, ratio=_LONGEST)
    crop = split.step("RandomCrop").get("crop_size")
    if not crop or split.step("RandomCrop").get("crop_type", "absolute") != "absolute":
        return
    sides = (crop, crop) if isinstance(crop, int) else crop
    # mmdetection names the width first, mmsegmentation the height.
    width, height = sides if split.kind == "detection" else sides[::-1]
    small = [i for i in images if 4 * i.size[0] < width or 4 * i.size[1] < height]
    add("image-small-for-crop", small, width=width, height=height)
