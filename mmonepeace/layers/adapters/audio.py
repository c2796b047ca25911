"""Audio: waveforms to frame tokens, and the padding of clips.

Shapes: B clips, S samples, T frames, F frequency bins, C channels, L = T + 1 tokens, P kept tokens,
D width.
"""

import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.adapters.base import Adapter, Shapes
from mmonepeace.layers.kernels import cpu_kernel
from mmonepeace.layers.relative_position_bias import RelativePositionBias1D
from mmonepeace.layers.tokens import (
    BlockBias,
    Tokens,
    gather_tokens,
    kept_bias,
    kept_cpu_padding,
    kept_positions,
)
from mmonepeace.spec import (
    AUDIO_CONVS,
    AUDIO_FEATURE_DIM,
    AUDIO_FIELD,
    AUDIO_RPB_BUCKETS,
    AUDIO_STRIDE,
    LAYER_NORM_EPS,
    MAX_AUDIO_SECONDS,
    MAX_POSITIONS,
    MEL_BINS,
    SAMPLE_RATE,
    Arch,
    num_audio_frames,
)

_MAX_CLIP_SECONDS = 3600.0  # in the metadata of a checkpoint
_FRAME_STRIDES = (1, 2, 4)
_FFT = 512  # samples: a power of two that a frame fits into
_MEL_RANGE = (20.0, SAMPLE_RATE / 2)  # Hz
# Of clips with unit variance: what lies 50 dB below white noise is silence, and the scale of the logs.
_MEL_FLOOR, _MEL_MEAN, _MEL_STD = 1e-2, 2.0, 4.0
_BANDS = 8  # of an equaliser


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


