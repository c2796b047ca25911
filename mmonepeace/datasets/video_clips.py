"""Which frames of a video are a clip: pure functions of a random generator.

A video is sampled as frames of one length each, see `video_io.Video`; positions count them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Order = Literal["filmed", "shuffled", "single"]


@dataclass(frozen=True)
class VideoClip:
    """The frames of clips.

    Attributes:
        num_frames: of a clip.
        interval: from one to the next, in frames of the video; a video that is shorter begins again.
            None: clips go over the entire video, with a frame from each of its parts.
        order: "filmed". Two controls: "shuffled" at random, and "single", the frame in the middle in
            place of all. A model that is as good with them does not use time.

    Source: of intervals, the sampling of MMAction2, which the official model was trained with.
    """

    num_frames: int = 16
    interval: int | None = 8
    order: Order = "filmed"

    def __post_init__(self) -> None:
        if self.num_frames < 1 or (self.interval is not None and self.interval < 1):
            raise ValueError(
                f"num_frames is {self.num_frames} and interval {self.interval}; expected 1 or more, and "
                "1 or more or None."
            )
        if self.order not in get_args(Order):
            raise ValueError(
                f"order is {self.order!r}; choose one of {', '.join(get_args(Order))}."
            )

    def random(self, count: int, rng: np.random.Generator) -> list[int]:
        """A clip for training, at a random place of a video of `count` frames."""
        if self.interval is None:
            edges = np.linspace(0, count, self.num_frames + 1)
            positions = edges[:-1] + rng.random(self.num_frames) * np.diff(edges)
        else:
            start = int(rng.integers(max(count - self._span, 0) + 1))
            positions = self._from(start)
        return self._ordered(positions, count, rng)

    def views(self, count: int, clips: int, rng: np.random.Generator) -> list[list[int]]:
        """Clips for evaluation, at places that divide the video evenly."""
        if self.interval is None:
            edges = np.linspace(0, count, self.num_frames + 1)
            places = [edges[:-1] + (k + 0.5) / clips * np.diff(edges) for k in range(clips)]
        else:
            step = max(count - self._span + 1, 0) / clips
            places = [self._from(int((k + 0.5) * step)) for k in range(clips)]
        return [self._ordered(positions, count, rng) for positions in places]

    @property
    def _span(self) -> int:
        return self.num_frames * int(self.interval or 0)

    def _from(self, start: int) -> np.ndarray:
        return start + np.arange(self.num_frames) * int(self.interval or 0)

    def _ordered(self, positions: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
        found = positions.astype(int) % count
        if self.order == "shuffled":
            found = rng.permutation(found)
        if self.order == "single":
            found = found[[len(found) // 2] * len(found)]
        return [int(x) for x in found]
