"""Command-line options that change how a recipe runs."""

import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from mmonepeace import checkpoint
from mmonepeace.atomic_file import atomic_file
from mmonepeace.checks import (
    CheckError,
    dataset_configs,
    has_mask_head,
    is_detection,
    metric_configs,
    text_steps,
)
from mmonepeace.engine.resuming import find_latest_valid_checkpoint
from mmonepeace.exit_status import is_first_rank
from mmonepeace.registry import MODELS

# What a launcher tells the processes that it starts.
_SET_BY = {
    "pytorch": ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


def set_process(cfg: Config, args: Namespace) -> None:
    """Set the launcher, and the folder of logs and checkpoints: by default that of the config's name."""
    set_launcher(cfg, args.launcher)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"


def set_data(cfg: Config, root: str | None, tokenizer: str | None) -> None:
    """Set the folder of the data sets and the tokenizer, unless they are those of the config."""
    if root:
        set_data_root(cfg, root)
    if tokenizer:
        set_tokenizer(cfg, tokenizer)


def set_data_root(cfg: Config, folder: str) -> None:
    """Point the data sets of a config, and the metrics that read their files, to a folder."""
    roots = []
    for _, dataset in dataset_configs(cfg):
        roots.append(Path(dataset.get("data_root") or "."))
        dataset.data_root = folder
    for metric in {id(metric): metric for _, metric in metric_configs(cfg)}.values():
        path = Path(metric.get("ann_file") or "/")
        parents = [root for root in roots if path.is_relative_to(root)]
        if parents:
            root = max(parents, key=lambda root: len(root.parts))
            metric.ann_file = str(folder / path.relative_to(root))


def set_tokenizer(cfg: Config, path: str) -> None:
    """Set the tokenizer of every transform that takes one."""
    for step in text_steps(cfg):
        step.tokenizer = path


def set_checkpoint(cfg: Config, path: str) -> None:
    """Set the pretrained weights: of the backbone, or of a whole model that can start from them."""
    whole = hasattr(MODELS.get(cfg.model.type), "load_checkpoint")
    owner = cfg.model if whole else cfg.model.backbone
    owner.init_cfg = dict(type="Pretrained", checkpoint=path)


def set_teacher(cfg: Config, path: str) -> None:
    """Set the weights of the teacher of a distillation; the size of one of ours follows from them."""
    teacher = cfg.model.teacher
    if teacher.get("type") == "mmonepeace.TimmTeacher":
        teacher.file = path
        return
    teacher.checkpoint = path
    teacher.pop("backbone", None)


def keep_tokenizer(cfg: Config) -> None:
    """Copy the tokenizer of a recipe into the work directory, where `embed.py` looks for it."""
    paths = {step.tokenizer for step in text_steps(cfg) if step.get("tokenizer")}
    target = Path(cfg.work_dir, "tokenizer.json")
    if len(paths) != 1 or not is_first_rank():
        return
    (source,) = paths
    if not (target.exists() and target.samefile(source)):
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)


def set_precision(cfg: Config, dtype: Literal["fp16", "bf16"]) -> None:
    """Train in mixed precision.

    Raises:
        CheckError: for float16 without a GPU, and for bfloat16 where an operator does not support it.
    """
    if dtype == "bf16":
        check_bfloat16(cfg)
        cfg.optim_wrapper.type = "mmonepeace.BFloat16OptimWrapper"
        return
    if not torch.cuda.is_available():
        raise CheckError("--dtype fp16 needs a CUDA device, and there is none. Use bf16.")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.loss_scale = "dynamic"


def check_bfloat16(cfg: Config) -> None:
    """Raise a `CheckError` where an operator does not support it."""
    if (cfg.get("model") or {}).get("rpn_head"):
        raise CheckError(
            "--dtype bf16: mmcv's NMS and RoIAlign do not support bfloat16, and a two-stage detector "
            "needs them. Leave it out, or use fp16 on a GPU to train."
        )


def evaluate_in_bfloat16(model: BaseModel) -> None:
    """Test a model in mixed precision, whatever the loop says, which would turn it off."""
    device = next(model.parameters()).device.type
    model.test_step = torch.autocast(device, torch.bfloat16)(model.test_step)


def set_average(cfg: Config, decay: float) -> None:
    """Evaluate and store averages of the weights: average = decay * average + (1 - decay) * weights.

    By MMEngine's `EMAHook`: the first step copies the weights; buffers, such as the statistics of batch
    norm, are those of the last step. In mixed precision weights are float32, and so are averages.
    Checkpoints have the averages as `state_dict`, which all tools take, and the weights that training
    goes on with as `ema_state_dict`.

    Raises:
        CheckError: for a decay that is none, or if the recipe averages already.
    """
    if not 0 < decay < 1:
        raise CheckError(f"--ema {decay}: expected a decay between 0 and 1, such as 0.9998.")
    hooks = cfg.get("custom_hooks") or []
    if any(str(hook.get("type", "")).endswith("EMAHook") for hook in hooks):
        raise CheckError(
            "--ema: the recipe has an EMAHook already. Leave it out, or set its momentum."
        )
    average = dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1 - decay)
    cfg.custom_hooks = [*hooks, average]


