"""Semantic segmentation: which images and label maps there are, and what the config ignores."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.config import type_name, walk
from mmonepeace.checks.images import IMAGE_SUFFIXES, check_missing, with_guesses
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import DatasetInfo, Sample, Split

IGNORED = 255  # what mmsegmentation gives to labels that reduce_zero_label or a subset removes
# Transforms that fill in the ignored value, 255 by default.
_FILLING = {
    "RandomCrop": "ignore_index", "RandomRotate": "seg_pad_val", "RandomMosaic": "seg_pad_val",
}  # fmt: skip


def list_samples(split: Split) -> list[Sample]:
    """Fill a split with its images and label maps; report those that do not exist.

    Returns:
        all samples, those without files too.
    """
    for info, entries in split.read("folder-missing", OSError, AssertionError):
        if split.name != "test" and not info.built.data_prefix.get("seg_map_path"):
            error = "data_prefix has no seg_map_path, the folder of label maps"
            split.add("folder-missing", error=error)
            continue
        entries = _chosen(entries, info.cfg.get("indices"))
        if not entries:
            _report_empty(info, split)
        samples = [Sample(e["img_path"], e.get("seg_map_path"), info) for e in entries]
        twice = [s.path for s, times in Counter(samples).items() if times > 1]
        split.add("file-listed-twice", twice)
        split.samples += dict.fromkeys(samples)
    listed = split.samples
    check_missing(split)
    total = len(split.samples)
    unpaired = {s: Path(s.label) for s in split.samples if s.label and not Path(s.label).is_file()}
    split.samples = [sample for sample in split.samples if sample not in unpaired]
    labels = zip(unpaired, with_guesses(unpaired.values()), strict=True)
    split.add("image-without-label", [f"{s.path}: no {label}" for s, label in labels], of=total)
    return listed


def _chosen(entries: list[Any], indices: int | Sequence[int] | None) -> list[Any]:
    """The entries that a data set keeps."""
    if isinstance(indices, int):
        return entries[:indices] if indices >= 0 else entries[indices:]
    return entries if indices is None else [entries[i] for i in indices]


def _report_empty(info: DatasetInfo, split: Split) -> None:
    if info.cfg.get("ann_file"):
        split.add("no-images", error=f"{info.built.ann_file} lists no image", hint="")
        return
    folder, wanted = info.folder("img_path"), info.built.img_suffix
    suffixes = Counter(path.suffix for path in folder.rglob("*") if path.is_file()).most_common(5)
    present = ", ".join(f"{n:,} *{suffix}" for suffix, n in suffixes) or "no files at all"
    split.add(
        "no-images",
        error=f"{folder} has no *{wanted} images; it has {present}",
        hint=f": img_suffix={suffixes[0][0]!r}?" if suffixes else "",
    )


def check_unlisted(split: Split, listed: Sequence[Sample]) -> None:
    """Find images and label maps in the folders that the data sets do not list."""
    for info in split.datasets:
        samples = [sample for sample in listed if sample.dataset is info]
        if samples and not info.cfg.get("ann_file") and "indices" not in info.cfg:
            _check_folders(info, samples, split)


def _check_folders(info: DatasetInfo, samples: list[Sample], split: Split) -> None:
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
    split.add("image-other-suffix", map(str, others), suffix=suffix)
    if labels:
        stems = {path.relative_to(images).with_suffix("") for path in others}
        unpaired = [
            str(path)
            for path in sorted(Path(labels).rglob(f"[!.]*{map_suffix}"))
            if path not in maps | known
            and Path(str(path.relative_to(labels))[: -len(map_suffix)]) not in stems
        ]
        split.add("label-without-image", unpaired)


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
