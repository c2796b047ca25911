"""The bytes that tensors hold at each moment of a step, and its operations, real or fake.

What a library allocates within one operator is not seen, nor what an allocator holds beyond tensors.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
_SAME_OPERATIONS = {  # of one that PyTorch's table has
    aten.addmm_: aten.addmm,
    aten.baddbmm_: aten.baddbmm,
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward
    ),
}


@dataclass(slots=True)
class Block:
    """Memory of one tensor and its views.

    Attributes:
        size: bytes.
        born: when it was made, counted in blocks made and freed.
        phase: of the step in which it was made.
        kind: what it is, if that is known.
        freed: when; None: not yet.
    """

    size: int
    born: int
    phase: str
    kind: str = ""
    freed: int | None = None


class LiveMemory(TorchDispatchMode):
    """Follows the memory of all tensors that are made on a device inside it.

    Fake tensors have no numbers: what depends on them takes the largest size that it may have, or
    zero if it is a number.

    Args:
        device: "cpu" or "cuda"; tensors on others are not counted.
        counts: shape of fake tensors -> how many of their elements are true, or different, where that is
            known: less than the largest.

    Attributes:
        phase: name of the part of the step; set it from outside.
        operations: phase -> multiplications and additions of products, convolutions and attention.
        peak_phase: that with the peak.
        peak: most bytes at once, what was there before included, see `include`.
    """

    def __init__(self, device: str, counts: Mapping[tuple[int, ...], int] | None = None) -> None:
        super().__init__()
        self.device = device
        self.counts = counts or {}
        self.phase = self.peak_phase = ""
        self.operations: dict[str, int] = {}
        self.live = self.peak = self._now = self._peak_at = 0
        self._blocks: list[Block] = []
        self._known: dict[int, tuple[weakref.ref[Any], Block]] = {}

    def include(self, tensors: Iterable[Tensor], kind: str) -> int:
        """Count tensors that are there already, and say what they are; returns their bytes."""
        blocks = [block for x in tensors if (block := self._add(x)) is not None]
        for block in blocks:
            block.kind = kind
        return sum({id(block): block.size for block in blocks}.values())

    def start(self) -> None:
        """Forget what was freed, and the peak: it is that of what follows."""
        self._blocks = [block for block in self._blocks if block.freed is None]
        self.peak, self._peak_at = self.live, self._now

    def moment(self) -> int:
        """Now, for `at`."""
        return self._now

    def at(self, moment: int | None = None) -> list[Block]:
        """The blocks that lived at a moment, by default that of the peak."""
        when = self._peak_at if moment is None else moment
        return [b for b in self._blocks if b.born <= when and (b.freed is None or b.freed > when)]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator, count it and what it makes."""
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            out = self._largest(func, args, kwargs)
        for x in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(x, Tensor):
                self._add(x)
        packet = func._overloadpacket
        count = flop_registry.get(_SAME_OPERATIONS.get(packet, packet))
        if count is not None:
            before = self.operations.get(self.phase, 0)
            self.operations[self.phase] = before + count(*args, **kwargs, out_val=out)
        return out

    def _largest(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operator gives at most whose result depends on numbers that there are not."""
        packet = func._overloadpacket
        if packet is aten._local_scalar_dense:
            return 0.0 if args[0].is_floating_point() else args[0].dtype is not torch.bool and 0
        if packet is aten.equal:
            return True
        if packet is aten._unique2:  # and no inverse, no counts
            return args[0].new_empty(self._count(args[0])), *(args[0].new_empty(0) for _ in "12")
        if packet is aten.nonzero:
            return args[0].new_empty((self._count(args[0]), args[0].ndim), dtype=torch.int64)
        if packet is aten.masked_select:
            return args[0].new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape).numel())
        if packet in (aten.index, aten.index_put, aten.index_put_):
            x, indices, *rest = args
            found = [i for index in indices for i in self._positions(index)]
            return func(x, found, *rest, **kwargs)
        raise NotImplementedError(f"{func} depends on the numbers of its inputs")

    def _count(self, x: Tensor) -> int:
        return self.counts.get(tuple(x.shape), x.numel())

    def _positions(self, index: Tensor | None) -> list[Tensor | None]:
        """Positions of all elements of a mask, in place of it."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [index]
        return [index.new_empty(self._count(index), dtype=torch.int64) for _ in range(index.ndim)]

    def _add(self, x: Tensor) -> Block | None:
        if x.device.type != self.device:
            return None
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return self._known[key][1]
        self._now += 1
        block = Block(storage.nbytes(), self._now, self.phase)
        self._blocks.append(block)
        self._known[key] = weakref.ref(storage, self._when_freed(key, block)), block
        self.live += block.size
        if self.live > self.peak:
            self.peak, self._peak_at, self.peak_phase = self.live, self._now, self.phase
        return block

    def _when_freed(self, key: int, block: Block) -> Callable[[Any], None]:
        def free(_: Any) -> None:
            self._now += 1
            block.freed = self._now
            self.live -= block.size
            del self._known[key]

        return free
