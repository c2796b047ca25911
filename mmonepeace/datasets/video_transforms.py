"""Clips of videos as inputs of the model, for MMEngine's pipelines; see `transforms`."""

from typing import Any

from mmcv.transforms import BaseTransform

from mmonepeace import spec
from mmonepeace.datasets import image_io
from mmonepeace.datasets.transforms import Results, crop_box, first_of, generator
from mmonepeace.datasets.video_clips import Order, VideoClip
from mmonepeace.datasets.video_io import Video, open_video
from mmonepeace.datasets.video_views import crop_boxes, read_views, resized
from mmonepeace.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadVideo(BaseTransform):
    """Read clips of a video: `video_path` or `video` to (T, 3, H, W) uint8, for evaluation (V, T, 3, H, W).

    Args:
        num_frames: see `VideoClip`.
        interval: the same.
        size: side of the square frames, in pixels.
        clips: 0: one at random, for training. Otherwise as many, evenly over the video, whose
            probabilities a model averages.
        crops: squares of each clip: 0 resizes the entire frame to the square; 1 takes the middle one;
            3 also both ends of the longer side.
        crop_scale: for training, see `LoadImage`; all frames are cropped alike.
        crop_ratio: the same.
        flip: for training, the probability of mirroring a clip. 0 where left and right differ.
        order: see `VideoClip`.
        alpha: what becomes of transparency, see `image_io.to_rgb`.
        cache: keep all frames of all videos in memory: for small data sets.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        num_frames: int = 16,
        interval: int | None = 8,
        size: int = spec.PRETRAIN_IMG_SIZE,
        clips: int = 0,
        crops: int = 0,
        crop_scale: tuple[float, float] | None = None,
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        order: Order = "filmed",
        alpha: str = "drop",
        cache: bool = False,
    ) -> None:
        self.clip = VideoClip(num_frames, interval, order)
        if size < 1 or clips < 0 or crops not in (0, 1, 3) or not 0 <= flip <= 1:
            raise ValueError(
                f"size is {size}, clips {clips}, crops {crops} and flip {flip}; expected 1 or more, 0 or "
                "more, 0, 1 or 3, and 0 to 1."
            )
        if clips and (crop_scale or flip):
            raise ValueError("crop_scale and flip are for training, with clips=0. Leave them out.")
        low, high = crop_scale or (1, 1)
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale is {crop_scale}, expected 0 < low <= high <= 1.")
        self.size = size
        self.clips = clips
        self.crops = crops
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.flip = flip
        self.alpha = image_io.check_alpha(alpha)
        self.cached: dict[str, Video] | None = {} if cache else None

    def transform(self, results: Results) -> Results:
        """Add `inputs["video"]`."""
        video = self._open(first_of(results, "video_path", "video"))
        rng = generator(results, self)
        if self.clips:
            views = read_views(video, self.clip, self.clips, self.crops, self.size, rng)
            results.setdefault("inputs", {})["video"] = views
            return results
        frames = video.frames(self.clip.random(len(video), rng))
        if self.crop_scale:
            box = crop_box(rng, frames[0].size, self.crop_scale, self.crop_ratio)
        else:
            box = crop_boxes(frames[0].size, self.crops)[0]
        clip_T3HW = resized(frames, box, self.size)
        if rng.random() < self.flip:
            clip_T3HW = clip_T3HW.flip(-1)
        results.setdefault("inputs", {})["video"] = clip_T3HW
        return results

    def _open(self, source: Any) -> Video:
        if self.cached is None or not isinstance(source, str):
            return open_video(source, self.alpha)
        if source not in self.cached:
            self.cached[source] = open_video(source, self.alpha).in_memory()
        return self.cached[source]
