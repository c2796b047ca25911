"""Tensors that are computed once and kept."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor

Make = Callable[..., Tensor]


def byte_bounded_lru_cache(limit: int) -> Callable[[Make], Make]:
    """Keep what a function returned last, for all that follows: inference, training, other blocks.

    In a graph that is being compiled the function is computed, and nothing kept.

    Args:
        limit: bytes that are kept; the latest tensor is kept whatever its size.

    Returns:
        a decorator for functions of hashable arguments; `cache_clear()` of what it makes forgets.
    """

    def decorate(make: Make) -> Make:
        kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        lock = Lock()  # a model may serve several threads

        @wraps(make)
        def cached(*args: Any) -> Tensor:
            if torch.compiler.is_compiling():
                return make(*args)
            with lock:
                if args not in kept:
                    with torch.inference_mode(False):  # or they could not serve training
                        value = make(*args)
                    room = limit - value.nbytes
                    while kept and sum(x.nbytes for x in kept.values()) > room:
                        kept.popitem(last=False)
                    kept[args] = value
                kept.move_to_end(args)
                return kept[args]

        cached.cache_clear = kept.clear
        return cached

    return decorate
