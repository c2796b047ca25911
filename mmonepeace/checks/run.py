"""What tools check before every run, and the full examination of the data."""

import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks import boxes, coco, detection, label_maps, label_values, pairs, segmentation
from mmonepeace.checks.building import check_parts
from mmonepeace.checks.classes import check_classes, check_occurrence
from mmonepeace.checks.config import (
    LOADERS,
    dataset_configs,
    given_root,
    is_detection,
    type_name,
    with_given_root,
)
from mmonepeace.checks.consistency import USED_WITH, check_consistency
from mmonepeace.checks.decoding import (
    AudioInfo,
    FileInfo,
    ImageInfo,
    Job,
    VideoInfo,
    image_reader,
    read_files,
    read_label_map,
)
from mmonepeace.checks.duplicates import check_duplicates
from mmonepeace.checks.explanations import explain
from mmonepeace.checks.images import check_images, check_missing
from mmonepeace.checks.report import Report, Section
from mmonepeace.checks.splits import Kind, Sample, Split, read_splits
from mmonepeace.checks.values import check_values
from mmonepeace.checks.weights import check_tokenizers, check_weights
from mmonepeace.console import printable
from mmonepeace.exit_status import is_first_rank

_LABEL_MAPS = 1000  # of a split that are read before a run
_LABEL_SECONDS = 5.0  # to read them
_SIZE_SECONDS = 10.0  # to read the headers of its images
# With these, how often classes occur says nothing more.
_MISREAD = (
    "reduce-zero-label-forgotten", "reduce-zero-label-wrong", "reduce-zero-label-differs",
    "label-255-is-a-class", "label-palette-order", "labels-constant", "classes-differ",
    "class-not-in-json", "class-order",
)  # fmt: skip


def check_run(cfg: Config) -> None:
    """Check settings, weights, tokenizers and, quickly, the data that a run needs.

    Raises:
        CheckError: naming what would stop the run or certainly ruin it.
    """
    check_settings(cfg)
    check_parts(cfg)
    with explain(cfg, log=False):
        report = Report()
        check_weights(cfg, report)
        check_tokenizers(cfg, report)
        _check_quickly(cfg, LOADERS, report)


