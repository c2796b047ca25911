"""The whole examination: what a config names is read once and goes through the checks of its kind."""

import random
from collections.abc import Hashable
from typing import Any

from mmengine.config import Config

from mmonepeace.checks import boxes, coco, pairs, segmentation
from mmonepeace.checks.classes import check_config, check_occurrence
from mmonepeace.checks.decoding import (
    Job,
    Picture,
    Sound,
    read_label_map,
    read_picture,
    scan,
)
from mmonepeace.checks.images import (
    Record,
    check_duplicates,
    check_missing,
    check_pictures,
)
from mmonepeace.checks.label_maps import check_label_maps
from mmonepeace.checks.report import Bin, Report, Section
from mmonepeace.checks.splits import Sample, Split, read_splits

# With these, how often classes occur says nothing more.
_MISREAD = (
    "reduce-zero-label-forgotten",
    "reduce-zero-label-wrong",
    "reduce-zero-label-differs",
    "label-255-is-a-class",
    "label-palette-order",
    "labels-constant",
    "classes-differ",
    "class-not-in-json",
    "class-order",
)


def examine(cfg: Config, limit: int | None = None) -> Report:
    """Examine the data sets of a config.

    Args:
        cfg: the config.
        limit: look at so many files of a split, drawn at random; None looks at all.

    Returns:
        findings and histograms.

    Raises:
        CheckError: if the config names no data set that is installed.
    """
    report = Report()
    splits = read_splits(cfg, report)
    check_config(cfg, splits, report)
    listed = {split: _list_samples(split, report) for split in splits}
    for split in splits:
        if limit is not None and len(split.samples) > limit:
            _draw(split, limit, report)
    jobs = {split: _jobs(split) for split in splits}
    found = scan([job for some in jobs.values() for job in some])

    labelled = [split for split in splits if split.kind == "segmentation"]
    rows = {split: segmentation.rows_of(split, found) for split in labelled}
    numbers = {
        split: {value for row in some for value in row.labels.values}
        for split, some in rows.items()
    }
    if labelled:
        segmentation.check_settings(cfg, labelled, report)
    documents = {split: listed[split] for split in splits if split.kind == "detection"}
    coco.check_folders(documents, report)
    coco.check_evaluators(cfg, documents, report)

    bins: dict[str, tuple[Bin, ...]] = {}
    readable: dict[str, list[Record]] = {}
    labels: dict[str, Hashable] = {}
    for split in splits:
        records = [found[job] for job in jobs[split]]
        pictures = [record for record in records if isinstance(record, Picture)]
        pictures = check_pictures(split, pictures, report)
        readable.setdefault(split.name, []).extend(pictures)
        if split.kind == "segmentation":
            whole = [row for row in rows[split] if not row.picture.error]
            ignored = segmentation.ignored_number(cfg)
            bins[split.name] = check_label_maps(split, whole, numbers, ignored, report)
            labels |= {r.picture.path: r.labels.digest for r in whole if not r.labels.error}
        elif split.kind == "detection":
            bins[split.name] = boxes.check_split(split, documents[split], pictures, report)
            labels |= coco.contents(split, documents[split])
        elif split.kind == "pairs":
            sounds = [record for record in records if isinstance(record, Sound)]
            readable[split.name] += pairs.check_sounds(split, sounds, report)
            bins[split.name] = listed[split]
        else:
            summary = f"{len(pictures):,} pictures; their labels are of a kind that is not checked"
            report.sections.append(Section(split.name, summary))
    check_duplicates(readable, labels, report)
    if not report.has(*_MISREAD):
        counted = {name: some for name, some in bins.items() if any(b.amount for b in some)}
        check_occurrence(counted, {s.name: bool(s.left_out) for s in splits}, report)
    return report


def _list_samples(split: Split, report: Report) -> Any:
    """Fill a split with its samples whose files are there; what else its tables say."""
    if split.kind == "detection":
        return coco.list_samples(split, report)
    if split.kind == "segmentation":
        segmentation.list_samples(split, report)
    elif split.kind == "pairs":
        return pairs.list_samples(split, report)
    else:
        for part in split.parts:
            try:
                entries = part.dataset.load_data_list()
            except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
                report.add("dataset-unusable", split.name, f"{part.cfg.type} says: {error}")
                continue
            paths = [entry["img_path"] for entry in entries if "img_path" in entry]
            split.samples += [Sample(path, None, part) for path in paths]
        check_missing(split, report)
    return None


def _draw(split: Split, limit: int, report: Report) -> None:
    """Leave some samples in a split."""
    total = len(split.samples)
    chosen = sorted(random.Random(0).sample(range(total), limit))
    split.samples = [split.samples[i] for i in chosen]
    split.left_out = total - limit
    report.add("sampled", split.name, f"{limit:,} of {total:,} files were looked into")


def _jobs(split: Split) -> list[Job]:
    """What to read of a split."""
    sounds = {part: pairs.sound_reader(part) for part in split.parts if split.kind == "pairs"}
    jobs: list[Job] = []
    for sample in split.samples:
        heard = split.kind == "pairs" and sample.label == "audio"
        jobs.append((sounds[sample.part] if heard else read_picture, sample.path))
        if split.kind == "segmentation" and sample.label:
            jobs.append((read_label_map, sample.label))
    return jobs
