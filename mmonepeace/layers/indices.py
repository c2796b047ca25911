"""Indices that the CPU knows, for tensors on any device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def index_for(x: Tensor, indices: Sequence[int] | np.ndarray) -> Tensor:
    """(N,) int64 on the device of `x`, in a copy that the CPU does not wait for."""
    index = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    # From memory that is not pinned: it is read before the call returns.
    return index.to(x.device, non_blocking=True)
