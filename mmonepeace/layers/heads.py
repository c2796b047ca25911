"""Heads on the tokens of an encoder.

Shapes: B batch, L tokens (CLS first), T tokens without CLS, D width, H heads, d = D / H.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmonepeace.layers.kernels import attend
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.spec import LAYER_NORM_EPS, Arch


class AttentionPooling(nn.Module):
    """One learned query per head over all tokens; its logits are not scaled by 1 / sqrt(d)."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim, heads = arch.embed_dim, arch.num_heads
        self.query = nn.Parameter(torch.zeros(1, 1, heads, dim // heads))
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, pad_BT: Tensor | None) -> Tensor:
        """(B, T, D), and where they are padding -> (B, D)."""
        heads, width = self.query.shape[2:]
        k, v = (
            project(x_BTD).unflatten(-1, (heads, width)).transpose(1, 2)
            for project in (self.k_proj, self.v_proj)
        )
        query = self.query.transpose(1, 2).expand(x_BTD.shape[0], -1, -1, -1) * width**0.5
        bias = None
        if pad_BT is not None:
            bias = torch.zeros_like(pad_BT, dtype=k.dtype).masked_fill(pad_BT, -torch.inf)
            bias = bias[:, None, None, :]
        return self.out_proj(attend(query, k, v, DenseBias(bias)).flatten(1))


class ClassificationHead(nn.Module):
    """Pooling, then two linear layers with LayerNorm and GELU between them.

    Args:
        arch: widths of the encoder.
        num_classes: outputs.
        attn_pooling: pool the tokens after CLS with attention and a LayerNorm; otherwise take
            CLS as it is.
        pooler: another linear layer with tanh after the pooling (VQA).
        pooler_dropout: around that layer.
        hidden_ratio: width of the hidden layer, in widths of the encoder.
        num_views: encodings of one sample that are pooled and concatenated (NLVR2: 2).

    Raises:
        ValueError: if a number of outputs, widths or views is not 1 or more.

    Source: the head of the official classification models.
    """

    def __init__(
        self,
        arch: Arch,
        num_classes: int,
        attn_pooling: bool = True,
        pooler: bool = False,
        pooler_dropout: float = 0.0,
        hidden_ratio: int = 2,
        num_views: int = 1,
    ) -> None:
        super().__init__()
        dim = arch.embed_dim
        for name, value in dict(
            num_classes=num_classes, hidden_ratio=hidden_ratio, num_views=num_views
        ).items():
            if value < 1:
                raise ValueError(f"{name} of the head is {value}, expected 1 or more.")
        self.num_views = num_views
        # The official module has this norm without pooling too, unused.
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.pool = AttentionPooling(arch) if attn_pooling else None
        self.pooler = (
            nn.Sequential(
                nn.Dropout(pooler_dropout),
                nn.Linear(dim, dim),
                nn.Tanh(),
                nn.Dropout(pooler_dropout),
            )
            if pooler
            else nn.Identity()
        )
        self.classifier = nn.Sequential(
            nn.Linear(num_views * dim, hidden_ratio * dim),
            nn.LayerNorm(hidden_ratio * dim, LAYER_NORM_EPS),
            nn.GELU(),
            nn.Linear(hidden_ratio * dim, num_classes),
        )

    def _pool(self, x_BLD: Tensor, pad_BL: Tensor | None) -> Tensor:
        if self.pool is None:
            return self.pooler(x_BLD[:, 0])
        pooled = self.pool(x_BLD[:, 1:], None if pad_BL is None else pad_BL[:, 1:])
        return self.pooler(self.norm(pooled))

    def forward(self, views: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """(Tokens (B, L, D), and where they are padding (B, L) or None) of each view -> (B, classes)."""
        return self.classifier(torch.cat([self._pool(*view) for view in views], 1))
