"""Pretraining through MMEngine's runner: a killed run resumes as if nothing had happened.

A step is a function of the weights, the optimiser state and the step number: data sets derive the
randomness of a sample from its index and epoch, samplers can start anywhere in their stream, and
`StepSeedHook` seeds what is random in the model. Hence a checkpoint stores no random state, and
neither evaluations nor workers change what comes after them.
"""

from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import FlexibleRunner
from torch import Tensor, nn

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.engine.divergence import refuse_non_finite
from mmonepeace.engine.resuming import (
    find_latest_valid_checkpoint,
    to_serializable,
    write_file,
    write_folder,
)
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.registry import RUNNERS


@RUNNERS.register_module()
class PretrainRunner(FlexibleRunner):
    """MMEngine's runner for `OnePeacePretrainer`, in one process, data parallel or sharded.

    Checkpoints are written atomically, and those of one strategy can be resumed with another and
    with any number of processes. `resume` without `load_from` takes the newest valid one of the
    work directory. Weights are loaded strictly.

    Args:
        args: of `FlexibleRunner`.
        stage_one: checkpoint that the second stage starts from; unused when resuming.
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
    def bare_model(self) -> BaseModel:
        """The model without the wrapper of data parallel training."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def prepare(self) -> None:
        """Build all that training needs, and find the checkpoint to resume from.

        Raises:
            CheckError: if all checkpoints of the work directory are damaged.
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
        """Train, from the start or from a checkpoint.

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
        """Resume or load a checkpoint if there is one; else start, the second stage from the first."""
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
                "this stage trains only one modality, and without stage_one all else stays randomly "
                "initialised. Name the checkpoint of the first stage: --stage-one CKPT"
            )

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> None:
        """Load weights from a file with the model's own key names.

        Raises:
            CheckpointError: if it cannot be read, or its parameters are not those of the model.
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
        """Resume a run from a file or folder: weights, optimiser, schedules, logs, seed and step.

        Raises:
            CheckpointError: if it cannot be read or does not fit, or holds weights only.
        """
        self.logger.info(f"Resuming from {filename}")
        content = checkpoint.read_run(
            filename, self._shards.take if self._shards else checkpoint.join
        )
        missing = {"optimizer", "message_hub"} - set(content)
        if missing:
            raise CheckpointError(
                f"{filename} has no {', '.join(sorted(missing))}, so it cannot be resumed. "
                "Resume from an iter_*.pth, or start from its weights: --cfg-options "
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
                f"the run was started with seed {meta['seed']}, not {self.seed}; it keeps its seed."
            )
            self.strategy._set_randomness(**{**self._randomness_cfg, "seed": meta["seed"]})
        hub = content["message_hub"]
        logs = {
            name: HistoryBuffer(*(values.numpy() for values in log))
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
        """Write a checkpoint to a folder of all machines: one file, or a folder of shards.

        Optimiser and schedules may be left out; `meta` has the current epoch and step by default.

        Raises:
            DivergedError: if weights or optimiser state are not finite.
        """
        refuse_non_finite(self, (meta or {}).get("iter", self.iter + 1))
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
