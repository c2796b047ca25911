"""What a config may leave out because the backbone determines it: widths of necks and heads.

Another size of model is then one change, of `backbone.arch`. What a config gives is kept and checked.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from inspect import isclass, signature
from typing import Any

from mmonepeace.layers.adapters.image import overlapping_widths
from mmonepeace.models.necks import PYRAMID_CHANNELS
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS
from mmonepeace.spec import get_arch

_HEADS = ("decode_head", "auxiliary_head", "rpn_head", "bbox_head", "panoptic_head", "head")
_FILLED = ("backbone", "neck", "roi_head", *_HEADS)
# Blocks whose maps a segmentor takes, by depth, as BEiT does. Other depths, the giant's among them:
# the last block of each quarter.
_OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
# Of Mask2Former in its published sizes.
_CHANNELS_PER_ATTENTION_HEAD = 32
_NO_OBJECT_WEIGHT = 0.1


def fill_widths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the widths that a model's config leaves out.

    With an `OnePeace`, or a subclass, as the backbone:

    - `embed_dim` of a `Feature2Pyramid`, `in_channels` of a `SimpleFeaturePyramid`;
    - `in_channels` of heads, those of a `roi_head` included, and `out_channels` of its extractors;
    - with `stem_maps`, `in_channels` of an `FPN`;
    - `out_indices` of an `OnePeace`, if the decode head takes four maps.

    With any backbone, what follows from `feat_channels` and the classes of a Mask2Former head.

    `config` has the constructor arguments of a segmentor, detector or classifier, as config dicts;
    those that come back with widths are copies. A ValueError says which width does not fit.
    """
    config = {key: deepcopy(v) if key in _FILLED else v for key, v in config.items()}
    heads = [(name, head) for name in _HEADS for head in _listed(config.get(name))]
    for _, head in heads:
        if "pixel_decoder" in head:
            _fill_mask2former(head)
    backbone, neck = config["backbone"], config.get("neck")
    cls = _class_of(backbone)
    if cls is None:
        return config
    arch = get_arch(backbone.get("arch", signature(cls).parameters["arch"].default))
    maps = _map_widths(backbone, arch.embed_dim)
    takes_four_blocks = cls is OnePeace and not maps and _takes_four_maps(config)
    if takes_four_blocks and "out_indices" not in backbone:
        quarters = tuple(arch.depth * i // 4 - 1 for i in (1, 2, 3, 4))
        backbone["out_indices"] = _OUT_INDICES.get(arch.depth, quarters)
    elif takes_four_blocks:
        indices = backbone["out_indices"]
        if isinstance(indices, int) or len(indices) != 4:
            raise ValueError(
                f"backbone.out_indices is {indices}, but the decode head takes four maps. Name four "
                "blocks, or leave it out."
            )
    width: int | list[int] | None = maps or arch.embed_dim
    if neck:
        width = _fill_neck(neck, arch.embed_dim, maps)
    source = "the neck" if neck else "the backbone"
    if width is None:
        return config
    for name, head in heads:
        _set_width(head, "in_channels", _head_width(head, width), name, source)
    if config.get("roi_head") and isinstance(width, int):
        _fill_roi_head(config["roi_head"], width, source)
    return config


def _class_of(backbone: Mapping[str, Any]) -> type[OnePeace] | None:
    """The class of a backbone, if it is one of ours."""
    kind = backbone["type"]
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    return cls if isclass(cls) and issubclass(cls, OnePeace) else None


def _takes_four_maps(config: Mapping[str, Any]) -> bool:
    """Whether the decode head takes four maps that no `SimpleFeaturePyramid` makes of one."""
    head, neck = config.get("decode_head"), config.get("neck")
    if neck and _name_of(neck) == "SimpleFeaturePyramid":
        return False
    return isinstance(head, Mapping) and _num_maps(head) == 4


def _num_maps(head: Mapping[str, Any]) -> int:
    """Number of maps whose widths a head takes as a list; 0 if it takes one width."""
    if "pixel_decoder" in head:
        return len(head.get("strides", (4, 8, 16, 32)))
    indices = head.get("in_index")
    return len(indices) if isinstance(indices, (list, tuple)) else 0


def _map_widths(backbone: Mapping[str, Any], width: int) -> list[int]:
    """Widths of all maps of a backbone that returns those of its stem; else none."""
    if not backbone.get("stem_maps"):
        return []
    indices = backbone.get("out_indices", -1)
    return [*overlapping_widths(width), *[width] * len(_listed(indices))]


def _head_width(head: Mapping[str, Any], width: int | list[int]) -> int | list[int]:
    """`in_channels` of a head on maps of one width, or of one each."""
    if isinstance(width, int):
        count = _num_maps(head)
        return [width] * count if count else width
    indices = head.get("in_index", -1)
    try:
        return [width[i] for i in indices] if isinstance(indices, (list, tuple)) else width[indices]
    except IndexError:
        raise ValueError(
            f"in_index of a head is {indices}, but the backbone returns {len(width)} maps: two of the "
            "stem, and one for each of out_indices."
        ) from None


def _fill_neck(neck: Any, width: int, maps: list[int]) -> int | None:
    """Fill in a neck; returns the width of its maps, None if it is not known."""
    name = _name_of(neck)
    if name == "FPN" and maps:
        _set_width(neck, "in_channels", maps, "neck", "the backbone")
        return neck.get("out_channels")
    if name == "Feature2Pyramid":
        _set_width(neck, "embed_dim", width, "neck", "the backbone")
        return width
    if name == "SimpleFeaturePyramid":
        _set_width(neck, "in_channels", width, "neck", "the backbone")
        return neck.get("out_channels", PYRAMID_CHANNELS)
    return None


def _fill_roi_head(roi_head: Mapping[str, Any], width: int, source: str) -> None:
    extractors = [
        (name, extractor)
        for name in ("bbox_roi_extractor", "mask_roi_extractor")
        for extractor in _listed(roi_head.get(name))
    ]
    for name, extractor in extractors:
        _set_width(extractor, "out_channels", width, f"roi_head.{name}", source)
    if "shared_head" in roi_head or any(e.get("aggregation") == "concat" for _, e in extractors):
        return  # the heads get a different width
    for name in ("bbox_head", "mask_head"):
        for head in _listed(roi_head.get(name)):
            _set_width(head, "in_channels", width, f"roi_head.{name}", source)


def _fill_mask2former(head: dict[str, Any]) -> None:
    """Fill in what follows from the channels and classes of a Mask2Former head."""
    width = head["feat_channels"]
    head.setdefault("out_channels", width)
    for name, part in _nested(head):
        if name.endswith("attn_cfg"):
            part.setdefault("embed_dims", width)
            part.setdefault("num_heads", width // _CHANNELS_PER_ATTENTION_HEAD)
        elif name == "ffn_cfg":
            part.setdefault("embed_dims", width)
        elif name == "positional_encoding":
            part.setdefault("num_feats", width // 2)
        elif name == "loss_cls":
            things_and_stuff = head.get("num_things_classes", 0) + head.get("num_stuff_classes", 0)
            classes = head.get("num_classes", things_and_stuff)
            part.setdefault("class_weight", [1.0] * classes + [_NO_OBJECT_WEIGHT])


def _set_width(
    part: dict[str, Any], key: str, width: int | list[int], path: str, source: str
) -> None:
    """Set a width, or the widths of several maps; check what is already there."""
    given, wanted = _listed(part.setdefault(key, width)), _listed(width)
    if given != wanted and {*given, *wanted} != {wanted[0]}:
        expected = width if len(set(wanted)) > 1 else wanted[0]
        raise ValueError(
            f"{path}.{key} is {part[key]}, but {source} has {expected} channels. Leave it out, or "
            f"set it to {expected}."
        )


def _nested(node: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, dict) of every dict in a config dict, at any depth."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield key, value
            yield from _nested(value)


def _name_of(part: Any) -> str:
    """Name of the class of a config dict, without its scope."""
    kind = part["type"] if isinstance(part, Mapping) else ""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def _listed(node: Any) -> list[Any]:
    """The elements of a list, or one element; none for None."""
    if node is None:
        return []
    return list(node) if isinstance(node, (list, tuple)) else [node]
