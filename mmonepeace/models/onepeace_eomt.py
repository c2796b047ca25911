"""The backbone as an encoder-only mask transformer: queries in its last blocks become masks.

Shapes: B batch, Q queries, L image tokens (CLS first), D width, h x w cells of 4 x 4 pixels.
"""

from copy import deepcopy
from typing import Any, Literal, NamedTuple

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from mmonepeace.layers.mask_queries import (
    QUERY,
    MaskHead,
    hidden_patches,
    mask_probability,
    with_queries,
)
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS

_CELL = 4  # pixels of a side of a cell of masks


class QueryMasks(NamedTuple):
    """What the queries say after a block.

    Attributes:
        queries_BQD: their embeddings, of which a head makes classes.
        masks_BQhw: logits of their masks, at a quarter of the image's size.
    """

    queries_BQD: Tensor
    masks_BQhw: Tensor


@MMENGINE_MODELS.register_module()  # `OnePeaceEoMT` from any MM library, once imported
@MODELS.register_module()
class OnePeaceEoMT(OnePeace):
    """`OnePeace` whose last blocks also have queries, one more modality of the shared attention.

    There is relative position bias between image tokens only. No adapter, pixel decoder or compiled
    operator: a head, such as `EoMTHead`, classifies the queries.

    In training, queries attend to the patches inside of their masks only, with a probability that goes
    to 0 while the run advances, see `mask_probability`; at the end and at inference they see all. How
    far the run is, MMEngine's message hub says: a resumed run goes on where it was.

    Args:
        arch: see `OnePeace`.
        num_queries: Q.
        num_blocks: last blocks, which have queries; 3 suit 12 blocks, 4 suit 24 and 5 suit 40.
        query_ffn: of the queries: the "image"'s, or their "own", which begins as a copy of it.
        masked_attention: whether training begins with masks.
        kwargs: see `OnePeace`, but for `out_indices`, `out_type`, `stem_maps` and `final_norm`.

    Raises:
        ValueError: if an option is out of range.

    Source: EoMT, arXiv 2503.19108.
    """

    allow_missing = (r"queries$", r"mask_head\.", rf"layers\.\d+\.ffn\.{QUERY}\.")

    def __init__(
        self,
        arch: str | dict[str, Any] = "giant",
        num_queries: int = 100,
        num_blocks: int = 3,
        query_ffn: Literal["image", "own"] = "image",
        masked_attention: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(arch, **kwargs)
        depth, dim = self.arch.depth, self.arch.embed_dim
        if num_queries < 1 or not 1 <= num_blocks <= depth:
            raise ValueError(
                f"num_queries is {num_queries} and num_blocks {num_blocks}; expected one query or more, "
                f"and 1 to {depth} blocks."
            )
        if query_ffn not in ("image", "own"):
            raise ValueError(f"query_ffn is {query_ffn!r}; choose 'image' or 'own'.")
        if query_ffn == "own" and self.lora:
            raise ValueError(
                "query_ffn is 'own', which lora would have to copy; choose query_ffn='image' with lora."
            )
        self.num_blocks = num_blocks
        self.own_ffn = query_ffn == "own"
        self.masked_attention = masked_attention
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.mask_head = MaskHead(dim)
        if self.own_ffn:
            for layer in self._query_layers():
                layer.ffn[QUERY] = deepcopy(layer.ffn["image"]).requires_grad_(True)
            self._register_load_state_dict_pre_hook(_copy_image_ffn, with_module=True)
        self._freeze()

    def _query_layers(self) -> list[Any]:
        return list(self.layers)[self.arch.depth - self.num_blocks :]

    def forward(  # type: ignore[override]  # masks instead of maps
        self, images_B3HW: Tensor
    ) -> tuple[QueryMasks, ...]:
        """What the queries say of images of any one size, (B, 3, H, W) RGB, normalised as in `spec`.

        Returns:
            one `QueryMasks`, after the last block; in training one before each block with queries too.
            Masks have ceil(H / 4) x ceil(W / 4) cells.
        """
        tokens, _ = self._embed_images(images_B3HW)
        assert tokens.grid is not None  # they are patches
        first, count = self.arch.depth - self.num_blocks, len(self.queries)
        x = self.layers.bind(tokens)(tokens.x_BLD, 0, first)
        queries = self.queries.to(x.dtype).expand(x.shape[0], -1, -1)
        x = torch.cat([x, queries], 1)
        progress = _progress() if self.training else 1.0
        outputs, run = [], None
        for i in range(self.num_blocks):
            hidden = None
            if self.training:
                outputs.append(QueryMasks(*self.mask_head(x, count, tokens.grid)))
                probability = mask_probability(progress, i, self.num_blocks)
                if self.masked_attention and probability:
                    hidden = hidden_patches(outputs[-1].masks_BQhw, tokens.grid, probability)
            if run is None or hidden is not None:  # else what blocks share is shared
                run = self.layers.bind(with_queries(tokens, x, count, hidden, self.own_ffn))
            x = run(x, first + i, first + i + 1)
            run = run if hidden is None else None
        outputs.append(QueryMasks(*self.mask_head(x, count, tokens.grid)))
        rows, columns = (-(-side // _CELL) for side in images_B3HW.shape[2:])
        # Cells that are all padding would shift what heads resize to the image.
        return tuple(QueryMasks(q, masks[..., :rows, :columns]) for q, masks in outputs)


def _progress() -> float:
    """Fraction of a run's steps that are done; 0 outside of a run."""
    hub = MessageHub.get_current_instance()
    done, steps = hub.get_info("iter"), hub.get_info("max_iters")
    return done / steps if done and steps else 0.0


def _copy_image_ffn(
    module: OnePeaceEoMT, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Pre-hook of `load_state_dict`: without FFNs of queries, those of the image are copied."""
    for name in module.state_dict():
        if f".ffn.{QUERY}." in name and f"{prefix}{name}" not in state_dict:
            image = state_dict.get(prefix + name.replace(f".ffn.{QUERY}.", ".ffn.image."))
            if image is not None:
                state_dict[f"{prefix}{name}"] = image.clone()
