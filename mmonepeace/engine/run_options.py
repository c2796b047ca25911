"""Options of the command line that change how a recipe runs."""

from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmonepeace.checks.data import dataset_configs
from mmonepeace.checks.errors import PreflightError, is_detection
from mmonepeace.checks.preflight_coco import has_mask_head


def set_precision(cfg: Config, dtype: Literal["float16", "bfloat16"]) -> None:
    """Train in mixed precision.

    Raises:
        PreflightError: for float16 without a GPU, and for bfloat16 where an operator has none.
    """
    if dtype == "bfloat16":
        if (cfg.get("model") or {}).get("rpn_head"):
            raise PreflightError(
                "--bf16: mmcv's NMS and RoIAlign know no bfloat16, and a detector with proposals "
                "trains with them. Leave it out, or use --amp on a GPU."
            )
        cfg.optim_wrapper.type = "mmonepeace.BFloat16OptimWrapper"
        return
    if not torch.cuda.is_available():
        raise PreflightError("--amp (float16) needs a CUDA device, none is here. Use --bf16.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.loss_scale = "dynamic"


def set_stage(cfg: Config, stage: Literal["vl", "al"]) -> None:
    """Train a stage of pretraining; the data and the backbone must have its modalities.

    Raises:
        PreflightError: if they do not.
    """
    needed = {"vl": {"text", "image"}, "al": {"text", "audio"}}[stage]
    found = [("the backbone", set(cfg.model.backbone.modalities))]
    for loader, dataset in dataset_configs(cfg):
        found.append((loader, set(dataset.get("columns") or dataset.get("modalities") or needed)))
        for step in dataset.get("pipeline") or ():
            if step["type"].split(".")[-1] == "MaskTokens":
                step.stage = stage
    for where, names in found:
        if not needed <= names:
            raise PreflightError(
                f"stage {stage!r} needs {' and '.join(sorted(needed))}, but {where} of this recipe "
                f"has {' and '.join(sorted(names))}. Take a recipe of that stage."
            )
    cfg.model.stage = stage


def set_launcher(cfg: Config, launcher: str) -> None:
    """Run in one process, or in those that a launcher started; on CPUs too.

    Raises:
        PreflightError: for another launcher than torchrun where there is no GPU.
    """
    cfg.launcher = launcher
    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher != "pytorch":
        raise PreflightError(
            f"--launcher {launcher} needs CUDA devices, none is here. On CPUs start with torchrun "
            "and --launcher pytorch."
        )
    # MMEngine itself would look for a GPU.
    torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )


def set_strategy(cfg: Config, name: Literal["ddp", "fsdp2"] | None, sharded: bool = False) -> None:
    """Choose how pretraining uses the processes that a launcher started.

    Args:
        cfg: config after `set_launcher` and `set_precision`.
        name: "ddp", a copy of the model in each; "fsdp2", some rows of it in each; None leaves it
            to the config, which leaves it to "ddp".
        sharded: write checkpoints as folders, see `FSDP2Strategy`.

    Raises:
        PreflightError: if there is no launcher, or copies are to be written in shards.
    """
    if cfg.launcher == "none" and (name or cfg.get("strategy")):
        raise PreflightError(
            f"strategy {name or cfg.strategy.type} is for several processes. Start them with "
            "tools/dist_pretrain.sh CONFIG GPUS, or tools/slurm_pretrain.sh."
        )
    wrapper = cfg.pop("model_wrapper_cfg", None)
    if name == "fsdp2":
        half = cfg.optim_wrapper.get("type") == "mmonepeace.BFloat16OptimWrapper"
        dtype = "bfloat16" if half else "float32"
        cfg.strategy = dict(type="mmonepeace.FSDP2Strategy", param_dtype=dtype)
    elif cfg.launcher != "none" and (name or not cfg.get("strategy")):
        cfg.strategy = dict(type="DDPStrategy", model_wrapper=wrapper)
    if sharded:
        if (cfg.get("strategy") or {}).get("type") != "mmonepeace.FSDP2Strategy":
            raise PreflightError(
                "--sharded lets each process write its part of the model, and so far each has all "
                "of it. Add --strategy fsdp2."
            )
        cfg.strategy.sharded = True


def set_resume(cfg: Config, source: str) -> None:
    """Go on from a checkpoint of an earlier run; "auto" takes the newest of the work directory.

    Raises:
        PreflightError: if there is no such file.
    """
    if source != "auto" and not Path(source).exists():
        raise PreflightError(f"--resume {source}: no such file. --resume alone takes the newest.")
    cfg.resume = True
    cfg.load_from = None if source == "auto" else source
    newest = find_latest_checkpoint(cfg.work_dir) if source == "auto" else source
    if newest and cfg.model.get("backbone"):
        cfg.model.backbone.init_cfg = None  # the checkpoint brings all weights


def set_tta(cfg: Config) -> None:
    """Predict several scales and flips of each image and merge what is found.

    Raises:
        PreflightError: if the recipe has no such setting, or mmdet cannot merge its predictions.
    """
    if not cfg.get("tta_model") or not cfg.get("tta_pipeline"):
        raise PreflightError("this recipe has no tta_model and tta_pipeline. Leave out --tta.")
    if is_detection(cfg) and has_mask_head(cfg.model):
        raise PreflightError(
            "--tta: mmdet merges boxes, not masks. Leave it out, or test boxes alone: "
            "--cfg-options model.roi_head.mask_head=None test_evaluator.metric=bbox"
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
