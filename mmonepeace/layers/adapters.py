"""Modality adapters: raw input to tokens. One class and one entry of `ADAPTERS` per modality.

Shapes: B batch, T text tokens or audio frames, S audio samples, L tokens (CLS first), P kept
tokens, D width.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.kernels import cpu_kernel
from mmonepeace.layers.relative_position_bias import RelativePositionBias1D, RelativePositionBias2D
from mmonepeace.layers.resampling import Grid, Resampling, resample_pos_embed
from mmonepeace.layers.stems import PatchConv, audio_extractor, hmlp_stem
from mmonepeace.layers.tokens import (
    BlockBias,
    Tokens,
    gather_tokens,
    kept_bias,
    kept_positions,
    zero_padding,
)
from mmonepeace.spec import (
    AUDIO_FEATURE_DIM,
    AUDIO_RPB_BUCKETS,
    LAYER_NORM_EPS,
    MAX_AUDIO_SECONDS,
    MAX_POSITIONS,
    PAD_ID,
    PATCH_SIZE,
    PRETRAIN_IMG_SIZE,
    SAMPLE_RATE,
    TEXT_POSITIONS,
    TEXT_RPB_BUCKETS,
    VOCAB_SIZE,
    Arch,
    num_audio_frames,
)


class Adapter(nn.Module):
    """Base of all adapters: CLS, optional embedding norm and type vector.

    A subclass takes (modality, arch, num_tables) and its own options with defaults, and keeps its
    relative position bias in `rpb`; `infer_options` reads its options off a checkpoint. It turns
    inputs into `Tokens` in two steps, so that several views of the same inputs share the first:
    `features(*inputs)` does all that does not depend on which tokens are kept,
    `to_tokens(features, keep_BP)` the rest.

    Args:
        modality: key of the adapter, of its FFNs and of its final norm.
        arch: widths and variants.
        cls_token: whether CLS comes before the other tokens.
    """

    def __init__(self, modality: str, arch: Arch, cls_token: bool = True) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.modality = modality
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.embed_norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.embed_norm else nn.Identity()
        self.type_embed = nn.Parameter(torch.zeros(1, 1, dim)) if arch.type_embed else None

    def forward(self, *inputs: Any, keep_BP: Tensor | None = None) -> Tokens:
        """Embed inputs.

        Args:
            inputs: see `features`.
            keep_BP: see `Tokens.keep`; None keeps all tokens.
        """
        return self.to_tokens(self.features(*inputs), keep_BP)

    def features(self, *inputs: Any) -> Any:
        """The part of the computation that all views of the inputs share, for `to_tokens`."""
        raise NotImplementedError

    def to_tokens(self, features: Any, keep_BP: Tensor | None = None) -> Tokens:
        """Tokens at the given positions.

        Args:
            features: from `features`; here, all tokens.
            keep_BP: see `Tokens.keep`; None keeps all tokens.
        """
        return features if keep_BP is None else features.keep(keep_BP)

    def metadata(self) -> dict[str, str]:
        """What a checkpoint must say besides the weights; keys begin with the modality's name."""
        return {}

    def adopt_metadata(self, meta: Mapping[str, Any]) -> None:
        """Follow the metadata of a checkpoint that is being loaded."""

    @staticmethod
    def infer_options(shapes: Mapping[str, Sequence[int]], meta: Mapping[str, Any]) -> dict:
        """Read the options of the adapter off a checkpoint, so that no configuration is needed.

        Args:
            shapes: parameter of the adapter, such as "rpb.tables.0" -> its shape.
            meta: metadata of the checkpoint, see `metadata`.

        Returns:
            arguments of the constructor; those that are left out keep their defaults.
        """
        return {}

    def assemble(
        self,
        x_BTD: Tensor,
        positions: Tensor,
        bias: BlockBias,
        pad_BT: Tensor | None = None,
        grid: Grid | None = None,
    ) -> Tokens:
        """Prepend CLS, apply the norm, add positions and type.

        Args:
            x_BTD: features without CLS.
            positions: (L, D) or (B, L, D), CLS first.
            bias: see `Tokens`.
            pad_BT: True where a feature is padding.
            grid: see `Tokens`.
        """
        x, pad_BL = x_BTD, pad_BT
        if self.cls_token is None:
            positions = positions[..., 1:, :]
        else:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            pad_BL = None if pad_BT is None else F.pad(pad_BT, (1, 0))
        x = self.embed_norm(x) + positions
        if self.type_embed is not None:
            x = x + self.type_embed
        if pad_BL is not None:
            x, pad_BL = zero_padding(x, pad_BL)
        shared = len(self.rpb.tables) == 1
        return Tokens(x, {self.modality: x.shape[1]}, bias, shared, pad_BL, grid)


