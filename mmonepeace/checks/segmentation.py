"""Semantic segmentation: which images and label maps there are, and what the config ignores."""

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.config import type_name, walk
from mmonepeace.checks.images import GUESSED, IMAGE_SUFFIXES, check_missing
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import DatasetInfo, Sample, Split

IGNORED = 255  # what mmsegmentation gives to labels that reduce_zero_label or a subset removes
# Transforms that fill in the ignored value, 255 by default.
_FILLING = {
    "RandomCrop": "ignore_index",
    "RandomRotate": "seg_pad_val",
    "RandomMosaic": "seg_pad_val",
}


def list_samples(split: Split, report: Report) -> list[Sample]:
    """Fill a split with its images and label maps; report those that do not exist.

    Returns:
        all samples, those without files too.
    """
    for info in split.datasets:
        if not info.has_folders(split.name, report):
            continue
        try:
            entries = _entries(info)
            if split.name != "test" and not info.built.data_prefix.get("seg_map_path"):
                raise FileNotFoundError("data_prefix has no seg_map_path, the folder of label maps")
        except (OSError, AssertionError) as error:
            report.add("folder-missing", split.name, problem=error)
            continue
        except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
            report.add("dataset-unusable", split.name, type=info.cfg.type, error=error)
            continue
        if not entries:
            _report_empty(info, split.name, report)
        samples = [Sample(e["img_path"], e.get("seg_map_path"), info) for e in entries]
        twice = [s.path for s, times in Counter(samples).items() if times > 1]
        report.add("file-listed-twice", split.name, twice)
        split.samples += dict.fromkeys(samples)
    listed = split.samples
    check_missing(split, report)
    total = len(split.samples)
    lonely = {s: None for s in split.samples if s.label and not Path(s.label).is_file()}
    split.samples = [sample for sample in split.samples if sample not in lonely]
    lines = [
        f"{s.path}: no {s.label}{_similar(Path(s.label)) if i < GUESSED else ''}"
        for i, s in enumerate(lonely)
    ]
    report.add("image-without-label", split.name, lines, of=total)
    return listed


def _entries(info: DatasetInfo) -> list[dict[str, Any]]:
    """What the data set would load, its `indices` applied."""
    entries = info.built.load_data_list()
    chosen = info.cfg.get("indices")
    if isinstance(chosen, int):
        return entries[:chosen] if chosen >= 0 else entries[chosen:]
    return entries if chosen is None else [entries[i] for i in chosen]


def _report_empty(info: DatasetInfo, split: str, report: Report) -> None:
    if info.cfg.get("ann_file"):
        report.add("no-images", split, problem=f"{info.built.ann_file} lists no image", hint="")
        return
    folder, wanted = info.folder("img_path"), info.built.img_suffix
    suffixes = Counter(path.suffix for path in folder.rglob("*") if path.is_file()).most_common(5)
    present = ", ".join(f"{n:,} *{suffix}" for suffix, n in suffixes) or "no files at all"
    report.add(
        "no-images",
        split,
        problem=f"{folder} has no *{wanted} images; it has {present}",
        hint=f": img_suffix={suffixes[0][0]!r}?" if suffixes else "",
    )


def _similar(path: Path) -> str:
    """A file that is named alike but for its end."""
    near = sorted(p.name for p in path.parent.glob(f"{glob.escape(path.stem)}*") if p.is_file())
    return f" (there is {near[0]})" if near else ""


def check_unlisted(split: Split, listed: Sequence[Sample], report: Report) -> None:
    """Find images and label maps in the folders that the data sets skip.

    Args:
        split: the split.
        listed: all its samples.
        report: gets the findings.
    """
    for info in split.datasets:
        samples = [sample for sample in listed if sample.dataset is info]
        if samples and not info.cfg.get("ann_file") and "indices" not in info.cfg:
            _check_folders(info, samples, split.name, report)


