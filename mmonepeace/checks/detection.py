"""Detection: check that COCO files match the images, the model and the metrics of a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmonepeace.checks.boxes import Boxes, check_boxes, check_kept, check_repeats, image_sizes
from mmonepeace.checks.coco import Files
from mmonepeace.checks.config import metric_configs
from mmonepeace.checks.decoding import ImageInfo
from mmonepeace.checks.heads import has_mask_head
from mmonepeace.checks.masks import check_fit, check_forms
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import DatasetInfo, Split


def check_settings(cfg: Config, files: Mapping[Split, Files], report: Report) -> None:
    """Check that model, pipelines and metrics agree about masks and annotation files."""
    model = cfg.get("model") or {}
    masks = has_mask_head(model)
    for split in files:
        loaded = any(map(_loads_masks, split.datasets))
        if split.name == "train" and masks and not loaded:
            report.add("masks-not-loaded", "config")
    for evaluator, metric in metric_configs(cfg):
        if files and "roi_head" in model and not masks and "segm" in _wanted(metric):
            report.add("metric-without-masks", "config", evaluator=evaluator)
        name = evaluator.removesuffix("_evaluator")
        own = {
            Path(coco.path).resolve(): coco.path
            for split, documents in files.items()
            if name in split.name.split(" and ")
            for coco in documents.values()
        }
        path = metric.get("ann_file")
        if own and path and Path(path).resolve() not in own:
            options = {"evaluator": evaluator, "path": path, "own": next(iter(own.values()))}
            report.add("evaluator-ann-file", "config", **options)


def _loads_masks(info: DatasetInfo) -> bool:
    return any(step.get("with_mask") for step in info.steps("LoadAnnotations"))


def _wanted(metric: ConfigDict) -> Sequence[str]:
    """What a metric compares, such as "segm"."""
    wanted = metric.get("metric") or ()
    return (wanted,) if isinstance(wanted, str) else wanted


def check_split(
    cfg: Config,
    split: Split,
    files: Files,
    images: Sequence[ImageInfo] = (),
    quick: bool = False,
) -> None:
    """Check boxes and masks of a split against each other and the images that were read.

    `quick` leaves out what takes long and stops no run: repeated boxes, where masks are.
    """
    sizes = image_sizes(split, files, images)
    compared = any(
        evaluator.removesuffix("_evaluator") in split.name.split(" and ")
        and "segm" in _wanted(metric)
        for evaluator, metric in metric_configs(cfg)
    )
    valid = []
    for info, coco in files.items():
        boxes, needed = Boxes(coco, sizes[coco]), compared or _loads_masks(info)
        usable = check_forms(split, boxes, needed)
        if check_boxes(split, boxes):
            valid.append(boxes)
            if not quick:
                check_repeats(split, coco)
                check_fit(split, boxes, usable, needed)
    if files and len(valid) == len(files):
        check_kept(split, valid)
