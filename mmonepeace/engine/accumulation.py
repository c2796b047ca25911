"""Training steps over batches that do not fit into memory, with an exact contrastive loss.

Accumulating the gradients of small batches does not replace a large one: a sample would be
contrasted only with those of its small batch. Here the embeddings of the whole batch are computed
first, without gradient; the loss over all of them gives each embedding its gradient; then each
micro-batch is run again and backpropagates that gradient (gradient caching). Memory is that of one
micro-batch and of the embeddings; the price is one more forward pass.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


def accumulated_step(
    model: BaseModel, data: dict[str, Any], optim_wrapper: OptimWrapper, micro_batch_size: int
) -> dict[str, Tensor]:
    """One training step, as the model's `train_step`, over micro-batches.

    The contrastive loss compares all samples of all processes. All other losses are averaged over
    the micro-batches, weighted by their sizes, and compare masked tokens within a micro-batch: one
    process with two micro-batches does what two processes do. With the pretrainer's
    `gather_tokens`, they compare those of a micro-batch of each process.

    Args:
        model: `OnePeaceRetriever` or `OnePeacePretrainer`, bare, in a data parallel wrapper, or
            sharded by `fully_shard`. Its parameters are used through its `forward` only.
        data: a batch of the data loader: nested dictionaries of sequences, one entry per sample.
        optim_wrapper: takes one optimiser step.
        micro_batch_size: samples in memory at once; the last micro-batch may be smaller.

    Returns:
        losses and accuracies of the whole batch, for the log.

    Raises:
        TypeError: if the model has no contrastive loss.
        ValueError: if the optimiser wrapper accumulates gradients too.
    """
    total = len(next(iter(data["inputs"].values())))
    if total <= micro_batch_size:
        return model.train_step(data, optim_wrapper=optim_wrapper)
    module = model.module if is_model_wrapper(model) else model
    _check(module, optim_wrapper)
    starts = range(0, total, micro_batch_size)
    chunks = [slice(start, min(start + micro_batch_size, total)) for start in starts]
    seeds = torch.randint(2**63 - 1, (len(chunks),), device="cpu").tolist()

    def run(i: int, **kwargs: Any) -> Any:
        # Both passes of a micro-batch draw the same masks of drop path.
        with _seeded(seeds[i], module), optim_wrapper.optim_context(model):
            # Padded and normalised in each pass: keeping the whole batch would fill the memory.
            micro_batch = module.data_preprocessor(_take(data, chunks[i]), True)
            return model(**micro_batch, **kwargs)

    with torch.no_grad():
        outputs, scales = zip(*(run(i, mode="contrast") for i in range(len(chunks))), strict=True)
    embeddings = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
    results, cached = module.cache_contrast(embeddings, scales[0], data.get("data_samples"))

    for i, chunk in enumerate(chunks):
        weight = (chunk.stop - chunk.start) / total
        with _synchronising(model, i == len(chunks) - 1):
            losses = run(i, mode="loss", contrast=cached.part(chunk))
            surrogate = losses.pop("surrogate")
            optim_wrapper.backward(sum((weight * x for x in losses.values()), surrogate))
        for name, value in losses.items():
            results[name] = results.get(name, 0) + weight * value.detach()
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return module.parse_losses(results)[1]


def _check(module: nn.Module, optim_wrapper: OptimWrapper) -> None:
    if not hasattr(module, "cache_contrast"):
        raise TypeError(
            f"{type(module).__name__} has no contrastive loss; "
            "OnePeacePretrainer and OnePeaceRetriever have. Leave train_cfg.micro_batch_size out, "
            "and set optim_wrapper.accumulative_counts instead."
        )
    counts = optim_wrapper._accumulative_counts
    if counts != 1:
        raise ValueError(
            f"optim_wrapper.accumulative_counts is {counts}, expected 1: micro-batches are "
            "accumulated within a step. Raise train_dataloader.batch_size instead."
        )


def _take(data: Any, chunk: slice) -> Any:
    """A slice of the samples of a batch."""
    if isinstance(data, dict):
        return {name: _take(value, chunk) for name, value in data.items()}
    return data if data is None else data[chunk]


@contextmanager
def _seeded(seed: int, module: nn.Module) -> Iterator[None]:
    """Seed the generators inside the context, and restore their state after it."""
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _synchronising(model: Any, last: bool) -> Iterator[None]:
    """Synchronise gradients between processes in the last backward pass only."""
    with ExitStack() as stack:
        if hasattr(model, "set_requires_gradient_sync"):  # `fully_shard`
            model.set_requires_gradient_sync(last)
            model.set_is_last_backward(last)
        elif hasattr(model, "no_sync") and not last:  # DistributedDataParallel
            stack.enter_context(model.no_sync())
        yield
