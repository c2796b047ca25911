"""The weights that a run starts from."""

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmonepeace.checks.errors import CheckError, try_now


def check_weights(cfg: Config) -> None:
    """Check that the weights which the run starts from are there.

    Raises:
        CheckError: naming the file, where to get it and how to go without.
    """
    stage_one = cfg.get("stage_one")
    if stage_one and cfg.model.get("stage") != "al":
        raise CheckError(
            f"stage_one {stage_one} is what stage al starts from; this recipe is of another. To "
            "start from all weights of a checkpoint: --cfg-options load_from=CKPT"
        )
    if stage_one and not cfg.get("resume") and not Path(stage_one).exists():
        raise CheckError(
            f"stage_one {stage_one} does not exist. Name the checkpoint of the first stage with "
            "--stage-one CKPT, or train one: tools/pretrain.py with a recipe of stage vl."
        )
    start = cfg.get("load_from")
    if start and not cfg.get("resume") and not Path(start).exists():
        need = cfg.get("needs_weights", "the model that load_from names")
        raise CheckError(
            f"load_from {start} does not exist. This recipe needs {need}.\n"
            "Elsewhere: --cfg-options load_from=PATH. Without: --cfg-options load_from=None"
        )
    init_cfg = (cfg.model.get("backbone") or {}).get("init_cfg")
    path = init_cfg.get("checkpoint") if isinstance(init_cfg, dict) else None
    if path and "://" not in path and not Path(path).is_file():
        need = cfg.get("needs_weights", "the pretrained weights of the backbone")
        raise CheckError(
            f"weights {path} do not exist. This recipe needs {need}.\n"
            "Weights elsewhere: add --checkpoint PATH. From scratch: "
            f"--cfg-options model.backbone.init_cfg=None\n{try_now(cfg)}"
        )


def find_checkpoint(path: str) -> str:
    """A checkpoint file: the path itself, or the newest one of a work directory.

    Raises:
        CheckError: if there is none.
    """
    found = find_latest_checkpoint(path) if Path(path).is_dir() else path
    if not found or not Path(found).is_file():
        raise CheckError(f"checkpoint {path} does not exist. Train one: tools/train.py CONFIG")
    return found
