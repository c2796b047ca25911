"""Pretraining through MMEngine's runner, in such a way that a killed run goes on as if nothing had
happened.

A step is a function of the weights, the optimiser and the number of the step: data sets derive the
randomness of a sample from its number and epoch, samplers begin anywhere in their stream, and
`StepSeedHook` seeds what is random in the model. Hence a checkpoint stores no random state, and
neither evaluations nor workers change what comes after them.
"""

import math
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import FlexibleRunner, IterBasedTrainLoop
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.engine.accumulation import accumulated_step
from mmonepeace.engine.resuming import (
    find_latest_valid_checkpoint,
    to_serializable,
    write_file,
    write_folder,
)
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.registry import HOOKS, LOOPS, RUNNERS


@RUNNERS.register_module()
class PretrainRunner(FlexibleRunner):
    """MMEngine's runner for `OnePeacePretrainer`, in one process, data parallel or sharded.

    Checkpoints appear whole or not at all, and those of one strategy can be resumed with another,
    with any number of processes. `resume` without `load_from` takes the newest of the work
    directory that is whole. Weights are loaded strictly.

    Args:
        args: of `FlexibleRunner`.
        stage_one: checkpoint that the second stage starts from, unless it is resumed.
        kwargs: of `FlexibleRunner`.
    """

    def __init__(self, *args: Any, stage_one: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage_one = stage_one
        self._shards = self.strategy if isinstance(self.strategy, FSDP2Strategy) else None

    @classmethod
    def from_cfg(cls, cfg: Config) -> "PretrainRunner":
        """Build a runner from a config."""
        runner = super().from_cfg(cfg)
        runner.stage_one = cfg.get("stage_one")
        return runner

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper of data parallel training."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def prepare(self) -> None:
        """Build all that training needs, and find the checkpoint that it goes on from.

        Raises:
            PreflightError: if there are checkpoints to go on from, but none is whole.
        """
        self._train_loop = self.build_train_loop(self._train_loop)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        self._find_start()
        self.strategy.prepare(
            self.model,
            optim_wrapper=self.optim_wrapper,
            param_scheduler=self.param_schedulers,
            dispatch_kwargs=dict(
                epoch_length=len(self.train_dataloader),
                max_epochs=self.max_epochs,
                max_iters=self.max_iters,
                train_micro_batch_size_per_gpu=self.train_dataloader.batch_size,
            ),
        )
        self.model = self.strategy.model
        self.optim_wrapper = self.strategy.optim_wrapper
        if self.param_schedulers is not None:
            self.param_schedulers = self.strategy.param_schedulers

    def train(self) -> nn.Module:
        """Train, from the start or from where a checkpoint was.

        Returns:
            the model, in its wrapper.
        """
        self.prepare()
        self.load_or_resume()
        self.call_hook("before_run")
        model = self.train_loop.run()
        self.call_hook("after_run")
        return model

    def _find_start(self) -> None:
        if self._resume and self._load_from is None:
            self._load_from = find_latest_valid_checkpoint(self.work_dir)
            self._resume = self._load_from is not None
        if self._shards:
            self._shards.skip_init = self._load_from is not None

    def load_or_resume(self) -> None:
        """Go on from a checkpoint if there is one, else begin, the second stage with the first."""
        if self._has_loaded:
            return
        self._has_loaded = True
        self._find_start()
        if self._load_from is not None:
            load = self.resume if self._resume else self.load_checkpoint
            load(self._load_from)
        elif self.stage_one:
            self.logger.info(str(self.bare_model.load_stage_one(self.stage_one)))
        elif getattr(self.bare_model, "stage", None) and self.bare_model.stage.frozen:
            self.logger.warning(
                "this stage trains only one modality, and without stage_one all else stays at its "
                "random start. Give the checkpoint of the first stage: --stage-one CKPT"
            )

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> None:
        """Load weights.

        Args:
            filename: any file with the model's own names, see `checkpoint.read`.

        Raises:
            CheckpointError: if it cannot be read, or lacks a parameter or has another one.
        """
        self.logger.info(f"Weights are loaded from {filename}")
        weights, meta = checkpoint.read(filename)
        self._load_weights(filename, {"state_dict": weights, "meta": meta})

    def _load_weights(self, filename: str, content: dict[str, Any]) -> None:
        self.call_hook("after_load_checkpoint", checkpoint=content)
        try:
            self.bare_model.load_state_dict(content["state_dict"])
        except RuntimeError as error:  # which names all parameters
            raise CheckpointError(
                f"{filename}: {error}\nUse the recipe that the checkpoint was trained with."
            ) from None

    def resume(self, filename: str, *_: Any, **__: Any) -> None:
        """Go on with a run: weights, optimiser, schedules, logs, seed and step.

        Args:
            filename: checkpoint of a run, a file or a folder, see `checkpoint.read_run`.

        Raises:
            CheckpointError: if it cannot be read or does not fit, or holds weights only.
        """
        self.logger.info(f"Training goes on from {filename}")
        content = checkpoint.read_run(
            filename, self._shards.take if self._shards else checkpoint.join
        )
        lacking = {"optimizer", "message_hub"} - set(content)
        if lacking:
            raise CheckpointError(
                f"{filename} has no {', '.join(sorted(lacking))}, so no run can go on from it. "
                "Resume from an iter_*.pth, or begin with its weights: --cfg-options "
                f"load_from={filename}"
            )
        self._load_weights(filename, content)
        self.optim_wrapper.load_state_dict(content["optimizer"])
        if self.param_schedulers is not None:
            self.strategy.load_scheduler_state_dict(content["param_schedulers"])
        meta = content["meta"]
        self.train_loop._epoch, self.train_loop._iter = meta["epoch"], meta["iter"]
        if meta["seed"] != self.seed:
            self.logger.warning(
                f"the run was begun with seed {meta['seed']}, not {self.seed}; it stays the same."
            )
            self.strategy._set_randomness(**{**self._randomness_cfg, "seed": meta["seed"]})
        hub = content["message_hub"]
        logs = {
            name: HistoryBuffer(*(numbers.numpy() for numbers in log))
            for name, log in hub["log_scalars"].items()
        }
        self.message_hub.load_state_dict({**hub, "log_scalars": logs})
        self.logger.info(f"resumed at step {self.iter}")

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
        """Write a checkpoint, one file for all strategies; or a folder, if they shard so.

        Args:
            out_dir: a folder that all machines share.
            filename: of the file, or of the folder.
            file_client_args: of no use here.
            save_optimizer: False leaves the optimiser's state out.
            save_param_scheduler: the same for the schedules.
            meta: epoch and step; those of this moment by default.
        """
        shards = self._shards
        if not shards and not is_main_process():
            return
        content = {
            "meta": {
                "epoch": self.epoch,
                "iter": self.iter + 1,
                **(meta or {}),
                "cfg": self.cfg.pretty_text,
                "seed": self.seed,
                "experiment_name": self.experiment_name,
                "mmengine_version": mmengine.__version__,
                "dataset_meta": getattr(self.train_dataloader.dataset, "metainfo", None),
            },
            "state_dict": self.bare_model.state_dict(),
            "message_hub": self.message_hub.state_dict(),
        }
        if save_optimizer:
            content["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            content["param_schedulers"] = self.strategy.scheduler_state_dict()
        self.call_hook("before_save_checkpoint", checkpoint=content)
        write = write_folder if shards and shards.sharded else write_file
        write(
            Path(out_dir, filename), to_serializable(content, shards.store if shards else _to_cpu)
        )


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


@LOOPS.register_module()
class EndlessTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` over a stream that can begin anywhere: resuming reads nothing twice.

    The data set, if it is a stream, or else the sampler has `skip`, as `ShardDataset` and
    `EndlessSampler` do.

    Args:
        args: of `IterBasedTrainLoop`.
        micro_batch_size: samples of a process that are in memory at once; None: all those of a
            step, which the data loader gives. The contrastive loss compares all of them either
            way, see `accumulated_step`.
        kwargs: of `IterBasedTrainLoop`.

    Raises:
        ValueError: if `micro_batch_size` is not positive.
    """

    def __init__(self, *args: Any, micro_batch_size: int | None = None, **kwargs: Any) -> None:
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(
                f"train_cfg.micro_batch_size is {micro_batch_size}, expected 1 or more samples, or "
                "None for the whole batch at once."
            )
        super().__init__(*args, **kwargs)
        self.micro_batch_size = micro_batch_size
        self.dataloader = self.dataloader_iterator = EndlessLoader(self.dataloader)

    def run(self) -> torch.nn.Module:
        """Train; then let the workers go."""
        try:
            return super().run()
        finally:
            self.dataloader_iterator.close()

    def run_iter(self, data_batch: dict[str, Any]) -> None:
        """One step over a batch of the data loader, with the hooks around it."""
        if self.micro_batch_size is None:
            super().run_iter(data_batch)
            return
        runner, where = self.runner, dict(batch_idx=self._iter, data_batch=data_batch)
        runner.call_hook("before_train_iter", **where)
        outputs = accumulated_step(
            runner.model, data_batch, runner.optim_wrapper, self.micro_batch_size
        )
        runner.call_hook("after_train_iter", **where, outputs=outputs)
        self._iter += 1


class EndlessLoader:
    """The batches of a data loader as one iterator without end.

    To MMEngine, which asks a data loader for its length, it has that of an epoch.

    Args:
        loader: the data loader.

    Raises:
        TypeError: if its stream cannot begin anywhere.
    """

    def __init__(self, loader: DataLoader) -> None:
        is_stream = isinstance(loader.dataset, IterableDataset)
        self.source = loader.dataset if is_stream else loader.sampler
        if not hasattr(self.source, "skip"):
            raise TypeError(
                f"{type(self.source).__name__} cannot begin in the middle, so no run could be "
                "resumed. Set train_dataloader.sampler.type to mmonepeace.EndlessSampler."
            )
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.loader = loader
        self.batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        # A stream that had a length would be taken by torch for one with an end.
        samples = getattr(self.dataset, "total", None) or len(self.dataset)
        return math.ceil(samples / (self.loader.batch_size * get_world_size()))

    def skip_iter(self, number: int) -> None:
        """Begin after so many batches; MMEngine's loop calls it."""
        self.source.skip(number * self.loader.batch_size)

    def close(self) -> None:
        """End the workers; the garbage collector would wait 5 s for each of an endless stream."""
        self.batches = None

    def __next__(self) -> Any:
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seed each training step with the run's seed, the process and the number of the step."""

    priority = "VERY_HIGH"

    def before_train_iter(
        self, runner: FlexibleRunner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Seed Python, NumPy and torch, GPUs included."""
        sequence = np.random.SeedSequence((runner.seed, runner.rank, runner.iter))
        (seed,) = sequence.generate_state(1).tolist()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Log `pairs_per_second` of all processes, and `memory` also where there is no GPU: the most that
    this process has held, in MiB.

    Args:
        window_size: number of iterations that are averaged.
    """

    # After IterTimerHook, which is a default hook of this priority, and before LoggerHook.
    priority = "NORMAL"

    def __init__(self, window_size: int = 10) -> None:
        self.window_size = window_size

    def after_train_iter(
        self,
        runner: FlexibleRunner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Divide pairs by time; look up the memory."""
        seconds = runner.message_hub.get_scalar("train/time").mean(self.window_size)
        pairs = len(data_batch["data_samples"]) * get_world_size()
        runner.message_hub.update_scalar("train/pairs_per_second", pairs / seconds)
        if not torch.cuda.is_available():  # else MMEngine logs that of the GPU
            kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            runner.message_hub.update_scalar("train/memory", kibibytes // 1024)


@HOOKS.register_module()
class MeanLogHook(Hook):
    """Log losses and accuracies of all processes: their mean, which is that of the whole batch."""

    priority = "HIGHEST"  # before RuntimeInfoHook passes them on

    def after_train_iter(
        self,
        runner: FlexibleRunner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Replace what a step returned."""
        if outputs and get_world_size() > 1:
            values = torch.stack([value.detach().float() for value in outputs.values()])
            all_reduce(values, "mean")
            outputs.update(zip(outputs, values.unbind(), strict=True))