def _check_folders(info: DatasetInfo, samples: list[Sample], split: str, report: Report) -> None:
    images, labels = info.folder("img_path"), info.built.data_prefix.get("seg_map_path")
    map_suffix = info.built.seg_map_suffix
    known = {Path(sample.path) for sample in samples}
    maps = {Path(sample.label) for sample in samples if sample.label}
    ending = "." + map_suffix.rpartition(".")[2]

    def among_labels(path: Path) -> bool:
        """Whether a file is where label maps may be too, and looks like one."""
        return bool(labels) and Path(labels) in path.parents and path.name.endswith(ending)

    others = [
        path
        for path in sorted(images.rglob("[!.]*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path not in known and not among_labels(path)
    ]
    suffix = info.built.img_suffix
    report.add("image-other-suffix", split, map(str, others), suffix=suffix)
    if labels:
        stems = {path.relative_to(images).with_suffix("") for path in others}
        lonely = [
            str(path)
            for path in sorted(Path(labels).rglob(f"[!.]*{map_suffix}"))
            if path not in maps | known
            and Path(str(path.relative_to(labels))[: -len(map_suffix)]) not in stems
        ]
        report.add("label-without-image", split, lonely)


# -------------------------------------------------------------------------------------- settings


def ignored_value(cfg: Config) -> int | None:
    """The label value that the loss ignores."""
    head = (cfg.get("model") or {}).get("decode_head") or {}
    head = head[0] if isinstance(head, (list, tuple)) else head
    return head.get("ignore_index", IGNORED)


def check_settings(cfg: Config, splits: Sequence[Split], report: Report) -> None:
    """Check that a config agrees with itself about label 0 and ignored labels."""
    infos = [(split.name, info) for split in splits for info in split.datasets]
    stated = []
    for name, info in infos:
        reduced = info.built.reduce_zero_label
        stated.append((f"{name}: data set {reduced}", reduced))
        for step in [*walk(info.cfg.get("pipeline")), *walk(cfg.get("tta_pipeline") or ())]:
            value = step.get("reduce_zero_label")
            if type_name(step) == "LoadAnnotations" and value is not None:
                stated.append((f"{name}: LoadAnnotations {value}", value))
    if len({value for _, value in stated}) > 1:
        lines = dict.fromkeys(line for line, _ in stated)
        report.add("reduce-zero-label-differs", "config", lines)
    ignored = ignored_value(cfg)
    if ignored is None:  # losses without softmax may ignore nothing
        return
    if ignored < max((len(info.classes) for _, info in infos), default=0):
        report.add("ignore-index-is-a-class", "config", ignored=ignored)
    lines = [f"{place} = {n}" for place, n in _ignoring_places(cfg, splits) if n != ignored]
    report.add("ignore-index-differs", "config", dict.fromkeys(lines), ignored=ignored)


def _ignoring_places(cfg: Config, splits: Sequence[Split]) -> Iterator[tuple[str, int]]:
    """(where, value) wherever a config says what is ignored or filled in."""
    model = cfg.get("model") or {}
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            yield f"model.{name}.ignore_index", head.get("ignore_index", IGNORED)
            for loss in walk(list(head.values())):
                if loss.get("ignore_index") is not None:
                    yield f"model.{name}, {type_name(loss)}.ignore_index", loss.ignore_index
    preprocessor = model.get("data_preprocessor")
    if preprocessor:
        yield "model.data_preprocessor.seg_pad_val", preprocessor.get("seg_pad_val", IGNORED)
    for split in splits:
        for info in split.datasets:
            if "ignore_index" in info.cfg:
                yield f"{split.name}: data set, ignore_index", info.cfg.ignore_index
            for step in walk(info.cfg.get("pipeline")):
                kind = type_name(step)
                if kind in _FILLING:
                    argument = _FILLING[kind]
                    yield f"{split.name}: {kind}.{argument}", step.get(argument, IGNORED)
                elif kind == "Pad" and isinstance(step.get("pad_val"), dict):
                    yield f"{split.name}: Pad.pad_val.seg", step.pad_val.get("seg", IGNORED)
    for name in ("val_evaluator", "test_evaluator"):
        for metric in walk(cfg.get(name) or ()):
            if type_name(metric) == "IoUMetric":
                yield f"{name}.ignore_index", metric.get("ignore_index", IGNORED)
