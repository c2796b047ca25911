"""The shared Transformer: one attention for all modalities, one FFN per modality.

Shapes: B batch, L tokens, D width, F FFN width, H heads.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmonepeace.layers.attention import AnyBias, SelfAttention, use_cpu_kernels
from mmonepeace.layers.cpu.geglu import GatedWeights, chunked_geglu
from mmonepeace.layers.cpu.grid_attention import AttentionResultCache
from mmonepeace.layers.cpu.packing import Packed, Ragged
from mmonepeace.layers.tokens import Tokens
from mmonepeace.spec import LAYER_NORM_EPS, Arch


class GeGLU(nn.Module):
    """Gated FFN: down(norm(gelu(gate x) * up x)); GELU is the exact one.

    Args:
        arch: widths and variants.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim, hidden = arch.embed_dim, arch.ffn_dim
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden, LAYER_NORM_EPS) if arch.ffn_norm else nn.Identity()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        # Layers that others put in the place of these have their own ways.
        plain = all(type(layer) is nn.Linear for layer in (self.gate, self.up, self.down))
        if plain and use_cpu_kernels(x_BLD) and not torch.is_autocast_enabled("cpu"):
            norm = self.norm if isinstance(self.norm, nn.LayerNorm) else None
            return chunked_geglu(
                x_BLD,
                GatedWeights(
                    self.gate.weight,
                    self.up.weight,
                    norm and norm.weight,
                    norm and norm.bias,
                    self.down.weight,
                    self.down.bias,
                ),
            )
        return self.down(self.norm(F.gelu(self.gate(x_BLD)) * self.up(x_BLD)))


def _add(x: Tensor, found: Tensor, scale: Tensor | None, factor: float = 1) -> Tensor:
    """x + factor * scale * found, in one pass."""
    if scale is None:
        return torch.add(x, found, alpha=factor)
    return torch.addcmul(x, found, scale, value=factor)


class DropPath(nn.Module):
    """Stochastic depth per sample that does not compute what it drops.

    `x + mask / keep * branch(x)` with one Bernoulli(keep) draw per sample, as usual; the branch
    runs on the kept samples alone. Draws come from the CPU generator, so that the number of kept
    samples is known without waiting for the GPU.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate is {rate}; it must be in [0, 1).")
        self.rate = rate

    def forward(
        self,
        x: Tensor,
        branch: Callable[[Tensor, Tensor | None], Tensor],
        scale: Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Add a residual branch.

        Args:
            x: (B, ...), or (1, N, ...) with samples one behind the other.
            branch: called with samples and their indices in the batch (None: all of them).
            scale: LayerScale of the branch, which is added in the same pass.
            counts: tokens of each sample, if they stand one behind the other.

        Returns:
            as `x`.
        """
        if not self.training or self.rate == 0:
            return _add(x, branch(x, None), scale)
        keep = 1 - self.rate
        kept = torch.rand(len(x) if counts is None else len(counts), device="cpu") < keep
        if kept.all():
            return _add(x, branch(x, None), scale, 1 / keep)
        factor = 1 / keep
        if not kept.any():
            # Every parameter must get a gradient, if only zero, or DDP would wait for it.
            kept[0], factor = True, 0
        dim, rows = 0, kept
        if counts is not None:
            dim, rows = 1, kept.repeat_interleave(torch.tensor(counts, device="cpu"))
        index, rows = (
            mask.nonzero().squeeze(1).to(x.device, non_blocking=True) for mask in (kept, rows)
        )
        found = branch(x.index_select(dim, rows), index)
        found = found if scale is None else found * scale
        return x.index_add(dim, rows, found.to(x.dtype), alpha=factor)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class EncoderLayer(nn.Module):
    """Pre-LN block: shared attention, then the FFN of each token's modality, with LayerScale.

    Args:
        arch: widths and variants.
        modalities: keys of the FFNs.
        drop_path_rate: stochastic depth of both branches.
        layer_scale_init: initial LayerScale; None leaves LayerScale out.
    """

    def __init__(
        self,
        arch: Arch,
        modalities: Iterable[str],
        drop_path_rate: float,
        layer_scale_init: float | None,
    ) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.norm1 = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.attn = SelfAttention(arch)
        self.post_attn_norm = (
            nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.post_attn_norm else nn.Identity()
        )
        self.norm2 = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.ffn = nn.ModuleDict({name: GeGLU(arch) for name in modalities})
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale_init))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale_init))

    def _attend(self, x_BLD: Tensor, bias: AnyBias, index: Tensor | None) -> Tensor:
        if isinstance(bias, Ragged):
            bias = bias.select(index)
        elif index is not None and isinstance(bias, Tensor) and bias.shape[0] > 1:
            bias = bias[index]
        return self.post_attn_norm(self.mix(self.norm1(x_BLD), bias))

    def mix(self, x_BLD: Tensor, bias: AnyBias) -> Tensor:
        """Attention of normalised tokens, (B, L, D) -> (B, L, D)."""
        return self.attn(x_BLD, bias)

    def _feed(self, x_BLD: Tensor, segments: Sequence[tuple[str, int]]) -> Tensor:
        x = self.norm2(x_BLD)
        if len(segments) == 1:
            return self.ffn[segments[0][0]](x)
        parts = list(x.split([n for _, n in segments], dim=1))
        for modality in dict.fromkeys(name for name, _ in segments):
            places = [i for i, (name, _) in enumerate(segments) if name == modality]
            chosen = [parts[i] for i in places]
            # A single part is not copied.
            found = self.ffn[modality](torch.cat(chosen, 1) if len(chosen) > 1 else chosen[0])
            found = found.split([segments[i][1] for i in places], 1)
            for i, part in zip(places, found, strict=True):
                parts[i] = part
        return torch.cat(parts, 1)

    def forward(self, x_BLD: Tensor, lengths: dict[str, int], bias: AnyBias) -> Tensor:
        """(B, L, D) -> (B, L, D); `lengths` and `bias` as in `Tokens`."""
        ragged = bias if isinstance(bias, Ragged) else None

        def attend(x: Tensor, index: Tensor | None) -> Tensor:
            return self._attend(x, bias, index)

        def feed(x: Tensor, index: Tensor | None) -> Tensor:
            return self._feed(x, ragged.select(index).segments if ragged else [*lengths.items()])

        counts = ragged and ragged.counts
        x = self.drop_path(x_BLD, attend, self.gamma_1, counts)
        return self.drop_path(x, feed, self.gamma_2, counts)