def check_data(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check the data of some dataloaders quickly: all lists of files, some label maps, no images.

    Raises:
        CheckError: naming what would stop a run or certainly ruin it.
    """
    _check_data_settings(cfg, loaders)
    with explain(cfg, log=False):
        _check_quickly(cfg, loaders, Report())


def check_settings(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check names and values of a config, and what a run with these data loaders needs.

    Raises:
        CheckError: a line for each fault.
    """
    unused = [key for loader in LOADERS if loader not in loaders for key in USED_WITH[loader]]
    check_values(cfg, unused)
    check_consistency(cfg, unused)


def _check_data_settings(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check the settings of data sets; the rest of the config may be missing."""
    used = (*loaders, *(key for loader in loaders for key in USED_WITH[loader] if "eval" in key))
    unused = [key for key in cfg if key not in used]
    check_values(cfg, unused)
    check_consistency(cfg, unused, complete=False)


def _check_quickly(cfg: Config, loaders: Sequence[str], report: Report) -> None:
    splits = read_splits(cfg, report, loaders)
    lists = _list_samples(cfg, splits, report, quick=True)
    records: dict[Job, Any] = {}
    for split in splits:
        if split.kind == "detection":
            detection.check_split(cfg, split, lists[split], quick=True)
        elif split.kind == "pairs":
            pairs.check_boxes_quickly(split, lists[split], _SIZE_SECONDS)
        elif split.step("LoadAnnotations") and "decode_head" in cfg.get("model", {}):
            jobs = [(read_label_map, s.label) for s in split.samples if s.label]
            read = read_files(jobs, _LABEL_SECONDS, _LABEL_MAPS)
            split.left_out = len(jobs) - len(read)
            records |= read
    _check_labels(cfg, splits, records)
    report.raise_stops(_advice(cfg))
    if is_first_rank():
        for finding in report.told_before_a_run():
            print(printable(f"warning: {finding.briefly()}"), file=sys.stderr)


def _advice(cfg: Config) -> str:
    """What a recipe needs, and how to see a run without it."""
    lines = [f"This recipe needs {needs}."] if (needs := _needed_data(cfg)) else []
    if demo := _demo(cfg):
        lines.append(f"To see a complete run now, on a CPU and without your own data: make {demo}")
    return "\n".join(lines)


def _needed_data(cfg: Config) -> str:
    """The data of a recipe; nothing where they are all in another folder that was given."""
    if root := given_root(cfg):
        tables = [dataset.get("ann_file") or "." for _, dataset in dataset_configs(cfg)]
        named = [x for t in tables for x in (t if isinstance(t, (list, tuple)) else [t])]
        files = [Path(root, x if isinstance(x, str) else ".") for x in named]
        if all(file.exists() for file in files):
            return ""
    return with_given_root(cfg, cfg.get("needs_data") or "")


def _demo(cfg: Config) -> str:
    """The demo that is nearest to a recipe."""
    model: Any = cfg.get("model") or {}
    kind = type_name(model) if "type" in model else ""
    if cfg.get("runner_type") == "mmonepeace.PretrainRunner":
        return ""
    if kind == "OnePeaceClassifier":
        return "audio-demo" if "audio" in model.backbone.get("modalities", ()) else "vqa-demo"
    demos = {"OnePeaceGrounder": "ground-demo", "OnePeaceRetriever": "pretrain-demo"}
    return demos.get(kind, "det-demo" if is_detection(cfg) else "demo")


def examine(cfg: Config, limit: int | None = None) -> Report:
    """Examine the data sets of a config, and the weights and tokenizers that its model needs.

    Args:
        cfg: the config.
        limit: read this many files of a split, drawn at random; None reads all.

    Returns:
        findings and histograms.

    Raises:
        CheckError: if the config names no data set that is installed, or no run can use it.
    """
    _check_data_settings(cfg)
    report = Report()
    if isinstance(cfg.get("model"), dict):
        check_weights(cfg, report)
        check_tokenizers(cfg, report)
    splits = read_splits(cfg, report)
    lists = _list_samples(cfg, splits, report)
    for split in splits:
        if split.kind == "segmentation":
            segmentation.check_unlisted(split, lists[split])
    coco.check_unlisted(_of_kind("detection", lists))
    for split in splits:
        total = len(split.samples)
        split.draw(limit)
        if split.left_out:
            split.add("sampled", limit=limit, total=total)
    jobs = {split: _jobs(split) for split in splits}
    records = read_files([job for some in jobs.values() for job in some])
    label_pairs = _check_labels(cfg, splits, records)
    ignored = segmentation.ignored_value(cfg)

    files: dict[str, list[FileInfo]] = {}
    labels: dict[str, Hashable] = {}
    for split in splits:
        own = [records[job] for job in jobs[split]]
        images = check_images(split, [r for r in own if isinstance(r, ImageInfo)])
        clips = pairs.check_audio(split, [r for r in own if isinstance(r, AudioInfo)])
        videos = pairs.check_videos(split, [r for r in own if isinstance(r, VideoInfo)])
        files.setdefault(split.name, []).extend([*images, *clips, *videos])
        if split.kind == "segmentation":
            readable = [pair for pair in label_pairs[split] if not pair.labels.error]
            label_maps.check_sizes(split, readable)
            section = label_maps.histogram(split, readable, ignored)
            labels |= {pair.sample.path: pair.labels.digest for pair in readable}
        elif split.kind == "detection":
            detection.check_split(cfg, split, lists[split], images)
            section = boxes.histogram(split, list(lists[split].values()))
            labels |= coco.contents(split, lists[split])
        elif split.kind == "pairs":
            section = pairs.check_tables(split, lists[split])
            pairs.check_boxes(split, lists[split], images)
        else:
            kinds = "their labels are of a kind that is not checked"
            section = Section(split.name, f"{len(images):,} images; {kinds}")
        report.sections.append(section)
    check_duplicates(files, labels, report)
    if not report.has(*_MISREAD):
        check_occurrence(splits, report)
    return report


def _jobs(split: Split) -> list[Job]:
    """What to read of a split."""
    readers = {
        info: {"audio": pairs.audio_reader(info), "video": pairs.video_reader(info)}
        for info in split.datasets
        if split.kind == "pairs"
    }
    jobs: list[Job] = []
    for sample in split.samples:
        own = readers.get(sample.dataset, {}).get(sample.label or "")
        alpha = next((s.get("alpha", "drop") for s in sample.dataset.steps("LoadImage")), "drop")
        jobs.append((own or image_reader(alpha), sample.path))
        if split.kind == "segmentation" and sample.label:
            jobs.append((read_label_map, sample.label))
    return jobs


def _list_samples(
    cfg: Config, splits: Sequence[Split], report: Report, quick: bool = False
) -> dict[Split, Any]:
    """Check the config, and fill splits with their samples whose files exist.

    Returns:
        what the lists of each split say: COCO files, rows of tables, all samples.
    """
    check_classes(cfg, splits, report)
    lists: dict[Split, Any] = {}
    for split in splits:
        if split.kind == "detection":
            lists[split] = coco.list_samples(split)
        elif split.kind == "segmentation":
            lists[split] = segmentation.list_samples(split)
        elif split.kind == "pairs":
            lists[split] = pairs.list_samples(split, quick)
        else:
            _list_others(split)
    detection.check_settings(cfg, _of_kind("detection", lists), report)
    segmentation.check_settings(cfg, list(_of_kind("segmentation", lists)), report)
    return lists


def _of_kind(kind: Kind, lists: dict[Split, Any]) -> dict[Split, Any]:
    return {split: some for split, some in lists.items() if split.kind == kind}


def _list_others(split: Split) -> None:
    for info, entries in split.read("dataset-unusable"):
        if not entries:
            split.add("no-images", error="the data set is empty", hint="")
        paths = [entry["img_path"] for entry in entries if "img_path" in entry]
        split.samples += [Sample(path, None, info) for path in paths]
    check_missing(split)


def _check_labels(
    cfg: Config, splits: Sequence[Split], records: dict[Job, Any]
) -> dict[Split, list[label_maps.LabelledImage]]:
    """Check the label maps that were read; those of each split of segmentation."""
    label_pairs = {s: label_maps.pair_up(s, records) for s in splits if s.kind == "segmentation"}
    values = {
        split.name: {value for pair in some for value in pair.labels.values}
        for split, some in label_pairs.items()
    }
    for split, some in label_pairs.items():
        ignored, limit = segmentation.ignored_value(cfg), cfg.get("max_broken", 0.05)
        label_values.check_labels(split, some, values, ignored, limit)
    return label_pairs
