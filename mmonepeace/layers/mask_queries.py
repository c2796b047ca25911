"""Mask queries: tokens that join the image in the last blocks, and the masks that they stand for.

Shapes: B batch, Q queries, L image tokens (CLS first), P patches, D width, H heads, h x w cells of masks.

Source: EoMT, arXiv 2503.19108; masked attention is that of Mask2Former, arXiv 2112.01527.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.indices import index_for
from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.tokens import BlockBias, Tokens
from mmonepeace.spec import LAYER_NORM_EPS

QUERY = "query"  # key of the FFN of queries, beside those of modalities
_POWER = 0.9  # of the schedule of masked attention
_UPSCALINGS = 2  # from patches of 16 pixels to cells of 4


@dataclass(frozen=True)
class QueryBias(AttentionBias):
    """The bias of a sequence that ends with queries: that of the image between its tokens, else zero.

    Rows of the image and of queries are attended to in two calls, so that the bias of the image is never
    copied for each sample, nor the mask of queries for each head.

    Attributes:
        image: bias of the image tokens, the same for all samples.
        num_queries: Q.
        hidden_BQP: True where a query does not see a patch; None: it sees all. CLS and queries are
            always seen.
        dtype: that attention runs in.
    """

    image: AttentionBias
    num_queries: int
    hidden_BQP: Tensor | None
    dtype: torch.dtype
    grid = None
    is_grouped = True

    @property
    def is_shared(self) -> bool:  # type: ignore[override]
        return self.hidden_BQP is None

    def dense(self) -> Tensor | None:
        """(1 or B, H, L + Q, L + Q)."""
        rows, seen = self._of_image(), self._of_queries()
        if rows is None or seen is None:
            return None if rows is None else F.pad(rows, (0, 0, 0, self.num_queries))
        batch, heads = seen.shape[0], rows.shape[1]
        rows = rows.expand(batch, -1, -1, -1)
        return torch.cat([rows, seen.expand(-1, heads, -1, -1)], 2)

    def select(self, samples: Sequence[int]) -> "QueryBias":
        if self.hidden_BQP is None:
            return self
        hidden = self.hidden_BQP.index_select(0, index_for(self.hidden_BQP, samples))
        return QueryBias(self.image, self.num_queries, hidden, self.dtype)

    def attend_groups(
        self, attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *options: object
    ) -> Tensor:
        """Attention of the image's rows, then of the queries', (B, H, L + Q, d).

        Args:
            attend: (queries, keys, values, bias, *options) -> (B, H, L, d).
            q: what rows ask for, (B, H, L + Q, d).
            k: keys.
            v: values.
            options: passed on.
        """
        parts = q.split([q.shape[2] - self.num_queries, self.num_queries], 2)
        biases = (DenseBias(self._of_image()), DenseBias(self._of_queries()))
        outputs = [
            attend(part, k, v, bias, *options).transpose(1, 2)
            for part, bias in zip(parts, biases, strict=True)
        ]
        return torch.cat(outputs, 1).transpose(1, 2)

    def _of_image(self) -> Tensor | None:
        """Rows of the image tokens, (1, H, L, L + Q); None: no bias."""
        values = self.image.dense()
        if values is None:
            return None
        length = values.shape[-1] + self.num_queries
        # Kernels on GPUs read rows that begin at multiples of 8 numbers, see `GridBias.dense`.
        rest = 0 if values.device.type == "cpu" else -length % 8
        return F.pad(values, (0, self.num_queries + rest))[..., :length]

    def _of_queries(self) -> Tensor | None:
        """Rows of the queries, (B, 1, Q, L + Q), minus infinity for what is hidden; None: nothing is."""
        if self.hidden_BQP is None:
            return None
        hidden = F.pad(self.hidden_BQP, (1, self.num_queries))[:, None]
        zero = torch.zeros((), dtype=self.dtype, device=hidden.device)
        return torch.where(hidden, -torch.inf, zero)


def _query_bias(
    bias: BlockBias, num_queries: int, hidden_BQP: Tensor | None, block: int, dtype: torch.dtype
) -> QueryBias:
    return QueryBias(bias(block, dtype), num_queries, hidden_BQP, dtype)


def with_queries(
    image: Tokens, x_BLD: Tensor, num_queries: int, hidden_BQP: Tensor | None, own_ffn: bool
) -> Tokens:
    """The form of image tokens that queries follow.

    Args:
        image: the tokens as they were embedded.
        x_BLD: (B, L + Q, D), embeddings of both at some block.
        num_queries: Q.
        hidden_BQP: see `QueryBias`.
        own_ffn: whether queries have an FFN of their own, or the image's.
    """
    ((name, length),) = image.lengths.items()
    return Tokens(
        x_BLD,
        {name: length, QUERY: num_queries} if own_ffn else {name: length + num_queries},
        partial(_query_bias, image.bias, num_queries, hidden_BQP),
        image.shared_bias,
    )


class Upscaling(nn.Module):
    """Twice the size: a transposed convolution, a depthwise one and LayerNorm over the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, 2 h, 2 w)."""
        x = self.conv(F.gelu(self.up(x_BDhw)))
        return self.norm(x.movedim(1, 3)).movedim(3, 1)


class MaskHead(nn.Module):
    """Masks of queries: their products with features of a quarter of the image's size.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.upscale = nn.Sequential(*(Upscaling(dim) for _ in range(_UPSCALINGS)))

    def forward(self, x_BLD: Tensor, num_queries: int, grid: Grid) -> tuple[Tensor, Tensor]:
        """Predict from the tokens of a block.

        Args:
            x_BLD: (B, L + Q, D), CLS, patches and queries.
            num_queries: Q.
            grid: rows and columns of patches.

        Returns:
            queries (B, Q, D) after the norm, and logits of their masks (B, Q, 4 * rows, 4 * columns).
        """
        x = self.norm(x_BLD)
        patches, queries = x[:, 1:].split([x.shape[1] - 1 - num_queries, num_queries], 1)
        maps = self.upscale(patches.unflatten(1, grid).movedim(3, 1))
        return queries, torch.einsum("bqd,bdhw->bqhw", self.mlp(queries), maps)


def hidden_patches(masks_BQhw: Tensor, grid: Grid, probability: float) -> Tensor:
    """Where masked attention hides a patch from a query, (B, Q, P): outside of its mask.

    Args:
        masks_BQhw: logits.
        grid: rows and columns of patches.
        probability: that a query of a sample is masked; others see all patches.
    """
    inside = F.interpolate(masks_BQhw.detach(), grid, mode="bilinear", align_corners=False) > 0
    batch, queries = masks_BQhw.shape[:2]
    is_masked = torch.rand(batch, queries, 1, device=masks_BQhw.device) < probability
    return ~inside.flatten(2) & is_masked


def mask_probability(progress: float, block: int, num_blocks: int) -> float:
    """The probability of masked attention in a block, annealed to 0 while training.

    Training is divided into `num_blocks` + 2 equal parts. The first has all masks and the last none;
    the blocks lose theirs in between, one in each part, the earliest first.

    Args:
        progress: fraction of the training that is done.
        block: counted from 0, of those with queries.
        num_blocks: how many have queries.
    """
    done = progress * (num_blocks + 2) - 1 - block
    return (1 - min(max(done, 0.0), 1.0)) ** _POWER
