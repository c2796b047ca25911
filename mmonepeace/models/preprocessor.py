"""From a list of samples to a batch of every modality, on the model's device.

Shapes: B clips, texts or images; H, W pixels; L tokens, P of them kept; S samples of audio, T of
its frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmonepeace.models.augmentation import BatchAugmentation
from mmonepeace.registry import MODELS
from mmonepeace.spec import CLIP_MEAN, CLIP_STD, PAD_ID, num_audio_frames

Samples = Sequence[Tensor] | Tensor


@MODELS.register_module()
class MultimodalDataPreprocessor(BaseDataPreprocessor):
    """Normalise images, pad texts and audio, stack everything else.

    Args:
        image_mean: of RGB values in 0..1.
        image_std: the same.
        non_blocking: whether copies from pinned memory return at once.
        augmentation: options of `BatchAugmentation`, for images of training; None changes none.
    """

    def __init__(
        self,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        non_blocking: bool = False,
        augmentation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(non_blocking)
        self.augment = BatchAugmentation(**augmentation) if augmentation else None
        # No buffers: a model cast to half precision would round them.
        self.image_mean = torch.tensor(image_mean, device="cpu").view(3, 1, 1)
        self.image_std = torch.tensor(image_std, device="cpu").view(3, 1, 1)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Make a batch of samples.

        Args:
            data: `inputs`, a dict with a list of tensors (or a batch of them) per modality, and
                perhaps `data_samples` and `keeps`.
            training: whether images are augmented; else it makes no difference.

        Returns:
            `data_samples` (None without) and `inputs`:
            image: (B, 3, H, W) float32, normalised, from uint8;
            video: the same of the frames of clips, (B, T, 3, H, W), which change alike; views of a clip
            come before T;
            image_2: the same; changed at random as the first image of the sample is;
            text: (B, L) int64, padded on the right; of candidates, those of a sample in a row; and (B, L)
            bool, True where it is padding, as an array for the CPU: see `Tokens`;
            audio: (B, S) waveforms padded with zeros, and (B, T) bool, True where a frame is
            padding, as a tensor and as an array;
            any other key: stacked.
            `keeps` if there are any (see `MaskTokens`): view -> modality -> (B, P) int64, -1 is padding,
            as a tensor and as an array.
            What comes from a GPU has None instead of an array.

        Raises:
            TypeError: if images are not uint8.
            ValueError: if samples that are not padded differ in size.
        """
        # Texts and positions are read before they move.
        texts, keeps = data["inputs"].get("text"), data.get("keeps")
        others = {name: samples for name, samples in data["inputs"].items() if name != "text"}
        moved = self.cast_data({"inputs": others, "data_samples": data.get("data_samples")})
        state = torch.get_rng_state()
        inputs: dict[str, Any] = {}
        for name in data["inputs"]:
            samples = moved["inputs"].get(name)
            if name in ("image", "image_2"):
                # Both images of a sample change alike: what is on the left stays there, or in none.
                torch.set_rng_state(state)
                inputs[name] = self._images(name, samples, self.augment if training else None)
            elif name == "video":
                inputs[name] = self._videos(samples, self.augment if training else None)
            elif name == "text":
                inputs[name] = self._texts(texts)
            else:
                inputs[name] = self._audio(samples) if name == "audio" else _stack(name, samples)
        batched = {"inputs": inputs, "data_samples": moved["data_samples"]}
        if keeps is not None:
            batched["keeps"] = {
                view: {name: self._keeps(rows) for name, rows in kept.items()}
                for view, kept in keeps.items()
            }
        return batched

    def _keeps(self, rows: Sequence[np.ndarray | Tensor]) -> tuple[Tensor, np.ndarray | None]:
        tensors = [torch.as_tensor(row) for row in rows]
        keep_BP = pad_sequence(tensors, batch_first=True, padding_value=-1)
        return keep_BP.to(self.device, non_blocking=True), _as_array(keep_BP)

    def _videos(self, samples: Samples, augment: BatchAugmentation | None) -> Tensor:
        videos = _stack("video", samples)
        if augment is None:
            return self._images("video", videos.flatten(0, -4), None).view(videos.shape)
        state, frames = torch.get_rng_state(), []
        for frame_B3HW in videos.unbind(1):
            torch.set_rng_state(state)  # each frame of a clip changes as the first does
            frames.append(self._images("video", frame_B3HW, augment))
        return torch.stack(frames, 1)

    def _images(self, name: str, samples: Samples, augment: BatchAugmentation | None) -> Tensor:
        images = _stack(name, samples)
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}, expected uint8 in 0..255: normalisation is done here. "
                "Load them with LoadImage."
            )
        mean, std = (
            x.to(images.device, non_blocking=True) for x in (self.image_mean, self.image_std)
        )
        images = images.float().div_(255)
        if augment is not None:
            images = augment(images)
        return images.sub_(mean).div_(std)

    def _texts(
        self, samples: Samples | Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, np.ndarray | None]:
        texts = [t for s in samples for t in ([s] if isinstance(s, Tensor) else s)]
        ids_BT = pad_sequence(texts, batch_first=True, padding_value=PAD_ID)
        return ids_BT.to(self.device, non_blocking=True), _as_array(ids_BT == PAD_ID)

    def _audio(self, samples: Samples) -> tuple[Tensor, Tensor, np.ndarray]:
        waves_BS = pad_sequence(list(samples), batch_first=True)
        frames = torch.tensor([num_audio_frames(len(wave)) for wave in samples])
        positions = torch.arange(num_audio_frames(waves_BS.shape[1]))
        pad_BT = positions >= frames[:, None]
        return waves_BS, pad_BT.to(waves_BS.device, non_blocking=True), pad_BT.numpy()


def _as_array(x: Tensor) -> np.ndarray | None:
    """A tensor as an array, if the CPU need not wait for it."""
    return x.numpy() if x.device.type == "cpu" else None


def _stack(name: str, samples: Samples) -> Tensor:
    if isinstance(samples, Tensor):
        return samples
    sizes = sorted({tuple(sample.shape) for sample in samples})
    if len(sizes) > 1:
        raise ValueError(
            f"{name} samples of one batch differ in size: {', '.join(map(str, sizes))}. Make them "
            "equal, for images with LoadImage(size=..., keep_ratio=False), or use batch_size=1."
        )
    return torch.stack(list(samples))
