"""Steps over batches that do not fit into memory at once, with an exact contrastive loss.

Adding up the gradients of small batches is no substitute for a large one: a sample would be
compared with those of its small batch only. Here embeddings of all of them are computed first,
without gradient; the loss over the whole batch gives each embedding its gradient; then each small
batch, a micro-batch, is run again, with the gradient at hand. Memory is that of one micro-batch,
and of the embeddings; the price is one more forward pass of the whole inputs.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


def accumulated_step(
    model: nn.Module, data: dict[str, Any], optim_wrapper: OptimWrapper, micro_batch_size: int
) -> dict[str, Tensor]:
    """One training step, as the model's `train_step`, over micro-batches.

    The contrastive loss compares all samples of all processes. All other losses are those of the
    micro-batches, averaged with their sizes as weights: so one process with two micro-batches does
    what two processes do.

    Args:
        model: `OnePeaceRetriever` or `OnePeacePretrainer`, in a data parallel wrapper or sharded by
            `fully_shard` or neither; every use of its parameters goes through its `forward`.
        data: a batch of the data loader: nested dictionaries of sequences, one entry a sample.
        optim_wrapper: updates once.
        micro_batch_size: samples that are in memory at once; the last may be fewer.

    Returns:
        what is logged: losses and accuracies of the whole batch.

    Raises:
        TypeError: if the model has no contrastive loss to be cached.
        ValueError: if the optimiser wrapper accumulates too.
    """
    total = len(next(iter(data["inputs"].values())))
    if total <= micro_batch_size:
        return model.train_step(data, optim_wrapper=optim_wrapper)
    module = model.module if is_model_wrapper(model) else model
    _check(module, optim_wrapper)
    starts = range(0, total, micro_batch_size)
    rows = [slice(start, min(start + micro_batch_size, total)) for start in starts]
    seeds = torch.randint(2**63 - 1, (len(rows),), device="cpu").tolist()

    def run(i: int, **kwargs: Any) -> Any:
        # Both passes of a micro-batch draw the same masks of drop path.
        with _seeded(seeds[i], module), optim_wrapper.optim_context(model):
            # Padded and normalised anew each time: the whole batch would fill the memory.
            micro_batch = module.data_preprocessor(_take(data, rows[i]), True)
            return model(**micro_batch, **kwargs)

    with torch.no_grad():
        parts, scales = zip(*(run(i, mode="contrast") for i in range(len(rows))), strict=True)
    embeddings = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    results, cached = module.cache_contrast(embeddings, scales[0], data.get("data_samples"))

    for i, part in enumerate(rows):
        share = (part.stop - part.start) / total
        with _synchronising(model, i == len(rows) - 1):
            losses = run(i, mode="loss", contrast=cached.part(part))
            surrogate = losses.pop("surrogate")
            optim_wrapper.backward(sum((share * x for x in losses.values()), surrogate))
        for name, value in losses.items():
            results[name] = results.get(name, 0) + share * value.detach()
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return module.parse_losses(results)[1]


def _check(module: nn.Module, optim_wrapper: OptimWrapper) -> None:
    if not hasattr(module, "cache_contrast"):
        raise TypeError(
            f"{type(module).__name__} has no contrastive loss that could be cached; "
            "OnePeacePretrainer and OnePeaceRetriever have. Leave train_cfg.micro_batch_size out, "
            "and set optim_wrapper.accumulative_counts instead."
        )
    counts = optim_wrapper._accumulative_counts
    if counts != 1:
        raise ValueError(
            f"optim_wrapper.accumulative_counts is {counts}, expected 1: micro-batches are "
            "accumulated within a step. Raise train_dataloader.batch_size instead."
        )


def _take(data: Any, rows: slice) -> Any:
    """Some samples of a batch."""
    if isinstance(data, dict):
        return {name: _take(value, rows) for name, value in data.items()}
    return data if data is None else data[rows]


@contextmanager
def _seeded(seed: int, module: nn.Module) -> Iterator[None]:
    """EpochIndex what the seed says; afterwards the generators are where they were."""
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _synchronising(model: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients between processes in the last backward pass only."""
    with ExitStack() as stack:
        if hasattr(model, "set_requires_gradient_sync"):  # `fully_shard`
            model.set_requires_gradient_sync(last)
            model.set_is_last_backward(last)
        elif hasattr(model, "no_sync") and not last:  # DistributedDataParallel
            stack.enter_context(model.no_sync())
        yield
