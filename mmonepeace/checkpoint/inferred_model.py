"""The fine-tuned model that weights belong to: its head from their shapes, its task from metadata."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file
from mmonepeace.checkpoint.inferred_config import infer_config, infer_video_config

# Facts of a task that no weight tells, and their types; see `models.base.BackboneModel.metadata`.
_FACTS = {
    "type": str,
    "pool_over": str,
    "num_candidates": int,
    "loss": str,
    "classes": list,
    "interval": int,
}
_TYPES = (
    "OnePeaceRetriever", "OnePeaceClassifier", "OnePeaceGrounder", "OnePeaceVideoClassifier",
)  # fmt: skip
_LOSSES = ("ClassLoss", "MultiLabelLoss", "HingeLoss")
_VIDEO_HEAD = "head.fc_cls.weight"
_CLIP = 128  # frames of a video that the 16 or 32 of a released model are taken from
_BOX = 4  # outputs of a head of boxes
_FSD50K, _CANDIDATES = 200, 4


def infer_model(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of a fine-tuned model off its weights and metadata.

    Args:
        weights: own names, as `to_own` gives them; only names and shapes are read.
        meta: metadata of the file, as `to_own` gives them. Files of ours say what their task is; of
            official ones, the stored configuration and the head do.

    Returns:
        what `MODELS.build` takes, without weights, and `classes`, the names of its classes or None.

    Raises:
        CheckpointError: if the weights are damaged or have no such head.
    """
    with explain_broken_file("the weights of a fine-tuned model"):
        backbone = infer_config(weights, meta)
        facts = _stored_facts(meta) or _official_facts(weights, backbone["modalities"], meta)
        classes = facts.pop("classes", None)
        if facts["type"] == "OnePeaceRetriever":
            return dict(type="mmonepeace.OnePeaceRetriever", backbone=backbone, classes=None)
        if facts["type"] == "OnePeaceVideoClassifier":
            return _video(weights, backbone, facts, classes)
        head = _head(weights, backbone["arch"]["embed_dim"])
        if facts["type"] == "OnePeaceGrounder":
            del head["num_classes"]
        if "loss" in facts:
            facts["loss"] = dict(type=f"mmonepeace.{facts['loss']}")
        facts["type"] = f"mmonepeace.{facts['type']}"
        return dict(**facts, backbone=backbone, head=head, classes=classes)


def _video(
    weights: Mapping[str, Tensor],
    backbone: dict[str, Any],
    facts: Mapping[str, Any],
    classes: list[str] | None,
) -> dict[str, Any]:
    if _VIDEO_HEAD not in weights:
        raise CheckpointError(f"{_VIDEO_HEAD} is missing. Is this a part of a checkpoint?")
    clip = {"interval": facts["interval"]} if "interval" in facts else {}
    return dict(
        type="mmonepeace.OnePeaceVideoClassifier",
        backbone={**backbone, **infer_video_config(weights)},
        head=dict(num_classes=weights[_VIDEO_HEAD].shape[0]),
        classes=classes,
        **clip,
    )


def _head(weights: Mapping[str, Tensor], dim: int) -> dict[str, Any]:
    """Options of `layers.heads.ClassificationHead`."""
    if "head.classifier.0.weight" not in weights or "head.classifier.3.weight" not in weights:
        raise CheckpointError(
            "it has no head of a multimodal task. Use a fine-tuned file; embeddings of a pretrained "
            "one are what Embedder and mmonepeace embed are for."
        )
    hidden, pooled = weights["head.classifier.0.weight"].shape
    return dict(
        num_classes=weights["head.classifier.3.weight"].shape[0],
        attn_pooling="head.pool.query" in weights,
        pooler="head.pooler.1.weight" in weights,
        hidden_ratio=hidden // dim,
        num_views=pooled // dim,
    )


def _stored_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that a file of ours says; none in others."""
    if "task" not in meta:
        return {}
    try:
        facts = json.loads(meta["task"])
    except ValueError:
        facts = None
    if (
        not isinstance(facts, dict)
        or any(key not in _FACTS or not isinstance(x, _FACTS[key]) for key, x in facts.items())
        or facts.get("type") not in _TYPES
        or facts.get("loss", _LOSSES[0]) not in _LOSSES
        or not all(isinstance(name, str) for name in facts.get("classes", ()))
    ):
        raise CheckpointError(f"its metadata has the task {meta['task']!r:.200}; damaged.")
    return facts


def _official_facts(
    weights: Mapping[str, Tensor], modalities: Mapping[str, Any], meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts of an official file: by the kind of its head, its modalities and its configuration."""
    if any(name.startswith("projections.") for name in weights):
        return {"type": "OnePeaceRetriever"}
    if _VIDEO_HEAD in weights:
        frames = weights["adapters.image.temporal_embed"].shape[1]
        return {"type": "OnePeaceVideoClassifier", "interval": max(1, _CLIP // frames)}
    head = _head(weights, weights["layers.0.norm1.weight"].shape[0])
    config = json.loads(meta.get("official_cfg", "{}"))

    def option(part: str, name: str) -> Any:
        section = config.get(part) if isinstance(config, dict) else None
        return section.get(name) if isinstance(section, dict) else None

    classes, names = head["num_classes"], set(modalities)
    images = option("model", "use_image_features")
    if classes == _BOX and names == {"text", "image"} and not head["pooler"]:
        pool_over = "text" if images is False else "image"
        return {"type": "OnePeaceGrounder", "pool_over": pool_over}
    facts: dict[str, Any] = {"type": "OnePeaceClassifier", "loss": "ClassLoss"}
    if images:
        facts["pool_over"] = "image"
    if classes == 1:
        facts |= {"num_candidates": _CANDIDATES, "loss": "HingeLoss"}
    several = option("criterion", "use_multi_label")
    if several is None:  # the head of VQA, or of FSD50K
        several = head["pooler"] or (names == {"audio"} and classes == _FSD50K)
    if several:
        facts["loss"] = "MultiLabelLoss"
    if head["num_views"] == 2 and classes == 2:
        facts["classes"] = ["True", "False"]
    return facts
