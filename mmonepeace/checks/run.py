"""The two depths: what tools check before every run, and the full examination of the data."""

from collections.abc import Hashable, Sequence
from typing import Any

from mmengine.config import Config

from mmonepeace.checks import boxes, coco, detection, label_maps, pairs, segmentation
from mmonepeace.checks.classes import check_classes, check_occurrence
from mmonepeace.checks.config import LOADERS
from mmonepeace.checks.decoding import (
    AudioInfo,
    ImageInfo,
    Job,
    read_files,
    read_image,
    read_label_map,
)
from mmonepeace.checks.duplicates import File, check_duplicates
from mmonepeace.checks.errors import data_advice
from mmonepeace.checks.images import check_images, check_missing
from mmonepeace.checks.label_maps import LabelledImage
from mmonepeace.checks.report import Report, Section
from mmonepeace.checks.splits import Sample, Split, read_splits
from mmonepeace.checks.tokenizers import check_tokenizers
from mmonepeace.checks.weights import check_weights

_LABEL_SECONDS = 20.0  # to read label maps of a split before a run
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


# ----------------------------------------------------------------------------------------- quick


def check_run(cfg: Config) -> None:
    """Check weights, tokenizers and, quickly, the data that a run needs.

    Raises:
        CheckError: naming everything that would stop the run or spoil it for certain.
    """
    report = Report()
    check_weights(cfg, report)
    check_tokenizers(cfg, report)
    _check_quickly(cfg, LOADERS, report)
    report.raise_stops(data_advice(cfg))


