"""Kernels: the one place that chooses what computes attention, and what is faster on CPUs.

Shapes: B batch, L tokens, H heads, d width of a head.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.cpu.audio_chunks import chunked_audio_features
from mmonepeace.layers.cpu.geglu import chunked_geglu
from mmonepeace.layers.cpu.grid_attention import cached_attention_contexts, grid_bias_attention
from mmonepeace.layers.cpu.linear import residual_linear
from mmonepeace.layers.gpu_attention import DEVICES, is_recomputable, recomputed_bias_attention
from mmonepeace.layers.relative_position_bias import AttentionBias
from mmonepeace.layers.tracing import is_traced

Backend = Literal["auto", "blocks", "sdpa", "recomputed", "flex", "xformers", "eager"]

# Tokens from which attention in blocks is faster than PyTorch's (benchmarks/attention.py).
MIN_TOKENS_INFERENCE, MIN_TOKENS_TRAINING = 512, 300
# Bytes of the bias of all pairs of tokens from which GPUs look it up instead (benchmarks/roofline.py).
MAX_DENSE_BYTES = 2**30


class CpuKernel(NamedTuple):
    """A faster way to compute something on a CPU, to the same values and gradients.

    Attributes:
        function: computes it; the plain version is at the call of `cpu_kernel`.
        min_numel: elements of a tensor from which it is faster.
    """

    function: Callable[..., Any]
    min_numel: int = 0


# Without an entry the plain version runs: nothing else refers to `layers.cpu`.
CPU_KERNELS: dict[str, CpuKernel] = {
    "attention": CpuKernel(grid_bias_attention),
    "geglu": CpuKernel(chunked_geglu, min_numel=2**16),
    "linear": CpuKernel(residual_linear, min_numel=2**16),
    "audio_features": CpuKernel(chunked_audio_features),
    "checkpoint_contexts": CpuKernel(cached_attention_contexts),
}


def cpu_kernel(name: str, x: Tensor) -> Callable[..., Any] | None:
    """The kernel of `CPU_KERNELS` that applies to a tensor, or None.

    The one rule: products in float32 or bfloat16 on a CPU, run eagerly (in a graph chunks would be
    unrolled), and large enough.
    """
    kernel = CPU_KERNELS.get(name)
    # Asked first: a graph keeps the question whether a tensor is large as a condition.
    if kernel is None or is_traced() or x.numel() < kernel.min_numel or x.device.type != "cpu":
        return None
    return kernel.function if product_dtype(x) in (torch.float32, torch.bfloat16) else None


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype that linear layers compute in: that of autocast where it is on."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on and x.dtype != torch.float64 else x.dtype


class Residual(NamedTuple):
    """What the last linear layer of a branch adds its output to.

    Attributes:
        x: (..., F).
        gamma: LayerScale of the branch, (F,).
    """

    x: Tensor
    gamma: Tensor | None = None


def add_to(residual: Residual | None, branch: Tensor) -> Tensor:
    """x + gamma * branch, in one pass; without a residual, the branch."""
    if residual is None:
        return branch
    x, gamma = residual
    return x + branch if gamma is None else x.addcmul(branch, gamma)


def linear(layer: nn.Module, x: Tensor, residual: Residual | None = None) -> Tensor:
    """layer(x), (..., K) -> (..., F), added to a residual if there is one."""
    x = x.to(product_dtype(x))
    # In float32 without a residual there is nothing to gain.
    if type(layer) is nn.Linear and (residual or x.dtype != torch.float32):
        kernel = cpu_kernel("linear", x)
        if kernel:
            return kernel(x, layer.weight, layer.bias, *residual or ())
    out = layer(x)
    return add_to(residual, out) if residual else out


def attend(
    q_BHLd: Tensor,
    k_BHLd: Tensor,
    v_BHLd: Tensor,
    bias: AttentionBias,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """softmax(scale * q k^T + bias) v.

    Args:
        q_BHLd: queries.
        k_BHLd: keys.
        v_BHLd: values; their width may differ from that of queries and keys.
        bias: of these tokens; it broadcasts, nothing is copied per sample.
        scale: None: 1 / sqrt(d).
        backend: what computes it; all give the same values and gradients.
            blocks: `cpu.grid_attention` for the bias of a grid, without L x L weights in memory.
            sdpa: PyTorch picks the kernel: flash on the CPU when the bias needs no gradient, the
            memory-efficient one on CUDA, plain matrix products otherwise.
            flex: FlexAttention, compiled; on CPUs for inference only. The bias of a grid is
            looked up pair by pair.
            xformers: its memory-efficient attention, on CUDA.
            eager: matrix products, all L x L weights in memory.
            recomputed: `gpu_attention`, PyTorch's memory-efficient kernel with the bias of a grid,
            padded or not, that is not kept for the backward pass, on CUDA.
            auto: for the bias of a grid, blocks on a CPU from 512 tokens on, from 300 on if it
            needs a gradient; on CUDA flex where the bias of all pairs is larger than 1 GiB, else
            recomputed where there are gradients or padding. Otherwise sdpa.

    Returns:
        (B, H, L, d).

    Raises:
        ValueError: if the backend is unknown or cannot be used here.
    """
    if bias.is_grouped:
        return bias.attend_groups(attend, q_BHLd, k_BHLd, v_BHLd, scale, backend)
    on_gpu = q_BHLd.device.type in DEVICES
    # A graph is for any length, and of no kernel.
    if backend == "auto" and (
        on_gpu or (not is_traced() and q_BHLd.shape[2] >= MIN_TOKENS_TRAINING)
    ):
        backend = _choose(q_BHLd, bias)
    if backend not in ("auto", "sdpa"):
        return _BACKENDS[check_backend(backend)](q_BHLd, k_BHLd, v_BHLd, bias, scale)
    width = v_BHLd.shape[-1]
    if q_BHLd.shape[-1] > width and q_BHLd.device.type == "cpu":
        # The kernel that holds no L x L weights takes equal widths only.
        v_BHLd = F.pad(v_BHLd, (0, q_BHLd.shape[-1] - width))
    out = F.scaled_dot_product_attention(
        q_BHLd, k_BHLd, v_BHLd, attn_mask=bias.dense(), scale=scale
    )
    return out[..., :width]


def check_backend(name: Backend) -> Backend:
    """Name of a backend, if there is one.

    Raises:
        ValueError: if there is none, or its package is missing.
    """
    if name not in get_args(Backend):
        known = ", ".join(get_args(Backend))
        raise ValueError(f"attention backend {name!r} is unknown. Choose from {known}.")
    if name == "xformers" and not find_spec("xformers"):
        raise ValueError("attention backend 'xformers' needs xformers: pip install xformers.")
    return name


def _choose(q_BHLd: Tensor, bias: AttentionBias) -> Backend:
    """The backend of "auto"."""
    _, heads, length, _ = q_BHLd.shape
    if q_BHLd.device.type in DEVICES:
        large = heads * length**2 * q_BHLd.element_size() > MAX_DENSE_BYTES
        if bias.grid and large and find_spec("triton"):
            return "flex"
        needed = torch.is_grad_enabled() or not bias.is_shared
        # What else the kernel refuses, PyTorch's own function computes in another way.
        fits = q_BHLd.element_size() < 8 and q_BHLd.shape[3] % 8 == 0
        return "recomputed" if needed and fits and is_recomputable(bias) else "sdpa"
    if bias.grid is None:
        return "sdpa"
    trained = torch.is_grad_enabled() and bias.table_NH.requires_grad
    least = MIN_TOKENS_TRAINING if trained else MIN_TOKENS_INFERENCE
    return "blocks" if length >= least and cpu_kernel("attention", q_BHLd) else "sdpa"


def _recomputed(
    q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None
) -> Tensor:
    if not is_recomputable(bias):
        return attend(q, k, v, bias, scale, "sdpa")
    return recomputed_bias_attention(q, k, v, bias, scale)


def _blocks(q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None) -> Tensor:
    kernel = CPU_KERNELS.get("attention")
    if kernel is None or bias.grid is None or 0 in bias.grid:  # CLS alone has no offsets
        return attend(q, k, v, bias, scale, "sdpa")
    return kernel.function(q, k, v, bias, scale)


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None) -> Tensor:
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    dense = bias.dense()
    return (logits if dense is None else logits + dense).softmax(-1) @ v


def _xformers(q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    dense = bias.dense()
    if dense is not None:
        # The kernels need a bias of each sample and head whose rows begin at multiples of 8.
        length = dense.shape[-1]
        dense = F.pad(dense, (0, -length % 8))[..., :length].expand(*q.shape[:2], -1, -1)
    inputs = (x.transpose(1, 2) for x in (q, k, v))
    return memory_efficient_attention(*inputs, attn_bias=dense, scale=scale).transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex(q: Tensor, k: Tensor, v: Tensor, bias: AttentionBias, scale: float | None) -> Tensor:
    if q.device.type == "cpu":
        if torch.is_grad_enabled() and q.requires_grad:
            raise ValueError("attention backend 'flex' has no gradients on CPUs. Choose 'auto'.")
        q, k, v = q.detach(), k.detach(), v.detach()  # it checks requires_grad under no_grad too
    return _compiled_flex()(q, k, v, score_mod=_score_mod(bias), scale=scale)


def _score_mod(bias: AttentionBias) -> Callable[..., Tensor] | None:
    """What FlexAttention does to the logit of query i and key j."""
    if bias.grid is None:
        return _dense_score_mod(bias.dense())
    (rows, columns), table_NH, cls = bias.grid, bias.table_NH, int(bias.cls_token)
    n = len(table_NH)

    def add(score: Tensor, _: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        query, key = i - cls, j - cls
        y = query // columns - key // columns + rows - 1
        x = query % columns - key % columns + columns - 1
        row = y * (2 * columns - 1) + x
        if cls:
            row = torch.where(i == 0, n - 3, row)
            row = torch.where(j == 0, torch.where(i == 0, n - 1, n - 2), row)
        return score + table_NH[row, h]

    return add


def _dense_score_mod(values: Tensor | None) -> Callable[..., Tensor] | None:
    if values is None:
        return None
    per_sample, per_head = values.shape[0] > 1, values.shape[1] > 1

    def add(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + values[b if per_sample else 0, h if per_head else 0, i, j]

    return add


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "blocks": _blocks,
    "recomputed": _recomputed,
    "flex": _flex,
    "xformers": _xformers,
    "eager": _eager,
}