class FusionEncoder(nn.ModuleList):
    """The stack of blocks.

    Args:
        depth: number of blocks.
        make_layer: (index, drop path rate) -> block.
        drop_path_rate: of the last block; it rises linearly from 0 at the first.
        with_cp: recompute each block, its bias included, in the backward pass instead of
            storing its activations.
    """

    def __init__(
        self,
        depth: int,
        make_layer: Callable[[int, float], EncoderLayer],
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        super().__init__(make_layer(i, rate) for i, rate in enumerate(rates))
        self.with_cp = with_cp

    @classmethod
    def of(
        cls,
        arch: Arch,
        modalities: Iterable[str],
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = None,
        with_cp: bool = False,
    ) -> "FusionEncoder":
        """The usual blocks; see `EncoderLayer` for what they take."""
        modalities = tuple(modalities)

        def layer(_block: int, rate: float) -> EncoderLayer:
            return EncoderLayer(arch, modalities, rate, layer_scale_init)

        return cls(arch.depth, layer, drop_path_rate, with_cp)

    def forward(self, tokens: Tokens, out_indices: Iterable[int]) -> list[Tensor]:
        """Run the blocks up to the last one asked for.

        Args:
            tokens: embeddings of one or more modalities.
            out_indices: blocks whose outputs are wanted, counted from 0, rising.

        Returns:
            one (B, L, D) for each index.
        """
        run, x, start, outputs = self.runner(tokens), tokens.x_BLD, 0, []
        for index in out_indices:
            x = run(x, start, index + 1)
            outputs.append(x)
            start = index + 1
        return outputs

    def last(self, views: Sequence[Tokens]) -> list[Tensor]:
        """Outputs of the last block for several batches, without computing padding needlessly.

        On CPUs all sequences stand one behind the other, whatever their modalities: products are
        larger, and gradients are added up once.

        Args:
            views: batches of embeddings; not all need to have the same modalities.

        Returns:
            (B, L, D) for each; what padding becomes is not said.
        """
        # Attention is called once for each sequence then, which is meant for CPUs.
        on_cpu = all(use_cpu_kernels(view.x_BLD) for view in views)
        if on_cpu and (len(views) > 1 or views[0].pad_BL is not None):
            packed = Packed(views)
            return packed.unpack(self.runner(packed)(packed.x_BLD, 0, len(self)))
        return [self.runner(view)(view.x_BLD, 0, len(self)) for view in views]

    def runner(self, tokens: Tokens | Packed) -> Callable[[Tensor, int, int], Tensor]:
        """A function (x, start, stop) that runs blocks start to stop - 1 on tokens of this form.

        For models that change the embeddings between blocks; the bias is that of `tokens`.
        """
        dtype = _compute_dtype(tokens.x_BLD)
        shared = tokens.masked_bias(0, dtype) if tokens.shared_bias else None

        def block(i: int, x: Tensor) -> Tensor:
            bias = shared if tokens.shared_bias else tokens.masked_bias(i, dtype)
            return self[i](x, tokens.lengths, bias)

        def run(x: Tensor, start: int, stop: int) -> Tensor:
            for i in range(start, stop):
                x = activation_checkpoint(block, i, x) if self.with_cp else block(i, x)
            return x

        return run


def activation_checkpoint(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function; what it computes is not kept for the backward pass, but computed again.

    The results of `grid_bias_attention` are kept: they take little memory and much time.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)

    def contexts() -> tuple[AttentionResultCache, AttentionResultCache]:
        results = []
        return AttentionResultCache(results, again=False), AttentionResultCache(results, again=True)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype matrix products run in: autocast's, or the tensor's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
