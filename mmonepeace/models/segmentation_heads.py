"""mmsegmentation's heads without upsampled maps: UPerNet's convolutions, and the loss of any head.

Shapes: N images, C channels or classes, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models import UPerHead as MMSegUPerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache
from mmonepeace.layers.upsampled_maps import convolve_upsampled, upsampled_cross_entropy
from mmonepeace.registry import MODELS


@MODELS.register_module()
class UPerHead(MMSegUPerHead):
    """`mmseg.UPerHead` with the same weights and values; no map is upsampled before it is convolved.

    Its last convolution, over four maps of which three are upsampled, takes two thirds of the head; here it
    takes 0.4 times as many operations.
    """

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The last map, and the means of its parts, (N, C, H, W)."""
        pooled = [_pool_and_convolve(branch, inputs[-1]) for branch in self.psp_modules]
        return _convolve(self.bottleneck, [inputs[-1], *pooled], self.align_corners)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        maps = self._transform_inputs(inputs)
        merged = [
            conv(x) for conv, x in zip(self.lateral_convs, maps, strict=False)
        ]  # but the last
        merged.append(self.psp_forward(maps))
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + _resized(merged[i + 1], merged[i], self.align_corners)
        last = merged.pop()
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]
        return _convolve(self.fpn_bottleneck, [*outputs, last], self.align_corners)


def _pool_and_convolve(branch: nn.Sequential, x: Tensor) -> Tensor:
    """A branch of the pooling pyramid; in a graph with products, which are right at every size.

    Exported adaptive pooling has the windows of the size that was traced.
    """
    pool, conv = branch
    bins: Any = pool.output_size
    if not torch.compiler.is_compiling():
        return conv(pool(x))
    rows, columns = (_pooling_matrix(side, bins, x) for side in x.shape[2:])
    return conv(rows @ x @ columns.t())


def _pooling_matrix(length: int, size: int, like: Tensor) -> Tensor:
    """What `nn.AdaptiveAvgPool2d` multiplies an axis with, (size, length)."""
    bins = torch.arange(size, device=like.device)[:, None]
    start = (bins * length).div(size, rounding_mode="floor")
    stop = ((bins + 1) * length + size - 1).div(size, rounding_mode="floor")
    places = torch.arange(length, device=like.device)
    inside = ((places >= start) & (places < stop)).to(like.dtype)
    return inside / (stop - start).to(like.dtype)


def _convolve(module: ConvModule, maps: Sequence[Tensor], align_corners: bool) -> Tensor:
    """What a module gives for maps that are resized to the size of the first and concatenated."""
    conv = module.conv
    plain = (
        type(conv) is nn.Conv2d
        and module.order == ("conv", "norm", "act")
        and not (module.with_spectral_norm or module.with_explicit_padding)
        and (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )
    # What is cheaper depends on sizes, which a graph may not know.
    if not plain or torch.compiler.is_compiling():
        resized = [maps[0], *(_resized(x, maps[0], align_corners) for x in maps[1:])]
        return module(torch.cat(resized, 1))
    height, width = maps[0].shape[2:]
    x = convolve_upsampled(conv.weight, conv.bias, maps, (height, width), align_corners)
    x = module.norm(x) if module.with_norm else x
    return module.activate(x) if module.with_activation else x


def _resized(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return resize(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


def head_losses(
    head: BaseDecodeHead, maps: Sequence[Tensor], samples: list[SegDataSample], train_cfg: Any
) -> dict[str, Tensor]:
    """What `head.loss` gives; cross entropy without upsampled logits.

    A head with a loss of its own, several losses, a sampler or sigmoids computes it itself.
    """
    loss: Any = getattr(head, "loss_decode", None)  # Mask2Former has others
    kind = type(head)
    methods = ("loss", "loss_by_feat")
    plain = (
        type(loss) is CrossEntropyLoss
        and all(getattr(kind, name) is getattr(BaseDecodeHead, name) for name in methods)
        and not (loss.use_sigmoid or loss.use_mask or head.sampler)
        and loss.reduction == "mean"
    )
    if not plain:
        return head.loss(maps, samples, train_cfg)
    logits = head(maps)
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples]).squeeze(1)
    weight = None
    if loss.class_weight is not None:
        weight = _class_weight(tuple(map(float, loss.class_weight)), logits.device)
    total, right = upsampled_cross_entropy(
        logits, labels, weight, head.ignore_index, head.align_corners
    )
    counts = labels != head.ignore_index
    eps = torch.finfo(torch.float32).eps  # all pixels may be ignored
    if weight is not None:
        number: Any = (weight[labels.masked_fill(~counts, 0)] * counts).sum()
    else:
        number = counts.sum() if loss.avg_non_ignore else labels.numel()
    return {
        loss.loss_name: loss.loss_weight * total / (number + eps),
        "acc_seg": 100 * right / (counts.sum() + eps),
    }


@byte_bounded_lru_cache(2**16)
def _class_weight(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """(C,) float32, copied to a device once."""
    return torch.tensor(weights, device=device)
