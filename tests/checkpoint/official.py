"""Weights in the official layouts: those of `tests.official`, with the buffers of a real file."""

import re

import torch
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.layers.relative_position_bias import rpb_index, rpb_index_1d
from mmonepeace.models import OnePeace
from mmonepeace.spec import AUDIO_RPB_BUCKETS, MAX_POSITIONS, TEXT_RPB_BUCKETS
from tests import official

MODALITIES = ("text", "image", "audio")
# What pretraining has and the released file has not.
_PRETRAINING = re.compile(r"decoder_.*|.*_mask_(head|token).*")


def full(
    dim: int = 32,
    ffn_dim: int = 48,
    depth: int = 2,
    heads: int = 2,
    side: int = 4,
    vocab_size: int = 30,
    feature_dim: int = 16,
    per_block: bool = False,
    pre_norm: bool = False,
    pretraining: bool = False,
    classifier: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The full model with random weights.

    Args:
        dim: width of the encoder; the decoder has half of it.
        ffn_dim: width of the FFNs.
        depth: blocks.
        heads: attention heads.
        side: side of the image grid, in patches.
        vocab_size: rows of the token embedding.
        feature_dim: channels of the audio extractor.
        per_block: a relative position table for each block, as after fine-tuning.
        pre_norm: a LayerNorm in front of the positional convolutions.
        pretraining: decoder, mask heads and mask tokens too.
        classifier: the head of a classification model too.
        dtype: of weights and version.
    """
    sizes = dict(side=side, vocab=vocab_size)
    tables = depth if per_block else 1
    audio = "encoder_wrapper.audio_adapter."
    shapes = official.pretraining(
        MODALITIES, dim, ffn_dim, depth, heads, decoder=(dim // 2, ffn_dim, 1), **sizes
    )
    shapes |= official.encoder(MODALITIES, dim, ffn_dim, depth, heads, tables=tables, **sizes)
    shapes |= official.audio_adapter(audio, dim, heads, tables, feature_dim)
    if classifier:
        shapes |= official.classify_head(dim, heads, classes=7)
    if pre_norm:
        flat = f"{audio}embed_positions."
        shapes = {key.replace(flat, f"{flat}1."): shape for key, shape in shapes.items()}
        shapes |= {f"{flat}0.weight": (dim,), f"{flat}0.bias": (dim,)}
    weights = {
        key: torch.randn(shape, dtype=dtype)
        for key, shape in shapes.items()
        if pretraining or not _PRETRAINING.fullmatch(key)
    }
    for wrapper in ("encoder_wrapper", "decoder_wrapper") if pretraining else ("encoder_wrapper",):
        weights[f"{wrapper}.image_adapter.position_idx"] = torch.arange(side**2 + 1)
        weights[f"{wrapper}.fusion_model.version"] = torch.tensor([3.0], dtype=dtype)
    index = {
        "text": rpb_index_1d(TEXT_RPB_BUCKETS, MAX_POSITIONS),
        "image": rpb_index((side, side)),
        "audio": rpb_index_1d(AUDIO_RPB_BUCKETS, MAX_POSITIONS),
    }
    return weights | {f"encoder_wrapper.{m}_adapter.rp_bucket": i.long() for m, i in index.items()}


def vision_of_full(model: OnePeace) -> dict[str, Tensor]:
    """The model's weights under the names that its vision branch has in the full file."""
    converted = checkpoint.Conversion(dict(model.state_dict()), {"official_layout": "vision"})
    weights = checkpoint.to_official_vision(converted).weights
    return {
        f"encoder_wrapper.{name.replace('encoder.', 'fusion_model.')}": value
        for name, value in weights.items()
    }


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Same names, dtypes and values."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name
