"""Data sets in COCO's layout: what would end a run of detection late, or spoil it unnoticed."""

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmonepeace.checks.errors import CheckError, data_help

_SECTIONS = ("images", "annotations", "categories")
_KEYS = ("id", "image_id", "category_id", "bbox", "area")  # mmdet reads these of each annotation


def check_coco(cfg: Config, loader: str, dataset: Any, dataset_cfg: ConfigDict) -> None:
    """Check the json file of a data set, its classes, pictures, boxes and masks.

    Args:
        cfg: of the run.
        loader: name of the dataloader.
        dataset: built, not read yet.
        dataset_cfg: what it is built from.

    Raises:
        CheckError: naming the file and what to do.
    """
    path, folder = Path(dataset.ann_file), dataset.data_prefix.get("img")
    if folder is None:
        raise CheckError(
            f"{loader}: data_prefix has no img, the folder of the pictures. Set it, such as "
            "data_prefix=dict(img='train')."
        )
    if not path.is_file():
        raise CheckError(f"{loader}: annotation file {path} does not exist.\n{data_help(cfg)}")
    if cfg[loader].dataset == dataset_cfg:  # not one of several
        _check_metrics(cfg, loader, path)
    where = f"{loader}: {path}"
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckError(f"{where} cannot be read ({error}). Replace the file.") from None
    lacking = [name for name in _SECTIONS if not isinstance(data, dict) or name not in data]
    if lacking:
        raise CheckError(
            f"{where} has no {' and no '.join(lacking)}. COCO's layout has lists of "
            f"{', '.join(_SECTIONS)}."
        )
    try:
        _check_categories(where, data["categories"], dataset.metainfo["classes"])
        _check_pictures(where, data["images"], Path(folder), cfg)
        _check_annotations(where, data, dataset.metainfo["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckError(
            f"{where} is not in COCO's layout ({type(error).__name__}: {error})."
        ) from None
    if any(step.get("with_mask") for step in dataset_cfg.get("pipeline") or ()):
        _check_masks(where, data["annotations"])
    elif loader == "train_dataloader" and has_mask_head(cfg.model):
        raise CheckError(
            f"{loader}: model has a mask_head, but LoadAnnotations loads no masks. Set "
            "with_mask=True in the pipeline, or mask_head=None in the model."
        )


def _check_metrics(cfg: Config, loader: str, path: Path) -> None:
    """Check that the metrics of a loader compare with its own annotations."""
    evaluator = loader.replace("dataloader", "evaluator")
    metrics = cfg.get(evaluator) or []
    for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
        compared = metric.get("ann_file")
        if compared and Path(compared).resolve() != path.resolve():
            raise CheckError(
                f"{evaluator}.ann_file is {compared}, but the annotations of {loader} are {path}. "
                "They must be the same file."
            )
        wanted = metric.get("metric") or []
        no_masks = "roi_head" in cfg.model and not has_mask_head(cfg.model)
        if no_masks and "segm" in ([wanted] if isinstance(wanted, str) else wanted):
            raise CheckError(
                f"{evaluator}.metric has 'segm', but the model has no mask_head. Set "
                f"{evaluator}.metric=bbox."
            )


def has_mask_head(model: ConfigDict) -> bool:
    """Whether a detector of mmdet predicts masks."""
    heads = (model, model.get("roi_head") or {})
    return any(h.get(name) for h in heads for name in ("mask_head", "panoptic_head"))


def _check_categories(where: str, categories: list[dict[str, Any]], classes: Any) -> None:
    names = [category["name"] for category in categories]
    absent = [name for name in classes if name not in names]
    if absent:
        raise CheckError(
            f"{where} has no category {', '.join(map(repr, absent[:5]))}. Its categories are "
            f"{', '.join(map(repr, names[:100]))}. Set classes in metainfo of the data sets, and "
            "num_classes of the heads."
        )
    # mmdet numbers the classes in the order of the file, whatever their order in the config.
    ordered = tuple(name for name in names if name in classes)
    if ordered != tuple(classes):
        raise CheckError(
            f"{where} has its categories in another order than the classes of the config: boxes "
            f"would get wrong names. Set metainfo=dict(classes={ordered}) in the data sets."
        )


def _check_pictures(where: str, images: list[dict[str, Any]], folder: Path, cfg: Config) -> None:
    if not images:
        raise CheckError(f"{where} has no images.\n{data_help(cfg)}")
    paths = [folder / image["file_name"] for image in images if "file_name" in image]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise CheckError(
            f"{where}: {len(missing)} of {len(images)} images do not exist; the first is "
            f"{missing[0]}. Check data_root and data_prefix.\n{data_help(cfg)}"
        )


def _check_annotations(where: str, data: dict[str, Any], classes: Any) -> None:
    wanted = {c["id"] for c in data["categories"] if c["name"] in classes}
    images = {image["id"] for image in data["images"]}
    seen: set[int] = set()
    boxes = 0
    for i, annotation in enumerate(data["annotations"]):
        lacking = [key for key in _KEYS if key not in annotation]
        if lacking:
            raise CheckError(
                f"{where}: annotation {annotation.get('id', f'number {i}')} has no "
                f"{', '.join(lacking)}. Each needs {', '.join(_KEYS)}; area is that of the mask, "
                "or of the box."
            )
        if annotation["id"] in seen:
            raise CheckError(
                f"{where}: two annotations have the id {annotation['id']}. Number them anew."
            )
        seen.add(annotation["id"])
        _, _, width, height = annotation["bbox"]
        # What mmdet drops, it drops in silence.
        boxes += (
            annotation["category_id"] in wanted
            and annotation["image_id"] in images
            and min(width, height) >= 1
            and annotation["area"] > 0
        )
    if not boxes:
        raise CheckError(
            f"{where}: none of {len(data['annotations'])} annotations is a box, at least one pixel "
            "wide and high, of the classes and images of the file. Boxes are x, y, width, height "
            "in pixels."
        )


def _check_masks(where: str, annotations: list[dict[str, Any]]) -> None:
    without = [a["id"] for a in annotations if not a.get("segmentation")]
    if without:
        raise CheckError(
            f"{where}: {len(without)} of {len(annotations)} annotations have no segmentation; the "
            f"first is {without[0]}. Take a recipe without masks, or with_mask=False in the "
            "pipeline, mask_head=None in the model and metric=bbox."
        )
