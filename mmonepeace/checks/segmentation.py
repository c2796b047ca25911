"""Semantic segmentation: which pictures and label maps there are, and what the config ignores."""

import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.decoding import (
    Job,
    LabelMap,
    Picture,
    read_label_map,
    read_picture,
)
from mmonepeace.checks.images import GUESSED, SUFFIXES, check_missing
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import Part, Sample, Split, kind_of, walk

IGNORED = 255  # what mmsegmentation gives to labels that reduce_zero_label or a subset takes out
# Transforms that know or fill in the number that is ignored, 255 by default.
_FILLING = {
    "RandomCrop": "ignore_index",
    "RandomRotate": "seg_pad_val",
    "RandomMosaic": "seg_pad_val",
}


@dataclass(frozen=True, eq=False)
class Row:
    """A picture and its label map, both read."""

    sample: Sample
    picture: Picture
    labels: LabelMap

    @cached_property
    def values(self) -> dict[int, int]:
        """Number -> pixels, as the loss sees them."""
        dataset = self.sample.part.dataset
        found: Counter[int] = Counter()
        for value, pixels in self.labels.values.items():
            if dataset.reduce_zero_label:
                value = IGNORED if value in (0, IGNORED) else value - 1
            found[(dataset.label_map or {}).get(value, value)] += pixels
        return dict(found)


def rows_of(split: Split, found: Mapping[Job, Any]) -> list[Row]:
    """The rows of a split, as they were read."""
    return [
        Row(s, found[read_picture, s.path], found[read_label_map, s.label])
        for s in split.samples
        if s.label
    ]


# ----------------------------------------------------------------------------------------- files


def list_samples(split: Split, report: Report) -> None:
    """Fill a split with its pictures and label maps; report what is missing or passed over."""
    for part in split.parts:
        labels = part.dataset.data_prefix.get("seg_map_path")
        try:
            entries = _entries(part)
            if labels and not Path(labels).is_dir():
                raise FileNotFoundError(f"the folder of label maps, {labels}, does not exist")
            if not labels and split.name != "test":
                raise FileNotFoundError("data_prefix names no folder of label maps, seg_map_path")
        except (OSError, AssertionError) as error:
            report.add("folder-missing", split.name, f"{error}")
            continue
        except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
            report.add("dataset-unusable", split.name, f"{part.cfg.type} says: {error}")
            continue
        if not entries:
            _report_empty(part, split.name, report)
            continue
        samples = [Sample(e["img_path"], e.get("seg_map_path"), part) for e in entries]
        twice = [s.path for s, times in Counter(samples).items() if times > 1]
        if twice:
            report.add("file-listed-twice", split.name, "files are listed more than once", twice)
        split.samples += dict.fromkeys(samples)
        if not part.cfg.get("ann_file") and "indices" not in part.cfg:
            _check_others(part, samples, split.name, report)
    check_missing(split, report)
    lonely = [s for s in split.samples if s.label and not Path(s.label).is_file()]
    if lonely:
        total, gone = len(split.samples), set(lonely)
        split.samples = [sample for sample in split.samples if sample not in gone]
        lines = [
            f"{s.path}: no {s.label}{_similar(Path(s.label)) if i < GUESSED else ''}"
            for i, s in enumerate(lonely)
        ]
        report.add("image-without-label", split.name, "pictures have no label map", lines, of=total)


def _entries(part: Part) -> list[dict[str, Any]]:
    """What the data set would load, its `indices` applied."""
    entries = part.dataset.load_data_list()
    chosen = part.cfg.get("indices")
    if isinstance(chosen, int):
        return entries[:chosen] if chosen >= 0 else entries[chosen:]
    return entries if chosen is None else [entries[i] for i in chosen]


def _report_empty(part: Part, split: str, report: Report) -> None:
    if part.cfg.get("ann_file"):
        report.add("no-images", split, f"{part.dataset.ann_file} lists no picture")
        return
    folder, wanted = part.folder("img_path"), part.dataset.img_suffix
    found = Counter(path.suffix for path in folder.rglob("*") if path.is_file())
    there = ", ".join(f"{n:,} *{suffix}" for suffix, n in found.most_common(5))
    report.add(
        "no-images",
        split,
        f"{folder} has no files *{wanted}; it has {there or 'no files at all'}",
        fix=f"img_suffix={found.most_common(1)[0][0]!r} in the data set." if found else None,
    )


def _similar(path: Path) -> str:
    """A file that is named alike but for its end."""
    near = sorted(p.name for p in path.parent.glob(f"{glob.escape(path.stem)}*") if p.is_file())
    return f" (there is {near[0]})" if near else ""


