"""Convolution and cross entropy of bilinearly upsampled maps, which are never made.

Upsampling is linear: along an axis it is a product with a matrix. A convolution of 3 x 3 mixes channels at
the small size and upsamples afterwards, which takes as many times fewer operations as the map has fewer
pixels; a loss of pixels needs a band of rows at a time.

Shapes: N images, C channels or classes, O output channels, h x w a map, H x W the size it is upsampled to.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.kernels import product_dtype
from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache

# Of the upsampled logits that exist at once: they fit into the cache of a CPU; a GPU is to be busy.
_CPU_BAND, _GPU_BAND = 2**22, 2**28
# Multiplications of an image below which an upsampled map costs less than the calls that avoid it.
_MIN_PRODUCTS = 2**27


@byte_bounded_lru_cache(2**24)
def upsampling_matrix(
    length: int, size: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What `F.interpolate(mode="linear")` multiplies an axis of `length` with, (size, length)."""
    exact = torch.promote_types(dtype, torch.float32)
    eye = torch.eye(length, device=device, dtype=exact)[None]
    rows = F.interpolate(eye, size, mode="linear", align_corners=align_corners)
    return rows[0].t().contiguous().to(dtype)


@byte_bounded_lru_cache(2**24)
def _tap_matrices(
    length: int, size: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What each of three taps in a row reads of an upsampled axis, zeros outside: (3, size, length)."""
    rows = F.pad(upsampling_matrix(length, size, align_corners, device, dtype), (0, 0, 1, 1))
    return torch.stack([rows[tap : tap + size] for tap in range(3)])


def convolve_upsampled(
    weight: Tensor,
    bias: Tensor | None,
    maps: Sequence[Tensor],
    size: Grid,
    align_corners: bool = False,
) -> Tensor:
    """A convolution of 3 x 3, padding 1, over several maps resized to one size and concatenated.

    Args:
        weight: (O, sum of C, 3, 3).
        bias: (O,) or None.
        maps: (N, C, h, w) each, of any sizes.
        size: (H, W).
        align_corners: of the bilinear resizing.

    Returns:
        (N, O, H, W), in the dtype of autocast where it is on.
    """
    parts = weight.split([x.shape[1] for x in maps], 1)
    # Of a map that is hardly smaller, upsampling first takes fewer operations.
    pixels = size[0] * size[1]
    small = [
        2 * x.shape[2] * x.shape[3] <= pixels and part.numel() * pixels >= _MIN_PRODUCTS
        for x, part in zip(maps, parts, strict=True)
    ]
    large = [
        x
        if x.shape[2:] == size
        else F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
        for x, is_small in zip(maps, small, strict=True)
        if not is_small
    ]
    out: Tensor | None = None
    if large:
        kept = [part for part, is_small in zip(parts, small, strict=True) if not is_small]
        out = F.conv2d(torch.cat(large, 1), torch.cat(kept, 1), bias, padding=1)
    for x, part, is_small in zip(maps, parts, small, strict=True):
        if is_small:
            added = _convolve_then_upsample(part, x, size, align_corners)
            out = added if out is None else out.add_(added)
    assert out is not None, "maps are empty"
    return out if large or bias is None else out.add_(bias[:, None, None])


def _convolve_then_upsample(weight: Tensor, x: Tensor, size: Grid, align_corners: bool) -> Tensor:
    """The part of `convolve_upsampled` that one smaller map makes."""
    (outputs, channels), (h, w), dtype = weight.shape[:2], x.shape[2:], product_dtype(x)
    x = x.to(dtype)
    columns = _tap_matrices(w, size[1], align_corners, x.device, dtype).transpose(1, 2)
    rows = _tap_matrices(h, size[0], align_corners, x.device, dtype)
    rows = rows.transpose(0, 1).reshape(1, size[0], 3 * h).expand(outputs, -1, -1)
    # Taps of columns first, those of rows last, as their products need them.
    taps = weight.to(dtype).permute(3, 0, 2, 1).reshape(9 * outputs, channels)
    upsampled = []
    for image in x:  # one by one: the products of all taps take nine times the memory of the map
        mixed = (taps @ image.reshape(channels, h * w)).view(3, outputs * 3 * h, w)
        wide = mixed[0] @ columns[0]
        for tap in (1, 2):
            wide = torch.addmm(wide, mixed[tap], columns[tap])
        upsampled.append(rows @ wide.view(outputs, 3 * h, size[1]))
    return torch.stack(upsampled)


def upsampled_cross_entropy(
    logits_NChw: Tensor,
    labels_NHW: Tensor,
    weight_C: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the pixels of bilinearly resized logits, and how many of them are right.

    The gradient is computed along with the loss, band by band, in float32 at least.

    Args:
        logits_NChw: of each class.
        labels_NHW: class of each pixel, int64.
        weight_C: of the classes.
        ignore_index: label of pixels that count for nothing.
        align_corners: of the resizing.

    Returns:
        sum of the losses; number of pixels whose class has the highest logit, without gradient.
    """
    total, right = _UpsampledCrossEntropy.apply(
        logits_NChw, labels_NHW, weight_C, ignore_index, align_corners
    )
    return total, right


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        align_corners: bool,
    ) -> tuple[Tensor, Tensor]:
        (classes, h, w), (height, width) = logits.shape[1:], labels.shape[1:]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        device = logits.device
        rows = upsampling_matrix(h, height, align_corners, device, dtype)
        columns = upsampling_matrix(w, width, align_corners, device, dtype)
        total, right = logits.new_zeros((2,), dtype=dtype).unbind()
        gradient = logits.new_zeros(logits.shape, dtype=dtype) if ctx.needs_input_grad[0] else None
        same = (h, w) == (height, width)
        limit = (_CPU_BAND if device.type == "cpu" else _GPU_BAND) // (4 * classes * width)
        step = min(max(1, limit), height)
        together = max(1, limit // height)  # images, if they fit
        starts = product(range(0, len(logits), together), range(0, height, step))
        with torch.autocast(device.type, enabled=False):
            for image, top in starts:
                images, bottom = slice(image, image + together), min(top + step, height)
                # Rows of the map that these rows of the output are made of.
                first, last = _source_rows(top, bottom, h, height, align_corners)
                if same:
                    first, last = top, bottom
                band = logits[images, :, first:last].to(dtype, copy=True)
                up = rows[top:bottom, first:last]
                if not same:
                    band = up @ (band @ columns.t())
                label = labels[images, None, top:bottom]
                counts = label != ignore_index
                label = label.masked_fill(~counts, 0)
                weights = counts.to(dtype) if weight is None else weight[label] * counts
                highest = band.amax(1, keepdim=True)
                own = band.gather(1, label)
                right = right + ((own >= highest) & counts).sum()
                sums = band.sub_(highest).exp_().sum(1, keepdim=True)
                total = total + ((sums.log() + highest - own) * weights).sum()
                if gradient is not None:
                    band.mul_(weights / sums)
                    band.scatter_(1, label, band.gather(1, label) - weights)
                    if not same:
                        band = (up.t() @ band) @ columns
                    gradient[images, :, first:last] += band
        ctx.gradient = gradient
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        return (ctx.gradient * grad).to(ctx.dtype), None, None, None, None


def _source_rows(
    top: int, bottom: int, length: int, size: int, align_corners: bool
) -> tuple[int, int]:
    """First row, and the one after the last, that rows top to bottom - 1 of a resized map need."""
    if align_corners:
        first, last = (y * (length - 1) / max(size - 1, 1) for y in (top, bottom - 1))
    else:
        first, last = ((y + 0.5) * length / size - 0.5 for y in (top, bottom - 1))
    # A row more on each side: rounding may have moved a source across a row.
    return max(int(first) - 1, 0), min(int(last) + 3, length)
