"""Audio: waveforms to frame tokens, and the padding of clips.

Shapes: B clips, S samples, T frames, C channels, L = T + 1 tokens, P kept tokens, D width.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.adapters.base import Adapter, Shapes
from mmonepeace.layers.kernels import cpu_kernel
from mmonepeace.layers.relative_position_bias import RelativePositionBias1D
from mmonepeace.layers.tokens import BlockBias, Tokens, gather_tokens, kept_bias, kept_positions
from mmonepeace.spec import (
    AUDIO_CONVS,
    AUDIO_FEATURE_DIM,
    AUDIO_RPB_BUCKETS,
    LAYER_NORM_EPS,
    MAX_AUDIO_SECONDS,
    MAX_POSITIONS,
    SAMPLE_RATE,
    Arch,
    num_audio_frames,
)

_MAX_CLIP_SECONDS = 3600.0  # in the metadata of a checkpoint


class _ExtractorLayer(nn.Module):
    """One layer of the wav2vec 2.0 feature extractor, layer-norm mode, without bias."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, dim, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T', C')."""
        # As a matrix product, with channels last: the norm need not copy, and on a CPU it is faster
        # than torch's convolution, see benchmarks/pretrain_step.py.
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        windows = x_BTC.unfold(1, kernel, stride).transpose(2, 3).flatten(2)
        weight = self.conv.weight.transpose(1, 2).flatten(1)
        return F.gelu(self.norm(F.linear(windows, weight)))


def audio_extractor(dim: int) -> nn.Sequential:
    """(B, S, 1) -> (B, T, C), 50 frames a second: the convolutions of wav2vec 2.0, C = `dim`."""
    widths = [1, *(dim for _ in AUDIO_CONVS)]
    return nn.Sequential(
        *(_ExtractorLayer(w, dim, *c) for w, c in zip(widths, AUDIO_CONVS, strict=False))
    )


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
        dim = arch.embed_dim
        if padding not in ("masked", "compat", None):
            raise ValueError(f"audio padding is {padding!r}; choose 'masked' or 'compat'.")
        if clip_seconds is not None and not clip_seconds > 0:
            raise ValueError(f"clip_seconds is {clip_seconds}, expected a number above 0, or None.")
        if dim % pos_groups:
            raise ValueError(f"pos_groups is {pos_groups}; it must divide embed_dim, {dim}.")
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
    def infer_options(shapes: Shapes, meta: Mapping[str, Any]) -> dict[str, Any]:
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
            stored = meta.get("audio_clip_seconds", self.clip_seconds)
            try:
                self.clip_seconds = float(stored)
            except ValueError:
                self.clip_seconds = 0.0
            if not 0 < self.clip_seconds <= _MAX_CLIP_SECONDS:
                raise ValueError(f"audio_clip_seconds is {stored!r}; expected a number of seconds.")
        stored = meta.get("audio_padding", self.padding)
        if stored not in ("masked", "compat"):
            raise ValueError(f"audio_padding is {stored!r}; expected 'masked' or 'compat'.")
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
            waves_BS: (B, S) mono at 16 kHz, standardised, padded on the right with zeros.
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
        """Tokens of `features` at positions `keep_BP` (all that the convolutions see), or at every one."""
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
