"""The shared Transformer: one attention for all modalities, one FFN per modality.

Shapes: B batch, L tokens, D width, H heads, d = D / H.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from mmonepeace.layers.indices import index_for
from mmonepeace.layers.kernels import (
    CPU_KERNELS,
    Backend,
    Residual,
    add_to,
    attend,
    cpu_kernel,
    linear,
    product_dtype,
)
from mmonepeace.layers.packing import PackedTokens
from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.tokens import Tokens
from mmonepeace.layers.tracing import is_traced
from mmonepeace.spec import LAYER_NORM_EPS, Arch


class SelfAttention(nn.Module):
    """Multi-head self-attention with sub-LN; keys have no bias."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.num_heads = arch.num_heads
        self.backend: Backend = "auto"
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.head_scale = nn.Parameter(torch.ones(arch.num_heads)) if arch.head_scale else None
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.sub_norm else nn.Identity()
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, x_BLD: Tensor, bias: AttentionBias, residual: Residual | None = None
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), added to a residual if there is one."""
        q, k, v = self.project_qkv(x_BLD)
        return self.merge_heads(attend(q, k, v, bias, backend=self.backend), residual)

    def project_qkv(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, L, d) each."""
        heads = (self.num_heads, -1)
        x_BLD = x_BLD.to(product_dtype(x_BLD))  # once for all three
        q = linear(self.q_proj, x_BLD).unflatten(-1, heads).transpose(1, 2)
        k = linear(self.k_proj, x_BLD).unflatten(-1, heads).transpose(1, 2)
        v = linear(self.v_proj, x_BLD).unflatten(-1, heads).transpose(1, 2)
        return q, k, v

    def merge_heads(self, x_BHLd: Tensor, residual: Residual | None = None) -> Tensor:
        """(B, H, L, d) -> (B, L, D), with sub-LN and the output projection, added to a residual."""
        x = x_BHLd.transpose(1, 2)
        if self.head_scale is not None:
            x = x * self.head_scale[:, None]
        return linear(self.out_proj, self.norm(x.flatten(2)), residual)


class GeGLU(nn.Module):
    """Gated FFN: down(norm(gelu(gate x) * up x)); GELU is the exact one."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim, hidden = arch.embed_dim, arch.ffn_dim
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden, LAYER_NORM_EPS) if arch.ffn_norm else nn.Identity()
        self.down = nn.Linear(hidden, dim)

    def forward(self, x_BLD: Tensor, residual: Residual | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D), added to a residual if there is one."""
        kernel = cpu_kernel("geglu", x_BLD)
        x_BLD = x_BLD.to(product_dtype(x_BLD))
        # Layers that replace these, such as those of LoRA, compute in their own way.
        if kernel and {*map(type, (self.gate, self.up, self.down))} == {nn.Linear}:
            norm, norm_bias = (getattr(self.norm, name, None) for name in ("weight", "bias"))
            down = self.down
            weights = (self.gate.weight, self.up.weight, norm, norm_bias, down.weight, down.bias)
            x, gamma = residual or (None, None)
            return kernel(x_BLD, *weights, residual=x, gamma=gamma)
        return linear(self.down, self.norm(F.gelu(self.gate(x_BLD)) * self.up(x_BLD)), residual)


