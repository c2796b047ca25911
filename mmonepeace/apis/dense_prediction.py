"""What segmentors and detectors say to images, by the inference of mmseg and mmdet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmonepeace import checkpoint

if TYPE_CHECKING:
    from mmengine.config import Config


def load_dense_model(cfg: "Config", path: Path, device: str) -> Any:
    """The segmentor or detector of a recipe with the weights of a checkpoint, for `predict_dense`.

    The default scope has to be that of the recipe. Raises a CheckpointError if they do not fit.
    """
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS

    cfg.model.backbone.init_cfg = cfg.model.init_cfg = None
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    checkpoint.load_model(model, path)
    model.cfg = cfg
    return model.to(device).eval()


def predict_dense(model: Any, images: Sequence[str]) -> list[Any]:
    """What a model of `load_dense_model` says to image files, as mmseg's or mmdet's data samples."""
    if model.cfg.default_scope == "mmdet":
        from mmdet.apis import inference_detector as infer
    else:
        from mmseg.apis import inference_model as infer
    results: list[Any] = infer(model, list(images))
    return results
