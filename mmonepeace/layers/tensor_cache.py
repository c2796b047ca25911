"""A byte-bounded LRU cache of computed tensors."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mmonepeace.layers.tracing import is_traced

Make = Callable[..., Tensor]


def byte_bounded_lru_cache(limit: int) -> Callable[[Make], Make]:
    """Cache the tensors that a function returns, for inference and training alike.

    The function has hashable arguments and gets `cache_clear()`. In a graph that is being compiled or traced
    nothing is cached. Fake tensors are kept as long as their mode: later calls could not compute with them,
    but those under the same mode share them, as real ones do.

    Args:
        limit: bytes to keep; the latest tensor is kept whatever its size.
    """

    def decorate(make: Make) -> Make:
        kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        lock = Lock()  # a model may serve several threads

        @wraps(make)
        def cached(*args: Any) -> Tensor:
            if is_traced():
                return make(*args)
            mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
            if mode is not None:
                fakes = vars(mode).setdefault("kept_tensors", {})
                if (make, args) not in fakes:
                    fakes[make, args] = make(*args)
                return fakes[make, args]
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

        cached.cache_clear = kept.clear  # type: ignore[attr-defined]  # as in functools
        return cached

    return decorate
