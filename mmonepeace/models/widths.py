"""What a config may leave out because the backbone decides it: widths of necks and heads.

Another size of model is then one change, of `backbone.arch`. What a config gives is kept, if it fits.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from inspect import isclass, signature
from typing import Any

from mmonepeace.models.necks import PYRAMID_CHANNELS
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS
from mmonepeace.spec import get_arch

_HEADS = ("decode_head", "auxiliary_head", "rpn_head", "bbox_head", "panoptic_head", "head")
_FILLED = ("backbone", "neck", "roi_head", *_HEADS)
# Known necks: the option that is the width of the backbone.
_NECK_INPUTS = {"Feature2Pyramid": "embed_dim", "SimpleFeaturePyramid": "in_channels"}
# Blocks whose maps a decoder takes, by depth: BEiT's. Of other depths, the giant's too, the last
# one of each quarter.
_OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
_HEAD_DIM = 32  # of the attention of Mask2Former, in all published sizes
_NO_OBJECT_WEIGHT = 0.1  # of Mask2Former's classification loss


def fill_widths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the widths that a model's config leaves out.

    Where the backbone is a `OnePeace`, or a subclass:

    - `embed_dim` of a `Feature2Pyramid` and `in_channels` of a `SimpleFeaturePyramid`;
    - `in_channels` of heads, of the heads in a `roi_head`, and `out_channels` of its extractors;
    - `out_indices` of an `OnePeace`, if a segmentor's head takes four maps.

    With any backbone, what follows from `feat_channels` and `num_classes` of a Mask2Former head.

    Args:
        config: constructor arguments of a segmentor, detector or classifier, as config dicts.

    Returns:
        the arguments, those that are filled in as copies.

    Raises:
        ValueError: for a width that does not fit.
    """
    config = {k: deepcopy(v) if k in _FILLED else v for k, v in config.items()}
    heads = [(name, head) for name in _HEADS for head in _listed(config.get(name))]
    for _, head in heads:
        if "pixel_decoder" in head:
            _fill_mask2former(head)
    backbone, neck = config["backbone"], config.get("neck")
    cls = _class_of(backbone)
    if cls is None:
        return config
    arch = get_arch(backbone.get("arch", signature(cls).parameters["arch"].default))
    width, source = arch.embed_dim, "the backbone"
    if cls is OnePeace and "out_indices" not in backbone and _takes_four_maps(config):
        quarters = [arch.depth * i // 4 - 1 for i in (1, 2, 3, 4)]
        backbone["out_indices"] = _OUT_INDICES.get(arch.depth, quarters)
    if neck:
        width, source = _fill_neck(neck, width), "the neck"
    if width is None:
        return config
    for name, head in heads:
        _set_width(head, "in_channels", width, name, source, _num_maps(head))
    if config.get("roi_head"):
        _fill_roi_head(config["roi_head"], width, source)
    return config


def _class_of(backbone: Mapping[str, Any]) -> type[OnePeace] | None:
    """The class of a backbone, if it is one of ours."""
    kind = backbone["type"]
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return cls if isclass(cls) and issubclass(cls, OnePeace) else None


def _takes_four_maps(config: Mapping[str, Any]) -> bool:
    head, neck = config.get("decode_head"), config.get("neck")
    one_to_many = bool(neck) and _name(neck) == "SimpleFeaturePyramid"
    return isinstance(head, Mapping) and _num_maps(head) == 4 and not one_to_many


def _num_maps(head: Mapping[str, Any]) -> int:
    """Maps that a head takes as a list; 0 for one that takes a single one, or all alike."""
    if "pixel_decoder" in head:
        return len(head.get("strides", (4, 8, 16, 32)))
    indices = head.get("in_index")
    return len(indices) if isinstance(indices, (list, tuple)) else 0


def _fill_neck(neck: Any, width: int) -> int | None:
    """Fill in a neck; returns the width of its maps, None if that is not known."""
    if not isinstance(neck, Mapping):  # several, in a row
        return None
    name = _name(neck)
    if name in _NECK_INPUTS:
        _set_width(neck, _NECK_INPUTS[name], width, "neck", "the backbone")
    default = {"Feature2Pyramid": width, "SimpleFeaturePyramid": PYRAMID_CHANNELS}.get(name)
    channels = neck.get("out_channels", default)
    return channels if isinstance(channels, int) else None


def _fill_roi_head(roi_head: Mapping[str, Any], width: int, source: str) -> None:
    extractors = ("bbox_roi_extractor", "mask_roi_extractor")
    for name in extractors:
        for extractor in _listed(roi_head.get(name)):
            _set_width(extractor, "out_channels", width, f"roi_head.{name}", source)
            if extractor.get("aggregation") == "concat":
                return
    if "shared_head" in roi_head:
        return
    for name in ("bbox_head", "mask_head"):
        for head in _listed(roi_head.get(name)):
            _set_width(head, "in_channels", width, f"roi_head.{name}", source)


def _fill_mask2former(head: dict[str, Any]) -> None:
    """Fill in what follows from the channels and classes of a Mask2Former head."""
    width = head["feat_channels"]
    head.setdefault("out_channels", width)
    for name, part in _walk(head):
        if name.endswith("attn_cfg"):
            part.setdefault("embed_dims", width)
            part.setdefault("num_heads", width // _HEAD_DIM)
        elif name == "ffn_cfg":
            part.setdefault("embed_dims", width)
        elif name == "positional_encoding":
            part.setdefault("num_feats", width // 2)
        elif name == "loss_cls":
            things = head.get("num_things_classes", 0) + head.get("num_stuff_classes", 0)
            weights = [1.0] * head.get("num_classes", things) + [_NO_OBJECT_WEIGHT]
            part.setdefault("class_weight", weights)


def _set_width(
    part: dict[str, Any], key: str, width: int, path: str, source: str, count: int = 0
) -> None:
    """Set a width, or a list of `count`; check it if there is one."""
    given = part.setdefault(key, [width] * count if count else width)
    if any(other != width for other in _listed(given)):
        raise ValueError(
            f"{path}.{key} is {given}, but {source} has {width} channels. Leave it out, or set it "
            f"to {width}."
        )


def _walk(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, dict) of every dict below a node of a config."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield key, value
            yield from _walk(value)


def _name(part: Mapping[str, Any]) -> str:
    kind = part["type"]
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def _listed(node: Any) -> list[Any]:
    if node is None:
        return []
    return list(node) if isinstance(node, (list, tuple)) else [node]
