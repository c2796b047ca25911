"""Losses, in float32.

Shapes: B samples of this process, N of all processes, L tokens (CLS first), P kept ones, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist
from torch.utils.checkpoint import checkpoint

from mmonepeace.layers.indices import index_for
from mmonepeace.models.gather import (
    Gather,
    gather,
    gather_uneven,
    is_distributed,
    mean_over_processes,
)


class ContrastiveResult(NamedTuple):
    """Loss, and the fraction of samples whose counterpart is the most similar one, both ways."""

    loss: Tensor
    a_to_b: Tensor
    b_to_a: Tensor


def in_full_precision(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a loss outside autocast, which would round cosines times 100 to steps of a half."""

    @wraps(loss)
    def run(*args: Any, **kwargs: Any) -> Any:
        device = next(x.device.type for x in args if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return run


def check_smoothing(name: str, value: float) -> None:
    """Raise a `ValueError` for a label smoothing outside 0 to below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}, expected a fraction from 0 to below 1.")


@in_full_precision
def contrastive(
    a_BD: Tensor,
    b_BD: Tensor,
    scale: Tensor,
    label_smoothing: float = 0.0,
    groups_B: Tensor | None = None,
    how: Gather = "official",
) -> ContrastiveResult:
    """Symmetric contrastive loss over the pairs of all processes.

    In the official way each sample is compared with gathered ones that carry no gradient, its own
    counterpart included: each direction trains its own side and the scale.

    Args:
        a_BD: embeddings of one modality, unit length; every process has the same number.
        b_BD: those of the other.
        scale: logit scale (inverse temperature), multiplies the cosines.
        label_smoothing: weight of all other N - 1 samples, spread evenly.
        groups_B: integers; samples with the same one are positives of each other, as with
            equal captions. None: only the counterpart is.
        how: whether gradient flows through the gathered samples, see `gather`.

    Source: the official contrastive criterion.
    """
    a_BD, b_BD, scale = a_BD.float(), b_BD.float(), scale.float()
    a_ND, b_ND = gather(a_BD, how), gather(b_BD, how)
    own = torch.arange(len(a_BD), device=a_BD.device)
    if is_distributed():
        own = own + dist.get_rank() * len(a_BD)
    if groups_B is None:
        right_BN = torch.zeros(len(a_BD), len(a_ND), dtype=torch.bool, device=a_BD.device)
        right_BN[torch.arange(len(own)), own] = True
    else:
        right_BN = groups_B[:, None] == gather(groups_B)
    number = right_BN.sum(1, keepdim=True)
    others = (len(a_ND) - number).clamp(min=1)
    target_BN = torch.where(right_BN, (1 - label_smoothing) / number, label_smoothing / others)
    losses, accuracies = [], []
    for x_BD, y_ND in ((a_BD, b_ND), (b_BD, a_ND)):
        logits_BN = scale * (x_BD @ y_ND.t())
        losses.append(-(target_BN * logits_BN.log_softmax(1)).sum(1).mean())
        best = logits_BN.argmax(1, keepdim=True)
        accuracies.append(right_BN.gather(1, best).float().mean())
    return ContrastiveResult((losses[0] + losses[1]) / 2, *accuracies)


@dataclass(frozen=True)
class GradCache:
    """The gradient of a contrastive loss over embeddings that are recomputed in micro-batches.

    The gradient of the parameters from a micro-batch is that of its embeddings times their gradients
    here. So the loss is that of the entire batch, with the activations of one micro-batch in memory.

    Not a dictionary: wrappers that cast the inputs of a model to half precision descend into those.

    Attributes:
        embeddings: modality -> (B, D) float32, gradient with respect to its embeddings.
        scale: () float32, gradient with respect to the logit scale.

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
    (2021); the gradient with respect to the scale is ours.
    """

    embeddings: Mapping[str, Tensor]
    scale: Tensor

    def part(self, rows: slice) -> "GradCache":
        """The gradient of some samples; that of the scale is divided in proportion."""
        part = {name: gradient[rows] for name, gradient in self.embeddings.items()}
        size, batch = (len(next(iter(x.values()))) for x in (part, self.embeddings))
        return GradCache(part, self.scale * (size / batch))

    def surrogate(self, embeddings: Mapping[str, Tensor], scale: Tensor) -> Tensor:
        """A scalar whose value is meaningless but whose gradient is that of the loss.

        `embeddings` and `scale` are what the loss was computed from, now with gradient.
        """
        products = [(embeddings[name] * x).sum() for name, x in self.embeddings.items()]
        return sum(products, scale * self.scale)


@in_full_precision
def denoising_contrastive(
    student_BLD: Tensor,
    teacher_BLD: Tensor,
    keep_BP: Tensor | np.ndarray,
    pad_BL: Tensor | np.ndarray | None = None,
    scale: float = 2.5,
    label_smoothing: float = 0.1,
    max_logits: int = 2**26,
    gather_tokens: bool = False,
) -> Tensor:
    """Contrast of each masked token with all tokens of the batch, CLS and padding excluded.

    Args:
        student_BLD: reconstructions; gradient flows.
        teacher_BLD: targets of the unmasked input, without gradient.
        keep_BP: positions that were not masked, CLS included, -1 is padding. An array, or a tensor:
            the CPU waits for that of a GPU.
        pad_BL: True where a token is padding, or None. An array or a tensor, likewise.
        scale: logit scale (inverse temperature), multiplies the cosines.
        label_smoothing: weight of all other tokens together.
        max_logits: entries of the (masked, all) matrix that exist at once; above it, chunks are
            recomputed in the backward pass, to the same result.
        gather_tokens: contrast with the tokens of all processes, whose mean is then the loss of one
            process with all samples, and whose mean gradient is its gradient. All processes must
            call it.

    Returns:
        mean over the masked tokens; 0 if there is none. With `gather_tokens` their sum, divided by
        the mean number of masked tokens of a process.

    Source: the official denoising criterion.
    """
    masked_BL, valid_BL = _masked_and_valid(student_BLD.shape[1], keep_BP, pad_BL)
    student = F.normalize(_select(student_BLD, masked_BL).float(), dim=1)
    teacher = F.normalize(_select(teacher_BLD, valid_BL).float(), dim=1)
    target = index_for(student_BLD, (valid_BL.cumsum() - 1)[masked_BL.ravel()])
    number: float = len(student)
    if gather_tokens:
        teacher, first = gather_uneven(teacher)
        target = target + first
        number = mean_over_processes(len(student), student.device)
    if not len(student):
        return student_BLD.sum() * 0.0
    other = label_smoothing / max(len(teacher) - 1, 1)

    def total(student: Tensor, target: Tensor) -> Tensor:
        log_p = (scale * student @ teacher.t()).log_softmax(1)
        right = log_p.gather(1, target[:, None]).sum()
        return -(1 - label_smoothing - other) * right - other * log_p.sum()

    rows = max(max_logits // len(teacher), 1)
    if len(student) <= rows:
        return total(student, target) / number
    chunks = zip(student.split(rows), target.split(rows), strict=True)
    return sum(checkpoint(total, *chunk, use_reentrant=False) for chunk in chunks) / number


def _masked_and_valid(
    length: int, keep_BP: Tensor | np.ndarray, pad_BL: Tensor | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(B, L) True where a token is masked, and where it is neither CLS nor padding."""
    keep_BP = _as_array(keep_BP)
    kept_BL = np.zeros((len(keep_BP), length + 1), dtype=np.bool_)
    # Padding is written past the end and cut off.
    np.put_along_axis(kept_BL, np.where(keep_BP < 0, length, keep_BP), np.True_, 1)
    kept_BL = kept_BL[:, :length]
    valid_BL = np.ones_like(kept_BL) if pad_BL is None else np.logical_not(_as_array(pad_BL))
    valid_BL[:, 0] = False
    return valid_BL & ~kept_BL, valid_BL


def _as_array(x: Tensor | np.ndarray) -> np.ndarray:
    return x.numpy(force=True) if isinstance(x, Tensor) else x


def _select(x_BLD: Tensor, mask_BL: np.ndarray) -> Tensor:
    """The tokens where a mask is True, (N, D)."""
    return x_BLD.flatten(0, 1).index_select(0, index_for(x_BLD, np.flatnonzero(mask_BL)))


@in_full_precision
def feature_distance(
    x_BLD: Tensor, target_BLD: Tensor, pad_BL: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cosine of features and their targets, and mean smooth L1 (beta 1) of their numbers.

    Args:
        x_BLD: features.
        target_BLD: what they should be.
        pad_BL: True for tokens that do not count; None: all do.
    """
    x_BLD, target_BLD = x_BLD.float(), target_BLD.float()
    cosine_BL = F.cosine_similarity(x_BLD, target_BLD, dim=-1)
    smooth_BL = F.smooth_l1_loss(x_BLD, target_BLD, reduction="none").mean(-1)
    if pad_BL is None:
        return cosine_BL.mean(), smooth_BL.mean()
    real_BL = ~pad_BL
    count = real_BL.sum().clamp(min=1)
    return (cosine_BL * real_BL).sum() / count, (smooth_BL * real_BL).sum() / count