def check_data(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check the data of some dataloaders quickly: all lists of files, some label maps, no images.

    Raises:
        CheckError: naming everything that would stop a run or spoil it for certain.
    """
    report = Report()
    _check_quickly(cfg, loaders, report)
    report.raise_stops(data_advice(cfg))


def _check_quickly(cfg: Config, loaders: Sequence[str], report: Report) -> None:
    splits = read_splits(cfg, report, loaders)
    listings = _list_samples(cfg, splits, report, quick=True)
    records: dict[Job, Any] = {}
    for split in splits:
        if split.kind == "detection":
            detection.check_split(split, listings[split], report, quick=True)
        elif split.step("LoadAnnotations") and cfg.model.get("decode_head"):
            jobs = [(read_label_map, s.label) for s in split.samples if s.label]
            read = read_files(jobs, _LABEL_SECONDS)
            split.left_out = len(jobs) - len(read)
            records |= read
    _check_labels(cfg, splits, records, report)


# ------------------------------------------------------------------------------------------ full


def examine(cfg: Config, limit: int | None = None) -> Report:
    """Examine the data sets of a config.

    Args:
        cfg: the config.
        limit: read so many files of a split, drawn at random; None reads all.

    Returns:
        findings and histograms.

    Raises:
        CheckError: if the config names no data set that is installed.
    """
    report = Report()
    splits = read_splits(cfg, report)
    listings = _list_samples(cfg, splits, report)
    _check_unlisted(splits, listings, report)
    for split in splits:
        total = len(split.samples)
        split.draw(limit)
        if split.left_out:
            report.add("sampled", split.name, limit=limit, total=total)
    jobs = {split: _jobs(split) for split in splits}
    records = read_files([job for some in jobs.values() for job in some])
    label_pairs = _check_labels(cfg, splits, records, report)

    files: dict[str, list[File]] = {}
    labels: dict[str, Hashable] = {}
    for split in splits:
        own = [records[job] for job in jobs[split]]
        images = check_images(split, [r for r in own if isinstance(r, ImageInfo)], report)
        clips = pairs.check_audio(split, [r for r in own if isinstance(r, AudioInfo)], report)
        files.setdefault(split.name, []).extend([*images, *clips])
        if split.kind == "segmentation":
            readable = [pair for pair in label_pairs[split] if not pair.labels.error]
            label_maps.check_sizes(split.name, readable, report)
            ignored = segmentation.ignored_value(cfg)
            section = label_maps.histogram(split, readable, ignored)
            labels |= {pair.sample.path: pair.labels.digest for pair in readable}
        elif split.kind == "detection":
            detection.check_split(split, listings[split], report, images)
            section = boxes.histogram(split, list(listings[split].values()), report)
            labels |= coco.contents(split, listings[split])
        elif split.kind == "pairs":
            section = pairs.check_tables(split, listings[split], report)
        else:
            kinds = "their labels are of a kind that is not checked"
            section = Section(split.name, f"{len(images):,} images; {kinds}")
        report.sections.append(section)
    check_duplicates(files, labels, report)
    if not report.has(*_MISREAD):
        bins = {s.split: s.bins for s in report.sections if any(b.amount for b in s.bins)}
        check_occurrence(bins, {s.name: bool(s.left_out) for s in splits}, report)
    return report


# ---------------------------------------------------------------------------------- both of them


def _list_samples(
    cfg: Config, splits: Sequence[Split], report: Report, quick: bool = False
) -> dict[Split, Any]:
    """Check the config, and fill splits with their samples whose files exist.

    Returns:
        what else the lists of each split say.
    """
    check_classes(cfg, splits, report)
    listings: dict[Split, Any] = {}
    for split in splits:
        if split.kind == "detection":
            listings[split] = coco.list_samples(split, report)
        elif split.kind == "segmentation":
            listings[split] = segmentation.list_samples(split, report)
        elif split.kind == "pairs":
            listings[split] = pairs.list_samples(split, report, quick)
        else:
            _list_others(split, report)
    detection.check_settings(
        cfg, {s: listing for s, listing in listings.items() if s.kind == "detection"}, report
    )
    segmentation.check_settings(cfg, [s for s in splits if s.kind == "segmentation"], report)
    return listings


def _list_others(split: Split, report: Report) -> None:
    for info in split.datasets:
        if not info.has_folders(split.name, report):
            continue
        try:
            entries = info.built.load_data_list()
        except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
            report.add("dataset-unusable", split.name, type=info.cfg.type, error=error)
            continue
        if not entries:
            report.add("no-images", split.name, problem="the data set is empty", hint="")
        paths = [entry["img_path"] for entry in entries if "img_path" in entry]
        split.samples += [Sample(path, None, info) for path in paths]
    check_missing(split, report)


def _check_unlisted(splits: Sequence[Split], listings: dict[Split, Any], report: Report) -> None:
    for split in splits:
        if split.kind == "segmentation":
            segmentation.check_unlisted(split, listings[split], report)
    documents = {split: listings[split] for split in splits if split.kind == "detection"}
    coco.check_unlisted(documents, report)


def _jobs(split: Split) -> list[Job]:
    """What to read of a split."""
    readers = {i: pairs.audio_reader(i) for i in split.datasets if split.kind == "pairs"}
    jobs: list[Job] = []
    for sample in split.samples:
        is_audio = split.kind == "pairs" and sample.label == "audio"
        jobs.append((readers[sample.dataset] if is_audio else read_image, sample.path))
        if split.kind == "segmentation" and sample.label:
            jobs.append((read_label_map, sample.label))
    return jobs


def _check_labels(
    cfg: Config, splits: Sequence[Split], records: dict[Job, Any], report: Report
) -> dict[Split, list[LabelledImage]]:
    """Check the label maps that were read; those of each split of segmentation."""
    label_pairs = {s: label_maps.pair_up(s, records) for s in splits if s.kind == "segmentation"}
    values = {
        split.name: {value for pair in some for value in pair.labels.values}
        for split, some in label_pairs.items()
    }
    ignored = segmentation.ignored_value(cfg)
    for split, some in label_pairs.items():
        trusted = label_maps.check_labels(split, some, values, ignored, report)
        if all(pair.image for pair in trusted):
            label_maps.check_contents(split.name, trusted, ignored, report)
    return label_pairs
