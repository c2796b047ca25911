"""The training loop of pretraining, over a stream of samples that can start anywhere."""

import math
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmonepeace.engine.accumulation import accumulated_step
from mmonepeace.registry import LOOPS


@LOOPS.register_module()
class EndlessTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` over a stream that can start anywhere: resuming skips without reading.

    The data set (if it is a stream) or else the sampler must have `skip`, as `ShardDataset` and
    `EndlessSampler` do.

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


class EndlessLoader:
    """The batches of a data loader as one endless iterator, with the length of an epoch.

    Raises:
        TypeError: if its stream cannot start anywhere.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        is_stream = isinstance(loader.dataset, IterableDataset)
        self.source: Any = loader.dataset if is_stream else loader.sampler
        if not hasattr(self.source, "skip"):
            raise TypeError(
                f"{type(self.source).__name__} cannot skip samples, so no run could be "
                "resumed. Set train_dataloader.sampler.type to mmonepeace.EndlessSampler."
            )
        self.dataset: Any = loader.dataset
        self.batch_size = loader.batch_size or 1
        self.loader = loader
        self.batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        # torch would take a stream with a length for a finite one.
        samples = getattr(self.dataset, "total", None) or len(self.dataset)
        return math.ceil(samples / (self.batch_size * get_world_size()))

    def skip_iter(self, number: int) -> None:
        """Start after this many batches; MMEngine's loop calls it."""
        self.source.skip(number * self.batch_size)

    def close(self) -> None:
        """Stop the workers; garbage collection would wait 5 s for each one of an endless stream."""
        self.batches = None

    def __next__(self) -> Any:
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)