def _check_others(part: Part, samples: Sequence[Sample], split: str, report: Report) -> None:
    """Find pictures and label maps in the folders that the data set passes over."""
    images, labels = part.folder("img_path"), part.dataset.data_prefix.get("seg_map_path")
    img_suffix, map_suffix = part.dataset.img_suffix, part.dataset.seg_map_suffix
    known = {Path(sample.path) for sample in samples}
    maps = {Path(sample.label) for sample in samples if sample.label}
    ending = "." + map_suffix.rpartition(".")[2]

    def among_labels(path: Path) -> bool:
        """Whether a file lies where label maps may lie too, and looks like one."""
        return bool(labels) and Path(labels) in path.parents and path.name.endswith(ending)

    others = [
        path
        for path in sorted(images.rglob("[!.]*"))
        if path.suffix.lower() in SUFFIXES and path not in known and not among_labels(path)
    ]
    if others:
        what = f"pictures are passed over: they do not end in {img_suffix}, or are broken links"
        report.add("image-other-suffix", split, what, map(str, others))
    if not labels:
        return
    stems = {path.relative_to(images).with_suffix("") for path in others}
    lonely = [
        path
        for path in sorted(Path(labels).rglob(f"[!.]*{map_suffix}"))
        if path not in maps | known
        and Path(str(path.relative_to(labels))[: -len(map_suffix)]) not in stems
    ]
    if lonely:
        what = "label maps have no picture and are passed over"
        report.add("label-without-image", split, what, map(str, lonely))


# -------------------------------------------------------------------------------------- settings


def ignored_number(cfg: Config) -> int | None:
    """The number that the loss ignores."""
    head = (cfg.get("model") or {}).get("decode_head") or {}
    head = head[0] if isinstance(head, (list, tuple)) else head
    return head.get("ignore_index", IGNORED)


def check_settings(cfg: Config, splits: Sequence[Split], report: Report) -> None:
    """Hold what the config says about label 0 and about ignored labels against itself."""
    parts = [(split.name, part) for split in splits for part in split.parts]
    stated = []
    for name, part in parts:
        reduced = part.dataset.reduce_zero_label
        stated.append((f"{name}: data set {reduced}", reduced))
        for step in [*walk(part.cfg.get("pipeline")), *walk(cfg.get("tta_pipeline") or ())]:
            value = step.get("reduce_zero_label")
            if kind_of(step) == "LoadAnnotations" and value is not None:
                stated.append((f"{name}: LoadAnnotations {value}", value))
    if len({value for _, value in stated}) > 1:
        what = "reduce_zero_label is not the same everywhere: numbers mean other classes"
        lines = dict.fromkeys(line for line, _ in stated)
        report.add("reduce-zero-label-differs", "config", what, lines)
    ignored = ignored_number(cfg)
    if ignored is None:  # losses without softmax may ignore nothing
        return
    if ignored < max((len(part.classes) for _, part in parts), default=0):
        what = f"the decode head ignores {ignored}, which is the number of a class"
        report.add("ignore-index-is-a-class", "config", what)
    lines = [f"{place} = {n}" for place, n in _ignoring_places(cfg, splits) if n != ignored]
    if lines:
        what = f"the decode head ignores {ignored}, other parts of the config another number"
        report.add("ignore-index-differs", "config", what, dict.fromkeys(lines))


def _ignoring_places(cfg: Config, splits: Sequence[Split]) -> Iterable[tuple[str, int]]:
    """(where, number) wherever a config says what is ignored or filled in."""
    model = cfg.get("model") or {}
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            yield f"model.{name}.ignore_index", head.get("ignore_index", IGNORED)
            for loss in walk(list(head.values())):
                if loss.get("ignore_index") is not None:
                    yield f"model.{name}, {kind_of(loss)}.ignore_index", loss.ignore_index
    preprocessor = model.get("data_preprocessor")
    if preprocessor:
        yield "model.data_preprocessor.seg_pad_val", preprocessor.get("seg_pad_val", IGNORED)
    for split in splits:
        for part in split.parts:
            if "ignore_index" in part.cfg:
                yield f"{split.name}: data set, ignore_index", part.cfg.ignore_index
            for step in walk(part.cfg.get("pipeline")):
                kind = kind_of(step)
                if kind in _FILLING:
                    argument = _FILLING[kind]
                    yield f"{split.name}: {kind}.{argument}", step.get(argument, IGNORED)
                elif kind == "Pad" and isinstance(step.get("pad_val"), dict):
                    yield f"{split.name}: Pad.pad_val.seg", step.pad_val.get("seg", IGNORED)
    for name in ("val_evaluator", "test_evaluator"):
        for metric in walk(cfg.get(name) or ()):
            if kind_of(metric) == "IoUMetric":
                yield f"{name}.ignore_index", metric.get("ignore_index", IGNORED)
