"""The backbone of videos: an image encoder whose frames attend to each other through adapters.

Shapes: B videos, T frames of each, L tokens of a frame (CLS first), D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from mmonepeace.layers.encoder import EncoderLayer, activation_checkpoint
from mmonepeace.layers.temporal import Bottleneck, VideoBlock, VideoLayer
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS
from mmonepeace.spec import Arch

# Of a checkpoint of images, a model of videos has more.
NOT_IN_IMAGES = (
    r"layers\.\d+\.(temporal|spatial|ffn)_adapter",
    r"adapters\.image\.temporal_embed$",
    r"norms\.image\.",
)


@MMENGINE_MODELS.register_module()  # `OnePeaceVideo` from any MM library, once imported
@MODELS.register_module()
class OnePeaceVideo(OnePeace):
    """`OnePeace` for videos: each frame is an image, and attention also runs over the frames.

    See `layers.temporal.VideoLayer` for its blocks. A checkpoint of images starts it: what it has
    besides is initialised so that frames are at first computed as images are.

    Args:
        arch: see `OnePeace`.
        num_frames: rows of the learned positions in time; videos of other numbers of frames, and
            checkpoints with other rows, are resampled linearly. The released models have 16 and 32.
        temporal_adapters: see `VideoBlock`; officially `num_tadapter`.
        adapter_ratio: see `VideoBlock.ratio`.
        modalities: "image" alone, or options of its adapter.
        trained: see `OnePeace`. ("video",), as officially, trains the adapters, the positions in time
            and the final norm; None everything, for training from scratch.
        kwargs: see `OnePeace`, except `final_norm`, `out_type` and others of feature maps.

    Raises:
        ValueError: for another modality, or blocks that are compiled.

    Source: AIM (arXiv 2302.03024) and the official ONE-PEACE model of videos.
    """

    allow_missing = NOT_IN_IMAGES

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = "giant",
        num_frames: int = 16,
        temporal_adapters: int = 1,
        adapter_ratio: float = 0.25,
        modalities: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("image",),
        trained: Sequence[str] | None = ("video",),
        **kwargs: Any,
    ) -> None:
        if set(modalities) != {"image"} or num_frames < 1:
            raise ValueError(
                f"modalities are {tuple(modalities)} and num_frames {num_frames}; expected ('image',), "
                "which the frames are, and 1 or more."
            )
        if kwargs.get("compiled"):
            raise ValueError("compiled blocks do not know videos. Leave compiled out.")
        # Set before the parent class builds the blocks, which read it.
        self.block = VideoBlock(temporal_adapters, adapter_ratio)
        given = modalities["image"] if isinstance(modalities, Mapping) else {}
        image = {**given, "num_frames": num_frames}
        kwargs["final_norm"] = True
        super().__init__(arch, {"image": image}, trained=trained, **kwargs)

    def build_layer(self, *args: Any) -> EncoderLayer:
        """A block with adapters over time."""
        return partial(VideoLayer, block=self.block)(*args)

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        super()._reset_parameters()
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.reset_output()

    def forward(self, videos_BT3HW: Tensor) -> Tensor:  # type: ignore[override]
        """The CLS of each frame after the final norm, (B, T, D).

        Args:
            videos_BT3HW: frames of one size, RGB, normalised as in `spec`.

        Raises:
            ValueError: if the input is not (B, T, 3, H, W).
        """
        if videos_BT3HW.ndim != 5 or 0 in videos_BT3HW.shape:
            raise ValueError(
                f"videos have shape {tuple(videos_BT3HW.shape)}, expected (batch, frames, 3, height, "
                "width). Add the batch dimension."
            )
        adapter = self.adapters["image"]
        frames = videos_BT3HW.flatten(0, 1)
        tokens = activation_checkpoint(adapter, frames) if self.layers.with_cp else adapter(frames)
        x_BTLD = adapter.add_time(tokens.x_BLD.unflatten(0, videos_BT3HW.shape[:2]))
        (x_BTLD,) = self.layers(replace(tokens, x_BLD=x_BTLD), [self.arch.depth - 1])
        return self.norms["image"](x_BTLD[:, :, 0])
