"""Features of waveforms on a CPU, in cache-sized chunks, without computing padded frames.

Shapes: B clips, S samples, T frames, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mmonepeace.spec import AUDIO_FIELD, AUDIO_STRIDE

_CHUNK_FRAMES = 64  # 8 MB in the first layer


def chunked_audio_features(
    features: Callable[[Tensor], Tensor], waves_BS: Tensor, frames: int, pad_BT: Tensor | None
) -> Tensor:
    """features(waves), where no frame depends on samples outside its receptive field.

    Args:
        features: (B, S) -> (B, T, D), convolutions and what works on single frames.
        waves_BS: waveforms.
        frames: T.
        pad_BT: True where a frame is padding, on the right, which need not be computed and
            becomes zero. None: compute all frames.

    Returns:
        (B, T, D).
    """
    counts, longest = torch.full((len(waves_BS),), frames), frames
    # Of fake tensors, whose padding nobody knows, all frames.
    if pad_BT is not None and not isinstance(pad_BT, FakeTensor):
        counts -= pad_BT.sum(1)
        longest = int(counts.max())
    length = max(_CHUNK_FRAMES // len(waves_BS), _CHUNK_FRAMES // 8)
    chunks, positions = [], []
    for start in range(0, longest, length):
        (clips,) = (counts > start).nonzero(as_tuple=True)
        stop = min(start + length, longest)
        samples = slice(start * AUDIO_STRIDE, (stop - 1) * AUDIO_STRIDE + AUDIO_FIELD)
        chunks.append(features(waves_BS[clips, samples]).flatten(0, 1))
        positions.append((clips[:, None] * frames + torch.arange(start, stop)).flatten())
    x = torch.cat(chunks)
    padded = x.new_zeros(len(waves_BS) * frames, x.shape[1])
    return padded.index_copy(0, torch.cat(positions), x).unflatten(0, (-1, frames))
