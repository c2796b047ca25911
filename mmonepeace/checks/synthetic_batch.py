"""A batch of a recipe's kind and sizes, without its data."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from mmonepeace.checks.config import dataset_configs, type_name, walk
from mmonepeace.checks.report import CheckError
from mmonepeace.spec import (
    MAX_AUDIO_SECONDS,
    MAX_TEXT_TOKENS,
    PRETRAIN_IMG_SIZE,
    SAMPLE_RATE,
    VOCAB_SIZE,
)

_BOXES = 8  # in an image; COCO has 7 on average
_CLASSES = 10  # in an image; ADE20K has 10.5 on average
# Of transforms that give an image its size, the keys that have it.
_SIZES = ("crop_size", "size", "scale")


def batch_size_of(cfg: Config) -> int:
    """Samples that a process of a recipe computes at a time."""
    micro = (cfg.get("train_cfg") or {}).get("micro_batch_size")
    return int(micro or cfg.train_dataloader.batch_size)


def synthetic_batch(
    cfg: Config, model: BaseModel, image_size: int | None, batch_size: int | None
) -> dict[str, Any]:
    """What the model's preprocessor makes of samples that the recipe's data sets could give.

    Texts and clips are as long as the recipe lets them be, and nothing is padding.

    Args:
        cfg: the recipe.
        model: of it, on any device.
        image_size: side of images in pixels; None: as the recipe crops them.
        batch_size: samples; None: the recipe's.

    Raises:
        CheckError: if nothing says how large images are.
    """
    count = batch_size_of(cfg) if batch_size is None else batch_size
    steps = list(walk(next(dataset_configs(cfg))[1].get("pipeline")))
    modalities = cfg.model.get("backbone", {}).get("modalities")
    if modalities or (steps and type_name(steps[-1]) == "PackModalities"):
        names = list(modalities or ["image"])
        samples = [_multimodal(cfg, steps, names, image_size) for _ in range(count)]
    else:
        samples = [_image(cfg, steps, image_size) for _ in range(count)]
    keys = samples[0].keys()
    joined = {key: _joined([sample[key] for sample in samples]) for key in keys}
    return _preprocessor(model)(joined, True)


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _joined([value[key] for value in values]) for key in values[0]}
    return values


def _preprocessor(model: BaseModel) -> Callable[..., Any]:
    """The model's own, with numbers: the model has none."""
    found = copy.deepcopy(model.data_preprocessor)
    for module in found.modules():
        for key, x in module._buffers.items():
            if x is not None and x.is_meta:
                module._buffers[key] = torch.ones_like(x, device="cpu")
    return found


def _image(cfg: Config, steps: list[Any], image_size: int | None) -> dict[str, Any]:
    height, width = _image_size(cfg, steps) if image_size is None else (image_size, image_size)
    if type_name(steps[-1]) == "PackInputs":  # of mmpretrain, whose mixing needs its own samples
        array = np.zeros((height, width, 3), np.uint8)
        return TRANSFORMS.build(copy.deepcopy(steps[-1]))({"img": array, "gt_label": 0})
    shape = (height, width)
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    targets: dict[str, Any] = {}
    if "decode_head" in cfg.model:
        targets["gt_sem_seg"] = PixelData(data=_stripes(cfg, height, width))
    else:
        targets["gt_instances"] = _instances(height, width)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return {"inputs": image, "data_samples": BaseDataElement(metainfo=meta, **targets)}


