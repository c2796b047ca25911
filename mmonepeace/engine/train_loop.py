"""Training loops that can start anywhere: what was trained on is skipped without being read."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.registry import DATA_SAMPLERS, DATASETS, Registry
from mmengine.registry import LOOPS as ANY_LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmonepeace.engine.accumulation import accumulated_step
from mmonepeace.registry import LOOPS


@LOOPS.register_module()
class EndlessTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` over a stream that can start anywhere: resuming skips without reading.

    The data set (if it is a stream) or else the sampler must have `skip`, as `ShardDataset` and
    `EndlessSampler` do, or the batches come from a `ResumableBatchSampler`.

    Args:
        args: of `IterBasedTrainLoop`.
        micro_batch_size: samples that a process holds in memory at once; None means the whole
            batch of the data loader. The contrastive loss compares all of them either way, see
            `accumulated_step`.
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

    def samples_at(self, epoch: int, step: int) -> int:
        """Samples that all processes have drawn in so many steps."""
        return get_world_size() * self.dataloader_iterator.samples_at(step)

    def resume_at(self, epoch: int, step: int, samples: int) -> None:
        """Go on after so many steps, and after the samples that all processes drew in them."""
        self._epoch, self._iter = epoch, step
        self.dataloader_iterator.count_from(step, samples // get_world_size())

    def run(self) -> nn.Module:
        """Train, then stop the workers."""
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


@LOOPS.register_module()
class EpochTrainLoop(EpochBasedTrainLoop):
    """`EpochBasedTrainLoop` whose epochs can start at any batch: resuming skips without reading.

    The batches of its data loader come from a `ResumableBatchSampler`.
    """

    def samples_at(self, epoch: int, step: int) -> int:
        """Samples of the epoch that all processes have drawn in so many steps."""
        if epoch > self._epoch:  # at its end
            return 0
        return (step - epoch * len(self.dataloader)) * samples_of_step(self.dataloader)

    def resume_at(self, epoch: int, step: int, samples: int) -> None:
        """Go on after so many epochs, and samples of the next one; steps are those of today's batch."""
        first = samples // samples_of_step(self.dataloader)
        self._epoch, self._iter = epoch, epoch * len(self.dataloader) + first

    def run_epoch(self) -> None:
        """Train an epoch, or what is left of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first = self._iter - self._epoch * len(self.dataloader)
        self.dataloader.batch_sampler.start_at(first, self._epoch)
        for idx, data_batch in enumerate(self.dataloader, first):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


class EndlessLoader:
    """The batches of a data loader as one endless iterator, with the length of an epoch.

    All other attributes are those of the data loader.

    Raises:
        TypeError: if its stream cannot start anywhere.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        is_stream = isinstance(loader.dataset, IterableDataset)
        self.source: Any = loader.dataset if is_stream else loader.sampler
        if hasattr(loader.batch_sampler, "start_at"):
            self.source = loader.batch_sampler
        elif not hasattr(self.source, "skip"):
            raise TypeError(
                f"{type(self.source).__name__} cannot skip samples, so no run could be "
                "resumed. Set train_dataloader.sampler.type to mmonepeace.EndlessSampler."
            )
        self.dataset: Any = loader.dataset
        size: Any = loader.batch_size or getattr(self.source, "batch_size", 1)
        self.batch_size: int = size
        self.batches: Iterator[Any] | None = None
        self._from = 0, 0  # step, and the samples of this process up to it

    def __len__(self) -> int:
        if hasattr(self.source, "start_at"):
            return len(self.source)
        # torch would take a stream with a length for a finite one.
        samples = getattr(self.dataset, "total", None) or len(self.dataset)
        return math.ceil(samples / (self.batch_size * get_world_size()))

    def __getattr__(self, name: str) -> Any:
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def count_from(self, step: int, samples: int) -> None:
        """This process drew so many samples in so many steps, maybe of another batch size."""
        if isinstance(self.dataset, IterableDataset):  # which only skips whole batches
            samples -= samples % self.batch_size
        self._from = step, samples

    def samples_at(self, step: int) -> int:
        """Samples of this process up to a step."""
        first, samples = self._from
        return samples + (step - first) * self.batch_size

    def skip_iter(self, number: int) -> None:
        """Start after this many batches; MMEngine's loop calls it."""
        if hasattr(self.source, "start_at"):
            self.source.start_at(self.samples_at(number) // self.batch_size)
        else:
            self.source.skip(self.samples_at(number))

    def close(self) -> None:
        """Stop the workers; garbage collection would wait 5 s for each one of an endless stream."""
        self.batches = None
        self.loader._iterator = None  # of persistent workers

    def __next__(self) -> Any:
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)


def samples_of_step(loader: Any) -> int:
    """Samples that all processes draw for a step."""
    return get_world_size() * (loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1))


def make_resumable(
    loop: Mapping[str, Any], loader: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configs of a loop and its data loader, such that a run can resume anywhere, bit for bit.

    MMEngine's loops become `EndlessTrainLoop` or `EpochTrainLoop`; its `InfiniteSampler`, and in
    loops that count steps its `DefaultSampler`, become `EndlessSampler`; other samplers and samplers
    of batches go into a `ResumableBatchSampler`, and the data set into a `SeededDataset`. Loops of
    other libraries are left alone, as are data sets that are streams.

    Args:
        loop: `train_cfg` of a recipe.
        loader: its `train_dataloader`.
        seed: of the order of the samples and of their augmentations.
    """
    if "type" in loop:
        kind = _find(ANY_LOOPS, loop["type"])
    else:
        kind = EpochBasedTrainLoop if loop.get("by_epoch") else IterBasedTrainLoop
    endless = kind is not EpochBasedTrainLoop
    if not (
        kind in (EpochBasedTrainLoop, IterBasedTrainLoop) or issubclass(kind, EndlessTrainLoop)
    ):
        return dict(loop), dict(loader)
    loader, sampler = dict(loader), loader.get("sampler")
    if not isinstance(sampler, Mapping):  # the data set is a stream
        if not (endless and hasattr(_find(DATASETS, loader["dataset"]["type"]), "skip")):
            return dict(loop), loader
    else:
        loader["dataset"] = dict(
            type="mmonepeace.SeededDataset", dataset=loader["dataset"], seed=seed
        )
        sampler_kind = _find(DATA_SAMPLERS, sampler["type"])
        if endless and sampler_kind in (InfiniteSampler, DefaultSampler):
            loader["sampler"] = dict(
                type="mmonepeace.EndlessSampler",
                shuffle=sampler.get("shuffle", True),
                seed=seed if sampler.get("seed") is None else sampler["seed"],
            )
        # Both of these can skip.
        in_turn = sampler_kind is DefaultSampler or hasattr(sampler_kind, "skip")
        if not (endless and in_turn) or loader.get("batch_sampler"):
            loader["batch_sampler"] = dict(
                type="mmonepeace.ResumableBatchSampler",
                batch_sampler=loader.get("batch_sampler"),
                drop_last=loader.pop("drop_last", False),
                endless=endless,
            )
    if kind in (EpochBasedTrainLoop, IterBasedTrainLoop):
        loop = {key: value for key, value in loop.items() if key != "by_epoch"}
        loop["type"] = EndlessTrainLoop if endless else EpochTrainLoop
    return dict(loop), loader


def _find(registry: Registry, kind: Any) -> Any:
    """The class that a config names."""
    with registry.switch_scope_and_registry(None) as local:
        return local.get(kind) if isinstance(kind, str) else kind