def mel_filters(bins: int = MEL_BINS) -> Tensor:
    """(_FFT / 2 + 1, F) triangles with peaks of 1, evenly spaced on the mel scale of O'Shaughnessy."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in _MEL_RANGE)
    mels = torch.linspace(low, high, bins + 2, dtype=torch.float64, device="cpu")
    edges = 700 * (10 ** (mels / 2595) - 1)
    spectrum = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64, device="cpu")
    rise = (spectrum[:, None] - edges[:-2]) / edges.diff()[:-1]
    fall = (edges[2:] - spectrum[:, None]) / edges.diff()[1:]
    return torch.minimum(rise, fall).clamp(min=0).float()


class MelStem(nn.Module):
    """Log-mel spectrogram and three overlapping convolutions: (B, S) -> (B, T', C).

    Its frames are those of the waveform extractor, every `frame_stride`-th of them: 25 ms, 50 a
    second. Each convolution halves the frequencies.

    Args:
        dim: channels of the convolutions, half of them in the first; C is 8 times as many.
        frame_stride: 1, 2 or 4 frames become one.
        masks: in training, stripes of time and as many of frequencies that are hidden in each clip,
            up to a fifth of each: SpecAugment.
        equaliser: in training, standard deviation in dB of the gain of eight bands of each clip,
            evenly spaced on the mel scale, smooth in between.
    """

    def __init__(
        self, dim: int, frame_stride: int = 1, masks: int = 0, equaliser: float = 0.0
    ) -> None:
        super().__init__()
        self.masks = masks
        self.equaliser = equaliser
        # No buffers: a model cast to half precision would round them.
        self.filters = mel_filters()
        self.window = torch.hann_window(AUDIO_FIELD, device="cpu")
        self.strides = [1 + (frame_stride > 2), 1 + (frame_stride > 1), 1]
        widths = [1, dim // 2, dim, dim]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, (stride, 2), padding=1)
            for a, b, stride in zip(widths, widths[1:], self.strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, LAYER_NORM_EPS) for width in widths[1:])
        self.out_dim = dim * (MEL_BINS // 8)

    def forward(self, waves_BS: Tensor, pad_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Frames (B, T', C) and their padding; what is padded is zero at every convolution."""
        x = self.spectrogram(waves_BS, self.equaliser if self.training else 0.0)
        if self.training and self.masks:
            x = self._hide(x, pad_BT)
        x = x.to(next(self.parameters()).dtype)[:, None]
        for conv, norm, stride in zip(self.convs, self.norms, self.strides, strict=True):
            if pad_BT is not None:
                x = x.masked_fill(pad_BT[:, None, :, None], 0)
                pad_BT = pad_BT[:, ::stride]
            x = F.gelu(norm(conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x.permute(0, 2, 3, 1).flatten(2), pad_BT

    @torch.no_grad()
    def spectrogram(self, waves_BS: Tensor, equaliser: float = 0.0) -> Tensor:
        """(B, T, F) float32, about zero mean and unit variance."""
        with torch.autocast(waves_BS.device.type, enabled=False):
            device = waves_BS.device
            frames = waves_BS.float().unfold(1, AUDIO_FIELD, AUDIO_STRIDE)
            spectrum = torch.fft.rfft(frames * self.window.to(device), _FFT)
            power = spectrum.real.square() + spectrum.imag.square()
            mels = power @ self.filters.to(device)
            if equaliser:
                decibels = torch.randn(len(waves_BS), 1, _BANDS, device=device) * equaliser
                gains = F.interpolate(decibels, MEL_BINS, mode="linear", align_corners=True)
                mels = mels * 10 ** (gains / 10)  # of power
            return (mels.clamp(min=_MEL_FLOOR).log() - _MEL_MEAN) / _MEL_STD

    def _hide(self, x_BTF: Tensor, pad_BT: Tensor | None) -> Tensor:
        length = x_BTF.shape[1] if pad_BT is None else (~pad_BT).sum(1)
        device = x_BTF.device
        for axis, size in ((1, length), (2, x_BTF.shape[2])):
            for _ in range(self.masks):
                width = torch.rand(len(x_BTF), device=device) * size / 5
                start = torch.rand(len(x_BTF), device=device) * (size - width)
                index = torch.arange(x_BTF.shape[axis], device=device)
                hidden = (index >= start[:, None]) & (index < (start + width)[:, None])
                x_BTF = x_BTF.masked_fill(hidden.unsqueeze(3 - axis), 0)
        return x_BTF


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
        features: what frames are computed with: "waveform", the released extractor; "log-mel", a
            `MelStem`, which learns much faster from little data and costs a small part of it.
            `feature_dim` is then the channels of its convolutions.
        frame_stride: with "log-mel", 1, 2 or 4 frames become one token: 50, 25 or 12.5 a second.
            `MaskTokens` needs 1.
        spec_masks: with "log-mel", see `MelStem`.
        equaliser: with "log-mel", see `MelStem`. For the whole batch at once, it costs a small part
            of that of `PerturbAudio`.
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
        features: Literal["waveform", "log-mel"] = "waveform",
        frame_stride: int = 1,
        spec_masks: int = 0,
        equaliser: float = 0.0,
    ) -> None:
        super().__init__(modality, arch)
        dim = arch.embed_dim
        if padding not in ("masked", "compat", None):
            raise ValueError(f"audio padding is {padding!r}; choose 'masked' or 'compat'.")
        if clip_seconds is not None and not clip_seconds > 0:
            raise ValueError(f"clip_seconds is {clip_seconds}, expected a number above 0, or None.")
        if dim % pos_groups:
            raise ValueError(f"pos_groups is {pos_groups}; it must divide embed_dim, {dim}.")
        if features not in ("waveform", "log-mel"):
            raise ValueError(f"features are {features!r}; choose 'waveform' or 'log-mel'.")
        if frame_stride not in _FRAME_STRIDES or spec_masks < 0:
            raise ValueError(
                f"frame_stride is {frame_stride} and spec_masks {spec_masks}; expected one of "
                f"{_FRAME_STRIDES}, and 0 or more."
            )
        if not 0 <= equaliser < math.inf:
            raise ValueError(f"equaliser is {equaliser}, expected decibels, 0 or more.")
        if features == "waveform" and (frame_stride > 1 or spec_masks or equaliser):
            raise ValueError("frame_stride, spec_masks and equaliser need features='log-mel'.")
        self.padding = padding or "masked"
        self.padding_is_given = padding is not None
        self.clip_seconds = clip_seconds or MAX_AUDIO_SECONDS
        self.clip_seconds_are_given = clip_seconds is not None
        self.frame_stride = frame_stride
        if features == "log-mel":
            self.mel_stem = MelStem(feature_dim, frame_stride, spec_masks, equaliser)
            feature_dim = self.mel_stem.out_dim
        else:
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
        """Kind and sizes of the layers, and the padding that the weights were trained with."""
        dim, group_dim, kernel = shapes["pos_conv.1.weight"]
        pos_pre_norm = "pos_conv.0.weight" in shapes
        if mel := shapes.get("mel_stem.norms.2.weight"):
            stride = _stored_stride(meta)
            kind: dict[str, Any] = dict(feature_dim=mel[0], features="log-mel", frame_stride=stride)
        else:
            kind = {"feature_dim": shapes["extractor.0.conv.weight"][0]}
        return kind | dict(
            num_buckets=shapes["rpb.tables.0"][0] // 2 - 1,
            pos_depth=sum(f"pos_conv.{i}.weight" in shapes for i in range(1, len(shapes))),
            pos_kernel=kernel,
            pos_groups=dim // group_dim,
            pos_pre_norm=pos_pre_norm,
            padding=meta.get("audio_padding", "masked"),
        )

    def metadata(self) -> dict[str, str]:
        """The padding, the clips and the stride the weights were trained with."""
        meta = {"audio_padding": self.padding, "audio_clip_seconds": str(self.clip_seconds)}
        if hasattr(self, "mel_stem"):  # what has the released extractor says what it always said
            meta["audio_frame_stride"] = str(self.frame_stride)
        return meta

    def adopt_metadata(self, meta: Mapping[str, Any]) -> None:
        """Use those of the checkpoint, unless others were chosen; another padding then warns.

        Another stride is an error: nothing but the metadata says what weights were trained with.
        """
        has_stride = hasattr(self, "mel_stem") and "audio_frame_stride" in meta
        if has_stride and (stride := _stored_stride(meta)) != self.frame_stride:
            raise ValueError(
                f"the checkpoint was trained with frame_stride {stride}, the model is built with "
                f"{self.frame_stride}. Set frame_stride={stride} of its audio modality."
            )
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
        self,
        waves_BS: Tensor,
        pad_BT: Tensor | None = None,
        cpu_pad_BT: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor | None, np.ndarray | None]:
        """Turn waveforms into frames.

        Args:
            waves_BS: (B, S) mono at 16 kHz, standardised, padded on the right with zeros.
            pad_BT: (B, T), T = `spec.num_audio_frames(S)`: True where a frame is padding.
            cpu_pad_BT: the same for the CPU, see `Tokens`.

        Returns:
            frames without positions (B, T, D), `pad_BT` and `cpu_pad_BT`; with a `frame_stride` s of
            all of them only ceil(T / s).

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
        if pad_BT is not None and pad_BT.shape != (waves_BS.shape[0], frames):
            raise ValueError(
                f"the audio padding mask has shape {tuple(pad_BT.shape)}, expected "
                f"{(waves_BS.shape[0], frames)}: one entry for each frame, spec.num_audio_frames."
            )
        pads: Any = pad_BT, cpu_pad_BT
        if hasattr(self, "mel_stem"):
            skipped = pad_BT if self.padding == "masked" else None
            x, _ = self.mel_stem(waves_BS, skipped)
            pads = [pad if pad is None else pad[:, :: self.frame_stride] for pad in pads]
            return self.feature_proj(self.feature_norm(x)), *pads
        if kernel := cpu_kernel("audio_features", waves_BS):
            skipped = pad_BT if self.padding == "masked" else None
            return kernel(self._frames, waves_BS, frames, skipped), *pads
        return self._frames(waves_BS), *pads

    def _frames(self, waves_BS: Tensor) -> Tensor:
        """(B, S) -> (B, T, D)."""
        return self.feature_proj(self.feature_norm(self.extractor(waves_BS[..., None])))

    def to_tokens(
        self,
        features: tuple[Tensor, Tensor | None, np.ndarray | None],
        keep_BP: Tensor | None = None,
        cpu_keep_BP: np.ndarray | None = None,
    ) -> Tokens:
        """Tokens of `features` at positions `keep_BP` (all that the convolutions see), or at every one."""
        x, pad_BT, cpu_pad_BT = features
        bias: BlockBias = partial(self.rpb, x.shape[1] + 1)
        if keep_BP is not None:
            if cpu_keep_BP is not None:
                cpu_keep_BP = cpu_keep_BP[:, 1:] - 1  # of frames
            cpu_pad_BT = kept_cpu_padding(pad_BT, cpu_pad_BT, cpu_keep_BP)
            keep_BP, pad_BP = kept_positions(keep_BP)
            bias = partial(kept_bias, bias, keep_BP)
            kept_frames = keep_BP[:, 1:] - 1
            x = gather_tokens(x, kept_frames)
            pad_BP = pad_BP[:, 1:]
            pad_BT = pad_BP if pad_BT is None else pad_BP | pad_BT.gather(1, kept_frames)
        positions = self._positions(x, pad_BT)
        return self.assemble(x, positions, bias, pad_BT, cpu_pad_BT=cpu_pad_BT)

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
        return torch.cat([self.cls_pos_embed.expand(x.shape[0], -1, -1), x], 1)


def _stored_stride(meta: Mapping[str, Any]) -> int:
    """`frame_stride` in the metadata of a checkpoint; without any 1."""
    stored = meta.get("audio_frame_stride", "1")
    if str(stored) not in map(str, _FRAME_STRIDES):
        raise ValueError(f"audio_frame_stride is {stored!r}; expected one of {_FRAME_STRIDES}.")
    return int(stored)
