"""Training through MMEngine's runners: a killed run resumes as if nothing had happened.

A step is a function of the weights, the optimiser state and the step number: data sets derive the
randomness of a sample from its index and epoch, samplers can start anywhere in their stream, and
`StepSeedHook` seeds what is random in the model. Hence a checkpoint stores no random state, and
neither evaluations nor workers change what comes after them.
"""

from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmonepeace.checks import CheckError
from mmonepeace.engine.hooks import CheckpointMetadataHook, StepSeedHook
from mmonepeace.engine.resumable_runner import ResumableRunner
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.engine.train_loop import make_resumable
from mmonepeace.garbage import only_new_garbage
from mmonepeace.registry import RUNNERS


@RUNNERS.register_module()
class FinetuneRunner(ResumableRunner, Runner):
    """MMEngine's runner for segmentation, detection and classification, resumed bit for bit.

    What recipes of MMEngine name is replaced by what can resume: its loops, samplers and
    `CheckpointHook`, see `make_resumable`; training samples are seeded by `SeededDataset` and steps
    by `StepSeedHook`. Loops and samplers of others, with state of their own, stay as they are.

    A sample that cannot be read is replaced in training and left out of scores, see
    `mmonepeace.datasets.TolerantDataset`; more than the fraction `max_broken` of the config (0.05)
    end the run.
    """

    def set_seed(self, seed: int) -> None:
        """Seed everything that is not built yet."""
        self._randomness_cfg = {**self._randomness_cfg, "seed": seed}
        self.set_randomness(**self._randomness_cfg)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the hooks of the config, and those that seed steps and tell of broken samples."""
        super().register_hooks(*args, **kwargs)
        if not any(isinstance(hook, StepSeedHook) for hook in self.hooks):
            self.register_hook(StepSeedHook())
        # Without it nothing would say how LoRA is merged.
        has_lora = getattr(getattr(self.bare_model, "backbone", None), "lora", None)
        if has_lora and not any(isinstance(hook, CheckpointMetadataHook) for hook in self.hooks):
            self.register_hook(CheckpointMetadataHook())
        for name in ("BrokenSamplesHook", "LeftOutHook"):
            self.register_hook(dict(type=f"mmonepeace.{name}"))

    def build_dataloader(
        self, dataloader: DataLoader[Any] | dict[str, Any], *args: Any, **kwargs: Any
    ) -> DataLoader[Any]:
        """Build a data loader whose data sets replace what they cannot read.

        Raises:
            CheckError: for a `max_broken` that is no fraction.
        """
        limit = self.cfg.get("max_broken", 0.05)
        if not isinstance(limit, (int, float)) or not 0 <= limit < 1:
            raise CheckError(f"max_broken is {limit!r}, expected a fraction from 0 to below 1.")
        if isinstance(dataloader, dict):
            dataset = dict(
                type="mmonepeace.tolerate_broken", dataset=dataloader["dataset"], max_broken=limit
            )
            dataloader = {**dataloader, "dataset": dataset}
        with only_new_garbage():  # MMEngine looks for it with each data set
            return super().build_dataloader(dataloader, *args, **kwargs)

    def build_train_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the training loop and its data loader, in the form that can resume."""
        self.find_start()
        if isinstance(loop, dict) and isinstance(self._train_dataloader, dict):
            seed = [self.seed]
            broadcast_object_list(seed)
            loop, self._train_dataloader = make_resumable(loop, self._train_dataloader, seed[0])
        return super().build_train_loop(loop)

    def _init_model_weights(self) -> None:
        if not self._resume:  # else a checkpoint has all, and files of init_cfg may be gone
            super()._init_model_weights()


@RUNNERS.register_module()
class PretrainRunner(ResumableRunner, FlexibleRunner):
    """MMEngine's runner for `OnePeacePretrainer`, in one process, data parallel or sharded.

    Checkpoints of one strategy can be resumed with another and with any number of processes.

    Args:
        args: of `FlexibleRunner`.
        stage_one: checkpoint that the second stage starts from; unused when resuming.
        kwargs: of `FlexibleRunner`.
    """

    def __init__(self, *args: Any, stage_one: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage_one = stage_one
        self.shards = self.strategy if isinstance(self.strategy, FSDP2Strategy) else None

    @classmethod
    def from_cfg(cls, cfg: Config) -> "PretrainRunner":
        """Build a runner from a config. With a first stage `learn_all` of the model is off."""
        if cfg.get("stage_one") and "learn_all" in cfg.get("model", {}):
            # Here and not in the weights it starts from, because a resumed run reads none.
            cfg.model.learn_all = False
        runner = super().from_cfg(cfg)
        runner.stage_one = cfg.get("stage_one")
        return runner

    def set_seed(self, seed: int) -> None:
        """Seed everything that is not built yet."""
        self._randomness_cfg = {**self._randomness_cfg, "seed": seed}
        self.strategy._set_randomness(**self._randomness_cfg)

    def prepare(self) -> None:
        """Build all that training needs, and find the checkpoint to resume from.

        Raises:
            CheckError: if all checkpoints of the work directory are damaged.
        """
        self._train_loop = self.build_train_loop(self._train_loop)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        if self.shards:
            self.shards.skip_init = self._load_from is not None
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

    def start_afresh(self) -> None:
        """Start the second stage from the first."""
        if self.stage_one:
            self.logger.info(str(self.bare_model.load_stage_one(self.stage_one)))
        elif getattr(self.bare_model, "is_frozen", False):
            self.logger.warning(
                "this stage trains only one modality, and without stage_one all else stays randomly "
                "initialised. Name the checkpoint of the first stage: --stage-one CKPT"
            )
