"""Files that occur twice: within a split, in two splits, or nearly the same in two splits."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmonepeace.checks.decoding import THUMBNAIL, AudioInfo, FileInfo, ImageInfo
from mmonepeace.checks.report import Report

_ALIKE = 0.99  # correlation of thumbnails; photographs that differ stay below 0.989 (BCCD)
_FLAT = 2.0  # standard deviation of a thumbnail that shows too little to compare
_BLOCK = 2048  # thumbnails compared at once


def check_duplicates(
    files: Mapping[str, Sequence[FileInfo]], labels: Mapping[str, Hashable], report: Report
) -> None:
    """Find files that are in two splits, images that repeat, and those that nearly do.

    Images that are drawn in their transparency alone, and silent clips, only look equal: not they.

    `files` are those of each split that can be read; `labels`, by path, are equal for equal labels.
    """
    for split, members in files.items():
        _check_within(split, members, labels, report)
    train = next((split for split in files if split.startswith("train")), None)
    for split in files:
        if train is not None and split != train:
            _check_between(files[train], split, files[split], labels, report)


def _looks_equal(file: FileInfo) -> bool:
    if isinstance(file, ImageInfo):
        return file.in_alpha
    return isinstance(file, AudioInfo) and file.silent


def _check_within(
    split: str, files: Sequence[FileInfo], labels: Mapping[str, Hashable], report: Report
) -> None:
    same, contrary = list[str](), list[str]()
    for paths in _by_digest(files).values():
        if len(paths) > 1:
            kinds = {labels[path] for path in paths if path in labels}
            (contrary if len(kinds) > 1 else same).append(" = ".join(paths))
    report.add("duplicate-label-conflict", split, contrary)
    report.add("duplicate-within-split", split, same)


def _check_between(
    train: Sequence[FileInfo],
    split: str,
    tested: Sequence[FileInfo],
    labels: Mapping[str, Hashable],
    report: Report,
) -> None:
    total = len(tested)
    paths = {Path(file.path).resolve() for file in train}
    shared = {file.path for file in tested if Path(file.path).resolve() in paths}
    report.add("split-shares-files", split, sorted(shared), of=total)
    tested = [file for file in tested if file.path not in shared]
    by_digest = _by_digest(train)
    pairs = [(by_digest[f.digest][0], f) for f in tested if f.digest in by_digest]
    differ = sum(labels.get(path) != labels.get(file.path) for path, file in pairs)
    # Black margins of maps and scans may well be the same.
    black = all(isinstance(file, ImageInfo) and file.constant for _, file in pairs)
    report.add(
        "duplicate-across-splits",
        split,
        [f"{path} = {file.path}" for path, file in pairs],
        level="warning" if black else None,
        of=total,
        other=f"; {differ:,} of them have different labels there" * bool(differ),
    )
    equal = {file.path for _, file in pairs}
    lines = _near_duplicates(train, [file for file in tested if file.path not in equal])
    report.add("near-duplicate-across-splits", split, lines, of=total)


def _by_digest(files: Sequence[FileInfo]) -> dict[bytes, list[str]]:
    """Digest -> paths of the different files that have it."""
    groups: dict[bytes, dict[Path, str]] = {}
    for file in files:
        if _looks_equal(file):
            continue
        groups.setdefault(file.digest, {}).setdefault(Path(file.path).resolve(), file.path)
    return {digest: list(paths.values()) for digest, paths in groups.items()}


def _near_duplicates(train: Sequence[FileInfo], tested: Sequence[FileInfo]) -> list[str]:
    """The pairs that look alike, mirrored ones included.

    Thumbnails are compared by correlation, which recompression, scaling and another brightness
    hardly change.
    """
    train, thumbnails = _thumbnails(train)
    tested, wanted = _thumbnails(tested)
    if not train or not tested:
        return []
    best, partner = np.zeros(len(tested)), np.zeros(len(tested), int)
    for start in range(0, len(train), _BLOCK):
        block = thumbnails[start : start + _BLOCK]
        mirrored = block.reshape(-1, THUMBNAIL, THUMBNAIL)[:, :, ::-1].reshape(block.shape)
        alike = np.maximum(wanted @ block.T, wanted @ mirrored.T)
        partner = np.where(alike.max(1) > best, start + alike.argmax(1), partner)
        best = np.maximum(best, alike.max(1))
    return [
        f"{train[partner[i]].path} ~ {tested[i].path} ({best[i]:.3f})"
        for i in np.flatnonzero(best >= _ALIKE)
    ]


def _thumbnails(files: Sequence[FileInfo]) -> tuple[list[ImageInfo], np.ndarray]:
    """Images that show something to compare, and their thumbnails with mean 0 and length 1."""
    images = [f for f in files if isinstance(f, ImageInfo) and f.thumbnail.std() >= _FLAT]
    thumbnails = np.array([i.thumbnail for i in images], np.float32).reshape(-1, THUMBNAIL**2)
    thumbnails -= thumbnails.mean(1, keepdims=True)
    return images, thumbnails / np.linalg.norm(thumbnails, axis=1, keepdims=True)