class DropPath(nn.Module):
    """Stochastic depth per sample that does not compute dropped samples.

    `x + mask / keep * branch(x)` with one Bernoulli(keep) draw per sample, as usual; the branch
    runs on the kept samples only. Draws come from the CPU generator, so that the number of kept
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
        branch: Callable[[Tensor, Sequence[int] | None, Residual | None], Tensor],
        gamma: Tensor | None = None,
        counts: Sequence[int] | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Add a residual branch.

        Args:
            x: (B, ...), or (1, N, ...) with concatenated samples.
            branch: (samples, their indices in the batch or None for all, what to add to) -> samples.
            gamma: LayerScale of the branch.
            counts: tokens of each sample, if they are concatenated.
            scale: what `scales` drew, (B, 1, 1); then the branch of all samples is computed.

        Returns:
            as `x`.
        """
        if scale is not None:
            return torch.addcmul(
                x, branch(x, None, None), scale if gamma is None else scale * gamma
            )
        if not self.training or self.rate == 0:
            return branch(x, None, Residual(x, gamma))
        count = len(x) if counts is None else len(counts)
        kept, factor = self.draw(count), 1 / (1 - self.rate)
        if len(kept) == count:
            if gamma is not None:
                return branch(x, None, Residual(x, gamma * factor))
            return torch.add(x, branch(x, None, None), alpha=factor)
        if not kept:
            # Every parameter must get a gradient, if only zero, or DDP would wait for it.
            kept, factor = [0], 0
        dim, places = 0, np.asarray(kept)
        if counts is not None:
            dim, places = 1, np.flatnonzero(np.isin(range(count), kept).repeat(counts))
        rows = index_for(x, places)
        added = branch(x.index_select(dim, rows), kept, None)
        added = added if gamma is None else added * gamma
        return x.index_add(dim, rows, added.to(x.dtype), alpha=factor)

    def draw(self, count: int) -> list[int]:
        """Indices of the samples that are kept."""
        return (torch.rand(count, device="cpu") < 1 - self.rate).nonzero().flatten().tolist()

    def scales(self, x: Tensor) -> Tensor:
        """Factors of the branch of each sample of (B, ...), 0 or 1 / keep, (B, 1, 1)."""
        keep = 1 - self.rate if self.training else 1.0
        return (torch.rand(len(x), 1, 1, device=x.device) < keep) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class EncoderLayer(nn.Module):
    """Pre-LN block: shared attention, then the FFN of each token's modality, with LayerScale.

    Args:
        arch: widths and variants.
        modalities: keys of the FFNs.
        drop_path_rate: stochastic depth of both branches.
        layer_scale_init: initial LayerScale; None leaves LayerScale out.
        attention: of the block.
    """

    def __init__(
        self,
        arch: Arch,
        modalities: Iterable[str],
        drop_path_rate: float,
        layer_scale_init: float | None,
        attention: SelfAttention,
    ) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.norm1 = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.attn = attention
        self.post_attn_norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.post_attn_norm else None
        self.norm2 = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.ffn = nn.ModuleDict({name: GeGLU(arch) for name in modalities})
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init is not None:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale_init))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale_init))

    def forward(
        self,
        x_BLD: Tensor,
        lengths: dict[str, int],
        bias: AttentionBias,
        scales: Sequence[Tensor | None] = (None, None),
    ) -> Tensor:
        """x + drop_path(gamma_1 * attn(norm1(x), bias)), then the same with the FFN.

        Args:
            x_BLD: tokens; concatenated sequences, (1, N, D), if the bias is packed.
            lengths: see `Tokens`.
            bias: of these tokens.
            scales: of both branches, see `DropPath`.
        """

        def attention(
            x: Tensor, samples: Sequence[int] | None, residual: Residual | None
        ) -> Tensor:
            own = bias if samples is None else bias.select(samples)
            if self.post_attn_norm is None:
                return self.attn(self.norm1(x), own, residual)
            return add_to(residual, self.post_attn_norm(self.attn(self.norm1(x), own)))

        def ffn(x: Tensor, samples: Sequence[int] | None, residual: Residual | None) -> Tensor:
            segments = bias.segments(samples) if bias.is_packed else [*lengths.items()]
            if len(segments) == 1:
                return self.ffn[segments[0][0]](self.norm2(x), residual)
            return add_to(residual, self._ffn(self.norm2(x), segments))

        counts = bias.counts if bias.is_packed else None
        x = self.drop_path(x_BLD, attention, self.gamma_1, counts, scales[0])
        return self.drop_path(x, ffn, self.gamma_2, counts, scales[1])

    def _ffn(self, x_BLD: Tensor, segments: Sequence[tuple[str, int]]) -> Tensor:
        """The FFN of each segment's modality, (modality, tokens) in order; one call per modality."""
        outputs = list(x_BLD.split([n for _, n in segments], dim=1))
        for modality in dict.fromkeys(name for name, _ in segments):
            places = [i for i, (name, _) in enumerate(segments) if name == modality]
            inputs = [outputs[i] for i in places]
            # A single segment is not copied.
            x = self.ffn[modality](torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0])
            pieces = x.split([segments[i][1] for i in places], 1)
            for i, piece in zip(places, pieces, strict=True):
                outputs[i] = piece
        return torch.cat(outputs, 1)


