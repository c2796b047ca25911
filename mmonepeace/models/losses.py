"""Losses, in float32.

Shapes: B samples of this process, N of all processes, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


class ContrastiveResult(NamedTuple):
    """Loss, and the share of samples whose counterpart is the most similar one, both ways."""

    loss: Tensor
    a_to_b: Tensor
    b_to_a: Tensor


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, without gradient."""
    x = x.detach().contiguous()
    if not (dist.is_available() and dist.is_initialized()):
        return x
    everyone = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, x)
    return torch.cat(everyone)


def contrastive(
    a_BD: Tensor,
    b_BD: Tensor,
    scale: Tensor,
    label_smoothing: float = 0.0,
    groups_B: Tensor | None = None,
) -> ContrastiveResult:
    """Symmetric contrastive loss over the pairs of all processes.

    Each sample is compared with the gathered ones, which carry no gradient, its own counterpart
    included: each direction trains its own side and the scale.

    Args:
        a_BD: embeddings of one modality, unit length; every process has the same number.
        b_BD: those of the other.
        scale: factor of the cosines.
        label_smoothing: weight that goes to all others of the N samples, in equal parts.
        groups_B: integers; samples with the same one are all right answers for each other, as
            equal captions are. None: only the counterpart is.

    Source: the official contrastive criterion.
    """
    a_BD, b_BD, scale = a_BD.float(), b_BD.float(), scale.float()
    a_ND, b_ND = gather(a_BD), gather(b_BD)
    own = torch.arange(len(a_BD), device=a_BD.device)
    if dist.is_available() and dist.is_initialized():
        own = own + dist.get_rank() * len(a_BD)
    if groups_B is None:
        right_BN = torch.zeros(len(a_BD), len(a_ND), dtype=torch.bool, device=a_BD.device)
        right_BN[torch.arange(len(own)), own] = True
    else:
        right_BN = groups_B[:, None] == gather(groups_B)
    number = right_BN.sum(1, keepdim=True)
    others = (len(a_ND) - number).clamp(min=1)
    target_BN = torch.where(right_BN, (1 - label_smoothing) / number, label_smoothing / others)
    losses, shares = [], []
    for x_BD, y_ND in ((a_BD, b_ND), (b_BD, a_ND)):
        logits_BN = scale * (x_BD @ y_ND.t())
        losses.append(-(target_BN * logits_BN.log_softmax(1)).sum(1).mean())
        best = logits_BN.argmax(1, keepdim=True)
        shares.append(right_BN.gather(1, best).float().mean())
    return ContrastiveResult(sum(losses) / 2, *shares)
