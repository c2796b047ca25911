"""Whether operators are written down for later, rather than computed for what is there."""

import torch


def is_traced() -> bool:
    """Whether `torch.compile`, `torch.export` or `torch.jit.trace` follows.

    A graph is for tensors of any size and content: what is chosen by them, or kept from one pass to the
    next, is left out of it.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