def _stripes(cfg: Config, height: int, width: int) -> Tensor:
    """(1, H, W) labels of as many classes as an image has."""
    heads = cfg.model.decode_head
    head = heads[-1] if isinstance(heads, list | tuple) else heads
    count = min(_CLASSES, head.get("num_classes", _CLASSES), width)
    return (torch.arange(width) * count // width).expand(1, height, width).contiguous()


def _instances(height: int, width: int) -> InstanceData:
    corners = torch.tensor([width, height]) * torch.rand(_BOXES, 2, 2).sort(1).values
    return InstanceData(bboxes=corners.flatten(1), labels=torch.zeros(_BOXES, dtype=torch.int64))


def _image_size(cfg: Config, steps: list[Any]) -> tuple[int, int]:
    """Height and width of the images of a recipe."""
    for step in reversed(steps):
        for key in _SIZES:
            if size := _largest(step.get(key)):
                turned = _is_width_first(cfg.get("default_scope"), type_name(step), key)
                return size[::-1] if turned else size
    if size := (cfg.model.get("backbone") or {}).get("img_size"):
        return int(size), int(size)
    raise CheckError("the recipe does not say how large its images are. Give --img PIXELS.")


def _largest(size: Any) -> tuple[int, int] | None:
    """Two sides of a number, a pair, or the largest of several pairs; None for what is no size."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, list | tuple) or not size:
        return None
    if all(isinstance(side, list | tuple) for side in size):
        found = [pair for each in size if (pair := _largest(each))]
        return max(found, key=math.prod, default=None)
    if len(size) == 2 and all(isinstance(side, int) for side in size):
        return int(size[0]), int(size[1])
    return None


def _is_width_first(scope: str | None, kind: str, key: str) -> bool:
    """Whether the pair of a transform is (width, height): of all that resizes or pads, and some crops."""
    if key == "crop_size":
        return kind == "CenterCrop" or (scope == "mmdet" and kind == "RandomCrop")
    return kind == "Pad" if key == "size" else not kind.endswith("Crop")


def _multimodal(
    cfg: Config, steps: list[Any], modalities: list[str], image_size: int | None
) -> dict[str, Any]:
    by_type = {type_name(step): step for step in steps}
    model = cfg.model
    inputs: dict[str, Any] = {}
    if "Tokenize" in by_type:
        length = by_type["Tokenize"].get("max_length", MAX_TEXT_TOKENS) + 1
        texts = [_text(cfg, length) for _ in range(model.get("num_candidates", 1))]
        inputs["text"] = texts if len(texts) > 1 else texts[0]
    if "LoadImage" in by_type:
        side = image_size or by_type["LoadImage"].get("size", 256)
        height, width = (side, side) if isinstance(side, int) else side
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        inputs["image"] = image
        if any(step.get("second") for step in steps):
            inputs["image_2"] = image
    if "LoadVideo" in by_type:
        step = by_type["LoadVideo"]
        side = image_size or step.get("size", PRETRAIN_IMG_SIZE)
        inputs["video"] = torch.zeros(step.get("num_frames", 16), 3, side, side, dtype=torch.uint8)
    if "LoadAudio" in by_type:
        given = by_type.get("PerturbAudio", by_type["LoadAudio"])
        seconds = given.get("max_seconds", MAX_AUDIO_SECONDS) or MAX_AUDIO_SECONDS
        inputs["audio"] = torch.zeros(math.ceil(seconds * SAMPLE_RATE))
    results: dict[str, Any] = {"inputs": inputs, "sample_idx": 0}
    if "MaskTokens" in by_type:
        starts = torch.ones(_vocabulary(cfg), dtype=torch.bool)
        options = {**by_type["MaskTokens"], "tokenizer": SimpleNamespace(is_word_start=starts)}
        results["seed"] = (0,)
        results = TRANSFORMS.build(options)(results)
    targets: dict[str, Any] = {}
    kind = type_name(model)
    if kind == "OnePeaceGrounder":
        targets["gt_box"] = torch.tensor([0.2, 0.2, 0.6, 0.6])
    elif kind in ("OnePeaceClassifier", "OnePeaceVideoClassifier"):
        classes = model.head.num_classes
        if type_name(model.get("loss") or dict(type="ClassLoss")) == "MultiLabelLoss":
            targets["gt_score"] = torch.zeros(classes)
        else:
            targets["gt_label"] = torch.tensor(0)
    meta = dict(text="", img_path="", ori_shape=(1, 1))
    sample = {"inputs": inputs, "data_samples": BaseDataElement(metainfo=meta, **targets)}
    return {**sample, "keeps": results["keeps"]} if "keeps" in results else sample


def _vocabulary(cfg: Config) -> int:
    modalities = cfg.model.backbone.modalities
    options = modalities.get("text", {}) if isinstance(modalities, dict) else {}
    return int(options.get("vocab_size", VOCAB_SIZE))


def _text(cfg: Config, length: int) -> Tensor:
    # No padding, whose number is 1; the last token is the end of the text.
    ids = torch.full((length,), min(4, _vocabulary(cfg) - 1))
    ids[-1] = 2
    return ids
