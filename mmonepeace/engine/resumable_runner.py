"""What the runners share: checkpoints are written, found, resumed and loaded in one way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine
from mmengine import hooks
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks import CheckError
from mmonepeace.engine import changed_config
from mmonepeace.engine.divergence import refuse_non_finite
from mmonepeace.engine.resuming import (
    find_latest_valid_checkpoint,
    leave_out_objects,
    to_serializable,
    verify,
    write_file,
    write_folder,
)
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.engine.threads import choose_threads, threads_of_run
from mmonepeace.engine.train_loop import EndlessTrainLoop, EpochTrainLoop, samples_of_step

# What reading a checkpoint that another program made up can raise.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError)


class ResumableRunner:
    """Checkpoints of a run, for classes that inherit from one of MMEngine's runners as well.

    They are written atomically, hold tensors, numbers and strings only, and are read without
    running code. `resume` without `load_from` takes the newest valid one of the work directory.
    """

    # Of MMEngine's runners.
    model: Any
    cfg: Any
    optim_wrapper: Any
    param_schedulers: Any
    message_hub: Any
    logger: Any
    train_loop: Any
    train_dataloader: Any
    call_hook: Any
    hooks: Any
    work_dir: str
    experiment_name: str
    seed: int
    iter: int
    epoch: int
    max_iters: int
    _load_from: str | None
    _resume: bool
    _has_loaded: bool
    _randomness_cfg: dict[str, Any]

    shards: FSDP2Strategy | None = None  # the model is in shards, one of each process
    _start_is_found = False
    _threads_before: int | None = None  # of the run that is resumed

    @property
    def bare_model(self) -> BaseModel:
        """The model without the wrapper of data parallel training."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def set_seed(self, seed: int) -> None:
        """Seed everything that is not built yet."""
        raise NotImplementedError

    def register_hook(self, hook: Hook | dict[str, Any], priority: Any = None) -> None:
        """Register a hook; in place of MMEngine's `CheckpointHook`, ours."""
        names = ("CheckpointHook", "mmengine.CheckpointHook", hooks.CheckpointHook)
        if isinstance(hook, dict) and hook.get("type") in names:
            hook = {**hook, "type": "mmonepeace.CheckpointHook"}
        super().register_hook(hook, priority)  # type: ignore[misc]

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the training loop, with the seed of the checkpoint that is resumed."""
        self.find_start()
        if message := choose_threads(self._threads_before):
            self.logger.info(message)
        return super().build_train_loop(loop)  # type: ignore[misc]

    def find_start(self) -> None:
        """Find the checkpoint to resume from.

        Raises:
            CheckError: if all checkpoints of the work directory are damaged.
            CheckpointError: if the one to resume from is damaged or was not written by a run.
        """
        if self._start_is_found or not self._resume:
            return
        self._start_is_found = True
        if self._load_from is None:
            self._load_from = find_latest_valid_checkpoint(self.work_dir)
            self._resume = self._load_from is not None
        else:
            verify(self._load_from)
        if self._load_from is not None:
            # Reads no tensor.
            content = checkpoint.read_run(self._load_from, lambda parts: parts[0], verify=False)
            meta = _meta_of_run(self._load_from, content)
            self._threads_before = meta.get("threads")
            if self._randomness_cfg.get("seed") is None:
                self.set_seed(meta["seed"])

    def load_or_resume(self) -> None:
        """Load or resume a checkpoint if there is one, once."""
        if self._has_loaded:
            return
        self._has_loaded = True
        self.find_start()
        if self._load_from is None:
            self.start_afresh()
        elif self._resume:
            self.resume(self._load_from)
        else:
            self.load_checkpoint(self._load_from)

    def start_afresh(self) -> None:
        """Begin a run that neither loads nor resumes a checkpoint."""

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> None:
        """Load the weights of a complete model, of any layout; its backbone may resample.

        Raises:
            CheckpointError: if it cannot be read, lacks a parameter, or one does not fit.
        """
        self.logger.info(f"Weights are loaded from {filename}")
        report = checkpoint.load_model(self.bare_model, filename)
        self.logger.info(str(report))
        backbone: Any = getattr(self.bare_model, "backbone", None)
        content = {
            "state_dict": self.bare_model.state_dict(),
            "meta": backbone.metadata() if hasattr(backbone, "metadata") else {},
        }
        self.call_hook("after_load_checkpoint", checkpoint=content)  # such as averages of weights

    def resume(self, filename: str, *_: Any, **__: Any) -> None:
        """Resume a run from a verified file or folder: weights, optimiser, schedules, logs and step.

        Raises:
            CheckpointError: if it cannot be read, is of another model, or holds weights only.
            CheckError: if the run is to end before the step that it has reached.
        """
        self.logger.info(f"Resuming from {filename}")
        take = self.shards.take if self.shards else checkpoint.join
        content = checkpoint.read_run(filename, take, verify=False)
        meta = _meta_of_run(filename, content)
        if "ema_state_dict" in content and not any(isinstance(x, EMAHook) for x in self.hooks):
            raise CheckpointError(
                f"{filename} has averages of the weights, and training would go on from these. Resume "
                "with the EMAHook or the --ema of that run, or start a new one from the averages: "
                f"--cfg-options load_from={filename} without --resume."
            )
        self._check_fit(filename, content["state_dict"])
        loop, changes = self.train_loop, self._find_changes(meta)
        if isinstance(loop, EndlessTrainLoop | EpochTrainLoop) and "samples" in meta:
            loop.resume_at(meta["epoch"], meta["iter"], meta["samples"])
        else:
            loop._epoch, loop._iter = meta["epoch"], meta["iter"]
        if loop.iter > loop.max_iters:
            raise CheckError(
                f"{filename} is of step {loop.iter}, but the config ends the run at step "
                f"{loop.max_iters}. Train longer (train_cfg.max_iters or max_epochs), or start a "
                f"new run from its weights: --cfg-options load_from={filename} without --resume."
            )
        self.call_hook("after_load_checkpoint", checkpoint=content)
        self.bare_model.load_state_dict(content["state_dict"])
        changes += self._load_optimiser(filename, content)
        if changes:
            self.logger.warning(
                f"The config is not that of {filename}. From here on, today's is followed:\n"
                f"{changed_config.as_table(changes)}{changed_config.explain(changes, loop.dataloader)}"
            )
        try:
            hub = content["message_hub"]
            logs = {
                name: HistoryBuffer(*(values.numpy() for values in log))
                for name, log in hub["log_scalars"].items()
            }
            self.message_hub.load_state_dict({**hub, "log_scalars": logs})
        except _MALFORMED as error:
            raise CheckpointError(f"{filename}: its logs cannot be read ({error!r}).") from None
        self.logger.info(f"resumed at step {self.iter} of {self.max_iters}")

    def _check_fit(self, filename: str, weights: Mapping[str, Tensor]) -> None:
        """Check that weights have the names and shapes of the model.

        Raises:
            CheckpointError: if they do not.
        """
        expected = self.bare_model.state_dict()
        faults = {
            "missing": [name for name in expected if name not in weights],
            "unexpected": [name for name in weights if name not in expected],
            "of another shape": [
                f"{name} {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
                for name, value in expected.items()
                if name in weights and weights[name].shape != value.shape
            ],
        }
        if any(faults.values()):
            listed = "; ".join(
                f"{len(names)} {fault} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
                for fault, names in faults.items()
                if names
            )
            raise CheckpointError(
                f"{filename} is of another model than this {type(self.bare_model).__name__}; "
                f"parameters: {listed}. Resume with the recipe that it was trained with."
            )

    def _load_optimiser(self, filename: str, content: dict[str, Any]) -> list[changed_config.Row]:
        """Load the state of the optimiser: the row of the learning rate, if it is another one."""
        loop, schedulers = self.train_loop, flat(self.param_schedulers)
        epoch_ends: Sequence[int] = ()
        if isinstance(loop, EpochBasedTrainLoop):
            epoch_ends = [len(loop.dataloader) * (epoch + 1) for epoch in range(loop.epoch)]
        content = {**content, "param_schedulers": flat(content.get("param_schedulers"))}
        try:
            rates = changed_config.follow_config(
                self.optim_wrapper, schedulers, content, loop.iter, epoch_ends
            )
        except _MALFORMED as error:
            raise CheckpointError(
                f"{filename}: its optimiser is not that of the config ({error}). Resume with the "
                "optimiser and the groups of parameters that it was trained with, or start a new "
                f"run from its weights: --cfg-options load_from={filename} without --resume."
            ) from None
        if rates is None:
            return []
        before, now = (f"{rate:.4g}" for rate in rates)
        return [(f"largest learning rate at step {loop.iter}", before, now)]

    def _find_changes(self, meta: dict[str, Any]) -> list[changed_config.Row]:
        """What the config of the checkpoint had otherwise.

        Raises:
            CheckpointError: for another optimiser, whose state would be of no use.
        """
        if not isinstance(before := meta.get("settings"), str):
            self.logger.info("The checkpoint does not say with which config it was trained.")
            return []
        try:
            changes = changed_config.differences(before, self._settings())
        except (*_MALFORMED, RecursionError):
            raise CheckpointError(f"{self._load_from}: its settings cannot be read.") from None
        for name, old, new in changes:
            if name == "optim_wrapper.optimizer.type":
                raise CheckpointError(
                    f"{self._load_from} has the state of {old}, but the config wants {new}. Resume "
                    "with the same optimiser, or start a new run from its weights: --cfg-options "
                    f"load_from={self._load_from} without --resume."
                )
        return changes

    def _settings(self) -> str:
        samples = samples_of_step(self.train_loop.dataloader)
        return changed_config.describe(self.cfg, get_world_size(), samples)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a checkpoint to a folder of all machines: one file, or a folder of shards.

        Optimiser and schedules may be left out; `meta` has the current epoch and step by default.

        Raises:
            DivergedError: if weights or optimiser state are not finite.
        """
        refuse_non_finite(self, (meta or {}).get("iter", self.iter + 1))
        shards = self.shards
        if not shards and not is_main_process():
            return
        hub = self.message_hub.state_dict()
        meta = {"epoch": self.epoch, "iter": self.iter + 1, **(meta or {})}
        if isinstance(loop := self.train_loop, EndlessTrainLoop | EpochTrainLoop):
            meta["samples"] = loop.samples_at(meta["epoch"], meta["iter"])
        info = leave_out_objects(hub["runtime_info"])
        known = {*hub["log_scalars"], *info}
        metainfo = getattr(self.train_dataloader.dataset, "metainfo", None)
        content = {
            "meta": {
                **meta,
                "cfg": self.cfg.pretty_text,
                "settings": self._settings(),
                "seed": self.seed,
                **({} if (threads := threads_of_run()) is None else {"threads": threads}),
                "experiment_name": self.experiment_name,
                "mmengine_version": mmengine.__version__,
                **leave_out_objects({"dataset_meta": metainfo}),
            },
            "state_dict": self.bare_model.state_dict(),
            "message_hub": {
                "log_scalars": hub["log_scalars"],
                "runtime_info": info,
                "resumed_keys": {k: v for k, v in hub["resumed_keys"].items() if k in known},
            },
        }
        if save_optimizer:
            content["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            content["param_schedulers"] = [
                leave_out_objects(scheduler.state_dict())
                for scheduler in flat(self.param_schedulers)
            ]
        self.call_hook("before_save_checkpoint", checkpoint=content)
        write = write_folder if shards and shards.sharded else write_file
        write(
            Path(out_dir, filename), to_serializable(content, shards.store if shards else _to_cpu)
        )


def flat(schedulers: Any) -> list[Any]:
    """Schedulers, or their states, of one optimiser or of several, as one list."""
    if isinstance(schedulers, Mapping):
        return [one for some in schedulers.values() for one in some]
    return list(schedulers or ())


def _meta_of_run(filename: str, content: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint that a run can go on from.

    Raises:
        CheckpointError: if it is not one.
    """
    missing = {"optimizer", "message_hub", "meta"} - set(content)
    if missing:
        raise CheckpointError(
            f"{filename} has no {', '.join(sorted(missing))}, so it cannot be resumed. Resume from "
            f"an iter_*.pth, or start from its weights: --cfg-options load_from={filename}"
        )
    meta = content["meta"]
    for name in {"epoch", "iter", "seed"} | ({"samples", "threads"} & set(meta)):
        if not isinstance(meta.get(name), int) or meta[name] < (name == "threads"):
            raise CheckpointError(
                f"{filename} has {meta.get(name)!r} as its {name}, expected a number: it was not "
                "written by a run of this version, or is damaged."
            )
    return meta


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()