def set_compiled(cfg: Config) -> None:
    """Compile the blocks of the backbone."""
    cfg.model.backbone.compiled = True


def set_stage(cfg: Config, stage: Literal["vl", "al"]) -> None:
    """Set the stage of pretraining; the data and the backbone must have its modalities.

    Raises:
        CheckError: if they do not.
    """
    needed = {"vl": {"text", "image"}, "al": {"text", "audio"}}[stage]
    available = [("the backbone", set(cfg.model.backbone.modalities))]
    for loader, dataset in dataset_configs(cfg):
        names = set(dataset.get("columns") or dataset.get("modalities") or needed)
        available.append((loader, names))
        for step in dataset.get("pipeline") or ():
            if step["type"].split(".")[-1] == "MaskTokens":
                step.stage = stage
    for where, names in available:
        if not needed <= names:
            raise CheckError(
                f"stage {stage!r} needs {' and '.join(sorted(needed))}, but {where} of this recipe "
                f"has {' and '.join(sorted(names))}. Use a recipe of that stage."
            )
    cfg.model.stage = stage


def set_launcher(cfg: Config, launcher: str) -> None:
    """Run in one process, or in those of a launcher; on CPUs too.

    Raises:
        CheckError: for a launcher other than torchrun where there is no GPU, and for one that did
            not start this process.
    """
    cfg.launcher = launcher
    absent = [name for name in _SET_BY.get(launcher, ()) if name not in os.environ]
    if absent:
        raise CheckError(
            f"--launcher {launcher}: {', '.join(absent)} not set, so that launcher did not start this "
            "process. Start the processes with tools/dist_train.sh, dist_pretrain.sh or their slurm "
            "versions, or leave out --launcher."
        )
    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher != "pytorch":
        raise CheckError(
            f"--launcher {launcher} needs CUDA devices, and there are none. On CPUs start with torchrun "
            "and --launcher pytorch."
        )
    # MMEngine itself would use NCCL.
    torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )


def set_strategy(cfg: Config, name: Literal["ddp", "fsdp2"] | None, sharded: bool = False) -> None:
    """Choose how pretraining uses the processes that a launcher started.

    Args:
        cfg: config after `set_launcher` and `set_precision`.
        name: "ddp", a copy of the model in each; "fsdp2", a shard of it in each; None keeps the
            strategy of the config, "ddp" by default.
        sharded: write checkpoints as folders of shards, see `FSDP2Strategy`.

    Raises:
        CheckError: if there is no launcher, or `sharded` is set without "fsdp2".
    """
    if cfg.launcher == "none" and (name or cfg.get("strategy")):
        raise CheckError(
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
            raise CheckError(
                "--sharded lets each process write its shard of the model, but without --strategy "
                "fsdp2 each has all of it. Add --strategy fsdp2."
            )
        cfg.strategy.sharded = True


def set_resume(cfg: Config, source: str) -> None:
    """Resume from a checkpoint or a folder with one; "auto" takes the newest of the work directory.

    Raises:
        CheckError: if there is no such file.
        CheckpointError: if the folder has none.
    """
    if source != "auto" and not Path(source).exists():
        raise CheckError(
            f"--resume {source}: no such file. --resume without a path takes the newest."
        )
    cfg.resume = True
    cfg.load_from = None if source == "auto" else str(checkpoint.find(source))
    if source != "auto" or checkpoint.checkpoints_of_run(cfg.work_dir):
        _forget_init(cfg.model)  # the checkpoint has all weights


def keep_start(cfg: Config) -> None:
    """Name the checkpoint that "auto" resumes from, for a run in another work directory: a dry run.

    Raises:
        CheckError: if all checkpoints of the work directory are damaged.
    """
    if cfg.get("resume") and cfg.get("load_from") is None:
        cfg.load_from = find_latest_valid_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None


# What reads initial weights from files.
_FROM_FILES = ("Pretrained", ".PretrainedAudioExtractor")


def _forget_init(model: Any) -> None:
    """Leave out the files that weights would be initialised from, at any depth."""
    if isinstance(model, dict):
        init = model.get("init_cfg")
        steps = init if isinstance(init, list | tuple) else [init]
        if any(str((step or {}).get("type", "")).endswith(_FROM_FILES) for step in steps):
            model["init_cfg"] = None
    for value in model.values() if isinstance(model, dict) else model:
        if isinstance(value, dict | list | tuple):
            _forget_init(value)


def set_tta(cfg: Config) -> None:
    """Predict several scales and flips of each image and merge the predictions.

    Raises:
        CheckError: if the recipe has no TTA settings, or mmdet cannot merge its predictions.
    """
    if not cfg.get("tta_model") or not cfg.get("tta_pipeline"):
        raise CheckError("this recipe has no tta_model and tta_pipeline. Leave out --tta.")
    if is_detection(cfg) and has_mask_head(cfg.model):
        raise CheckError(
            "--tta: mmdet merges boxes, not masks. Leave it out, or test boxes only: "
            "--cfg-options model.roi_head.mask_head=None test_evaluator.metric=bbox"
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