class TextAdapter(Adapter):
    """Token ids to tokens with learned positions and 1-D relative position bias.

    Args:
        modality: see `Adapter`.
        arch: widths and variants.
        num_tables: RPB tables, 1 or one per block.
        vocab_size: rows of the embedding table.
        num_positions: rows of the position table, CLS included: the longest sequence.
        num_buckets: see `rpb_rows_1d`.
    """

    def __init__(
        self,
        modality: str,
        arch: Arch,
        num_tables: int,
        vocab_size: int = VOCAB_SIZE,
        num_positions: int = TEXT_POSITIONS,
        num_buckets: int = TEXT_RPB_BUCKETS,
    ) -> None:
        super().__init__(modality, arch)
        self.embed_tokens = nn.Embedding(vocab_size, arch.embed_dim, PAD_ID)
        self.pos_embed = nn.Parameter(torch.zeros(num_positions, arch.embed_dim))
        self.rpb = RelativePositionBias1D(num_buckets, arch.num_heads, num_tables)

    def features(self, ids_BT: Tensor) -> Tokens:
        """Embed token ids.

        Args:
            ids_BT: (B, T) integers, each row closed with `spec.EOS_ID` and padded at the right
                with `spec.PAD_ID`.

        Returns:
            Tokens with L = T + 1.

        Raises:
            ValueError: if the ids are not (B, T) integers, or too many.
        """
        if ids_BT.ndim != 2 or ids_BT.is_floating_point() or 0 in ids_BT.shape:
            raise ValueError(
                f"token ids have shape {tuple(ids_BT.shape)} and dtype {ids_BT.dtype}, expected "
                "(batch, tokens) integers. Make them with Tokenizer.encode, and never cast them."
            )
        length = ids_BT.shape[1] + 1
        if length > len(self.pos_embed):
            raise ValueError(
                f"text has {length - 1} tokens, the limit of this model is "
                f"{len(self.pos_embed) - 1}. Truncate in Tokenize(max_length=...)."
            )
        return self.assemble(
            self.embed_tokens(ids_BT),
            self.pos_embed[:length],
            partial(self.rpb, length),
            pad_BT=ids_BT == PAD_ID,
        )

    @staticmethod
    def infer_options(shapes: Mapping[str, Sequence[int]], meta: Mapping[str, Any]) -> dict:
        """Sizes of the vocabulary and of the tables."""
        return dict(
            vocab_size=shapes["embed_tokens.weight"][0],
            num_positions=shapes["pos_embed"][0],
            num_buckets=shapes["rpb.tables.0"][0] // 2 - 1,
        )