class FusionEncoder(nn.ModuleList):
    """The stack of blocks.

    Args:
        arch: widths and variants.
        modalities: see `EncoderLayer`.
        drop_path_rate: of the last block; it rises linearly from 0 at the first.
        layer_scale_init: see `EncoderLayer`.
        with_cp: activation checkpointing: each block, its bias included, is recomputed in the
            backward pass.
        attention: index of a block -> its attention; None: `SelfAttention`.
        compiled: compile a block, in one graph for all of them and all sizes. What differs between
            blocks, tables and drop path, is computed outside of it.
        layer: class of the blocks, or what builds one of the arguments of `EncoderLayer`.
    """

    def __init__(
        self,
        arch: Arch,
        modalities: Iterable[str],
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = None,
        with_cp: bool = False,
        attention: Callable[[int], SelfAttention] | None = None,
        compiled: bool = False,
        layer: Callable[..., EncoderLayer] = EncoderLayer,
    ) -> None:
        modalities = tuple(modalities)
        attention = attention or (lambda _: SelfAttention(arch))
        rates = [drop_path_rate * i / max(arch.depth - 1, 1) for i in range(arch.depth)]
        super().__init__(
            layer(arch, modalities, rate, layer_scale_init, attention(i))
            for i, rate in enumerate(rates)
        )
        self.with_cp = with_cp
        self.compiled = False
        if compiled:
            self.compile_blocks()

    def compile_blocks(self) -> None:
        """What `compiled` does."""
        self.compiled = True
        for layer in self:
            layer.compile(fullgraph=True)

    def forward(self, tokens: Tokens, out_indices: Iterable[int]) -> list[Tensor]:
        """Run the blocks up to the last one whose output is needed.

        Args:
            tokens: embeddings of one or more modalities.
            out_indices: blocks whose outputs (B, L, D) are returned, counted from 0, ascending.
        """
        run, x, start, outputs = self.bind(tokens), tokens.x_BLD, 0, []
        for index in out_indices:
            x = run(x, start, index + 1)
            outputs.append(x)
            start = index + 1
        return outputs

    def encode_packed(self, views: Sequence[Tokens]) -> list[Tensor]:
        """Outputs (B, L, D) of the last block for several batches; rows of padding are undefined.

        All sequences are concatenated without padding, whatever their modalities: products are larger,
        and gradients are summed once. Not where only a GPU knows what is padding, for which the CPU
        would wait, nor in a graph, which would be another one for each number of tokens.
        """
        in_graph = self.compiled or is_traced()
        is_worth_it = len(views) > 1 or views[0].pad_BL is not None
        if is_worth_it and not in_graph and all(view.knows_padding for view in views):
            packed: Any = PackedTokens(views)
            return packed.unpack(self.bind(packed)(packed.x_BLD, 0, len(self)))
        return [self.bind(view)(view.x_BLD, 0, len(self)) for view in views]

    def bind(self, tokens: Tokens) -> Callable[[Tensor, int, int], Tensor]:
        """A function (x, start, stop) that runs blocks start to stop - 1 on tokens of this form.

        For models that change the embeddings between blocks; the bias is that of `tokens`, which
        may be `packing.PackedTokens`.
        """
        dtype = product_dtype(tokens.x_BLD)
        bias = tokens.bias if tokens.pad_BL is None else tokens.masked_bias
        shared = bias(0, dtype) if tokens.shared_bias else None
        layers: Iterable[Any] = self
        drops = self.compiled and any(x.training and x.drop_path.rate for x in layers)

        def block(i: int, x: Tensor) -> Tensor:
            layer: Any = self[i]
            own = shared or bias(i, dtype)
            if not self.compiled:
                return layer(x, tokens.lengths, own)
            scales = [layer.drop_path.scales(x) if drops else None for _ in range(2)]
            return layer(x, tokens.lengths, DenseBias(own.dense()), scales)

        def run(x: Tensor, start: int, stop: int) -> Tensor:
            for i in range(start, stop):
                x = activation_checkpoint(block, i, x) if self.with_cp else block(i, x)
            return x

        return run


def activation_checkpoint(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function; its activations are recomputed in the backward pass, not stored.

    A CPU kernel may store the results of attention, which take little memory and much time.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    kernel = CPU_KERNELS.get("checkpoint_contexts")
    contexts = kernel.function if kernel else noop_context_fn
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)
