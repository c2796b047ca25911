"""Views of a video for a model: clips at some places of it, squares of their frames.

Shapes: V views, T frames of a clip.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmonepeace.datasets import image_io
from mmonepeace.datasets.video_clips import VideoClip
from mmonepeace.datasets.video_io import Video


def read_views(
    video: Video, clip: VideoClip, clips: int, crops: int, size: int, rng: np.random.Generator
) -> Tensor:
    """(clips * crops, T, 3, size, size) uint8 for evaluation; see `LoadVideo`."""
    places = clip.views(len(video), clips, rng)
    # Clips overlap; each frame is decoded once.
    positions = sorted({x for place in places for x in place})
    read = dict(zip(positions, video.frames(positions), strict=True))
    views = []
    for place in places:
        frames = [read[x] for x in place]
        views += [resized(frames, box, size) for box in crop_boxes(frames[0].size, crops)]
    return torch.stack(views)


def crop_boxes(size: tuple[int, int], crops: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the squares that are taken of a frame, the middle one first."""
    width, height = size
    if crops == 0:
        return [(0, 0, width, height)]
    side = min(size)
    boxes = []
    for place in (0.5, 0.0, 1.0)[:crops]:
        left, top = round(place * (width - side)), round(place * (height - side))
        boxes.append((left, top, left + side, top + side))
    return boxes


def resized(frames: list[Image.Image], box: tuple[int, int, int, int], size: int) -> Tensor:
    """A part of all frames as (T, 3, size, size) uint8; each frame that is there twice once."""
    made: dict[int, Tensor] = {}
    for frame in frames:
        if id(frame) not in made:
            square = frame.resize((size, size), Image.Resampling.BICUBIC, box)
            made[id(frame)] = image_io.to_tensor(square)
    return torch.stack([made[id(frame)] for frame in frames])