class ImageAdapter(Adapter):
    """Image to patch tokens with learned positions and 2-D relative position bias.

    Args:
        modality: see `Adapter`.
        arch: widths and variants.
        num_tables: RPB tables, 1 or one per block.
        img_size: side in pixels of the square image whose grid positions and tables are for.
        cls_token: whether CLS comes before the patches; detectors have none.
        rpb_sides: of the square grids in patches that the tables are for, if not that of
            `img_size`.
        rpb_resampling: for other grids, see `resample_rpb`.

    Raises:
        ValueError: if `img_size` is not a multiple of the patch size.
    """

    def __init__(
        self,
        modality: str,
        arch: Arch,
        num_tables: int,
        img_size: int = PRETRAIN_IMG_SIZE,
        cls_token: bool = True,
        rpb_sides: Sequence[int] | None = None,
        rpb_resampling: Resampling = "geometric",
    ) -> None:
        super().__init__(modality, arch, cls_token)
        if img_size < PATCH_SIZE or img_size % PATCH_SIZE:
            raise ValueError(
                f"img_size {img_size} is not a multiple of {PATCH_SIZE}. It only names the grid "
                "the tables are for: images may have any size."
            )
        dim, side = arch.embed_dim, img_size // PATCH_SIZE
        self.grid = (side, side)
        self.stem = (
            hmlp_stem(dim) if arch.stem == "hmlp" else PatchConv(3, dim, PATCH_SIZE, bias=False)
        )
        self.pos_embed = nn.Parameter(torch.zeros(side**2 + 1, dim))
        # Added to the second image of a pair (NLVR2), besides the common one.
        self.type_embed_2 = nn.Parameter(torch.zeros(1, 1, dim)) if arch.type_embed else None
        sides = rpb_sides or [side] * num_tables
        self.rpb = RelativePositionBias2D(sides, arch.num_heads, cls_token, rpb_resampling)

    def features(self, images_B3HW: Tensor, second: bool = False) -> Tokens:
        """Embed images of any one size.

        Sides that are not a multiple of 16 are padded at the right and bottom with zeros, the
        mean colour of a normalised image.

        Args:
            images_B3HW: (B, 3, H, W), RGB, normalised with `spec.IMAGE_MEAN`, `spec.IMAGE_STD`.
            second: these are the second images of pairs.

        Returns:
            Tokens with L = ceil(H / 16) * ceil(W / 16) + 1, or one less without CLS.

        Raises:
            ValueError: if the input is not (B, 3, H, W).
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3 or 0 in images_B3HW.shape:
            raise ValueError(
                f"images have shape {tuple(images_B3HW.shape)}, expected (batch, 3, height, "
                "width). Add the batch dimension, convert grey or RGBA images to RGB."
            )
        height, width = images_B3HW.shape[-2:]
        pad = (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE)
        if any(pad):
            images_B3HW = F.pad(images_B3HW, pad)
        patches_BhwD = self.stem(images_B3HW.movedim(1, 3))
        grid = tuple(patches_BhwD.shape[1:3])
        positions = self.pos_embed
        if grid != self.grid:
            positions = resample_pos_embed(positions, grid)
        if second and self.type_embed_2 is not None:
            positions = positions + self.type_embed_2[0]
        bias = partial(self.rpb, grid)
        return self.assemble(patches_BhwD.flatten(1, 2), positions, bias, grid=grid)


class AudioAdapter(Adapter):
    """Waveform to frame tokens (50 a second) with convolutional positions and 1-D RPB.

    Args:
        modality: see `Adapter`.
        arch: widths and variants.
        num_tables: RPB tables, 1 or one per block.
        feature_dim: channels of the extractor.
        num_buckets: see `rpb_rows_1d`.
        pos_depth: positional convolutions.
        pos_kernel: their kernel.
        pos_groups: their groups.
        pos_pre_norm: LayerNorm in front of them.
        padding: "masked", padded frames are zero for the positional convolutions, so that padding
            changes nothing; "compat", they are not, as in the official code: frames near the end
            of a clip depend on the batch. None: "masked", until a checkpoint that says otherwise
            is loaded.
        clip_seconds: length of the clips that it learns from; longer audio is best embedded in
            windows of this length. None: 15, until a checkpoint that says otherwise is loaded.
    """

    def __init__(
        self,
        modality: str,
        arch: Arch,
        num_tables: int,
        feature_dim: int = AUDIO_FEATURE_DIM,
        num_buckets: int = AUDIO_RPB_BUCKETS,
        pos_depth: int = 5,
        pos_kernel: int = 19,
        pos_groups: int = 16,
        pos_pre_norm: bool = False,
        padding: Literal["masked", "compat"] | None = None,
        clip_seconds: float | None = None,
    ) -> None:
        super().__init__(modality, arch)
        if padding not in ("masked", "compat", None):
            raise ValueError(f"audio padding is {padding!r}; choose 'masked' or 'compat'.")
        dim = arch.embed_dim
        self.padding = padding or "masked"
        self.padding_is_given = padding is not None
        self.clip_seconds = clip_seconds or MAX_AUDIO_SECONDS
        self.clip_seconds_are_given = clip_seconds is not None
        self.extractor = audio_extractor(feature_dim)
        self.feature_norm = nn.LayerNorm(feature_dim, LAYER_NORM_EPS)
        self.feature_proj = nn.Linear(feature_dim, dim)
        self.pos_conv = nn.ModuleList(
            [
                nn.LayerNorm(dim, LAYER_NORM_EPS) if pos_pre_norm else nn.Identity(),
                *(
                    nn.Conv1d(dim, dim, pos_kernel, padding=pos_kernel // 2, groups=pos_groups)
                    for _ in range(pos_depth)
                ),
            ]
        )
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.rpb = RelativePositionBias1D(num_buckets, arch.num_heads, num_tables)

    @staticmethod
    def infer_options(shapes: Mapping[str, Sequence[int]], meta: Mapping[str, Any]) -> dict:
        """Sizes of the layers, and the padding that the weights were trained with."""
        dim, group_dim, kernel = shapes["pos_conv.1.weight"]
        pos_pre_norm = "pos_conv.0.weight" in shapes
        return dict(
            feature_dim=shapes["extractor.0.conv.weight"][0],
            num_buckets=shapes["rpb.tables.0"][0] // 2 - 1,
            pos_depth=sum(f"pos_conv.{i}.weight" in shapes for i in range(1, len(shapes))),
            pos_kernel=kernel,
            pos_groups=dim // group_dim,
            pos_pre_norm=pos_pre_norm,
            padding=meta.get("audio_padding", "masked"),
        )

    def metadata(self) -> dict[str, str]:
        """The padding and the clips the weights were trained with."""
        return {"audio_padding": self.padding, "audio_clip_seconds": str(self.clip_seconds)}

    def adopt_metadata(self, meta: Mapping[str, Any]) -> None:
        """Use those of the checkpoint, unless others were chosen; another padding then warns."""
        if not self.clip_seconds_are_given:
            self.clip_seconds = float(meta.get("audio_clip_seconds", self.clip_seconds))
        stored = meta.get("audio_padding", self.padding)
        if not self.padding_is_given:
            self.padding = stored
        elif self.padding != stored:
            warnings.warn(
                f"the checkpoint was trained with audio padding {stored!r}, the model is built "
                f"with {self.padding!r}: the last frames of padded clips will differ.",
                stacklevel=2,
            )

    def features(
        self, waves_BS: Tensor, pad_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Turn waveforms into frames.

        Args:
            waves_BS: (B, S) mono at 16 kHz, standardised, padded at the right with zeros.
            pad_BT: (B, T), T = `spec.num_audio_frames(S)`: True where a frame is padding.

        Returns:
            frames without positions (B, T, D), and `pad_BT`.

        Raises:
            ValueError: if the waveforms are too short, too long, or of another form.
        """
        frames = num_audio_frames(waves_BS.shape[-1])
        if waves_BS.ndim != 2 or frames < 1:
            raise ValueError(
                f"waveforms have shape {tuple(waves_BS.shape)}, expected (batch, samples) with at "
                "least 400 samples at 16 kHz. Load clips with LoadAudio: it repeats short ones."
            )
        if frames >= MAX_POSITIONS:
            raise ValueError(
                f"audio of {waves_BS.shape[1] / SAMPLE_RATE:.2f} s has {frames} frames, the "
                f"limit is {MAX_POSITIONS - 1} (20.48 s). Cut it with LoadAudio(max_seconds=...), "
                "or encode it with Embedder.encode_audio, which averages windows."
            )
        if pad_BT is not None and pad_BT.shape != (len(waves_BS), frames):
            raise ValueError(
                f"the audio padding mask has shape {tuple(pad_BT.shape)}, expected "
                f"{(len(waves_BS), frames)}: one entry for each frame, spec.num_audio_frames."
            )
        if kernel := cpu_kernel("audio_features", waves_BS):
            skipped = pad_BT if self.padding == "masked" else None
            return kernel(self._frames, waves_BS, frames, skipped), pad_BT
        return self._frames(waves_BS), pad_BT

    def _frames(self, waves_BS: Tensor) -> Tensor:
        """(B, S) -> (B, T, D)."""
        return self.feature_proj(self.feature_norm(self.extractor(waves_BS[..., None])))

    def to_tokens(
        self, features: tuple[Tensor, Tensor | None], keep_BP: Tensor | None = None
    ) -> Tokens:
        """Tokens at the given positions; the positional convolutions see only these.

        Args:
            features: from `features`.
            keep_BP: see `Tokens.keep`; None keeps all tokens.

        Returns:
            Tokens with L = T + 1, or P.
        """
        x, pad_BT = features
        bias: BlockBias = partial(self.rpb, x.shape[1] + 1)
        if keep_BP is not None:
            keep_BP, pad_BP = kept_positions(keep_BP)
            bias = partial(kept_bias, bias, keep_BP)
            kept_frames = keep_BP[:, 1:] - 1
            x = gather_tokens(x, kept_frames)
            pad_BP = pad_BP[:, 1:]
            pad_BT = pad_BP if pad_BT is None else pad_BP | pad_BT.gather(1, kept_frames)
        return self.assemble(x, self._positions(x, pad_BT), bias, pad_BT)

    def _positions(self, x_BTD: Tensor, pad_BT: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T + 1, D), CLS first."""
        norm, *convs = self.pos_conv
        x = norm(x_BTD)
        for conv in convs:
            if pad_BT is not None and self.padding == "masked":
                x = x.masked_fill(pad_BT[..., None], 0)
            # An even kernel gives one frame too many.
            x = conv(x.transpose(1, 2))[..., : x_BTD.shape[1]].transpose(1, 2)
            x = F.gelu(F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS))
        return torch.cat([self.cls_pos_embed.expand(len(x), -1, -1), x], 1)


# In the order of the modalities in a joint sequence.
ADAPTERS: dict[str, type[Adapter]] = {
    "text": TextAdapter,
    "image": ImageAdapter,
    "audio": AudioAdapter,
}
