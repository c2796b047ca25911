"""Videos to frames and the times at which they are shown: files, animations, folders of frames.

What a container says of its rate is not trusted: a frame is shown from its own time to that of the next.

Shapes: N frames of a video.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mmonepeace.datasets import image_io
from mmonepeace.datasets.sample_errors import VideoError, decoding

# A file, a folder of frames, or the frames themselves, as `image_io.to_rgb` takes them.
VideoInput = str | Path | Sequence[image_io.ImageInput] | np.ndarray | Tensor
ANIMATIONS = (".gif", ".webp", ".png", ".apng", ".avif")  # which decoders of videos fail at
MAX_ANIMATION_PIXELS = 2**27  # of all frames together, 400 MB: they are decoded at once
MAX_FRAMES = 2**20  # of a video: ten hours
_SHORTEST = (
    0.02  # seconds: a GIF's shorter frames, 0 among them, are shown for `_INSTEAD`, as browsers do
)
_INSTEAD = 0.1
_FIX = "Convert it to mp4 or a folder of frames, or leave it out."


@dataclass(frozen=True)
class Video:
    """An open video.

    Attributes:
        starts_N: seconds at which frames begin, ascending from 0.
        end: seconds at which the last one ends.
        rate: frames in a second with which it is sampled: the mean, of an animation that of its shortest
            frame.
        read: ascending indices -> RGB frames.
    """

    starts_N: np.ndarray
    end: float
    rate: float
    read: Callable[[Sequence[int]], list[Image.Image]]

    def __len__(self) -> int:
        """Frames, of one length each, that the video is sampled as."""
        return max(1, round(self.end * self.rate))

    def index(self, positions: Sequence[int]) -> np.ndarray:
        """The stored frame that is shown at each position of `range(len(self))`."""
        middles = (np.asarray(positions) + 0.5) / len(self) * self.end
        found = np.searchsorted(self.starts_N, middles, side="right") - 1
        return found.clip(0, len(self.starts_N) - 1)

    def frames(self, positions: Sequence[int]) -> list[Image.Image]:
        """The frame at each position; each stored one is read once."""
        indices = self.index(positions)
        wanted = sorted(set(indices.tolist()))
        read = dict(zip(wanted, self.read(wanted), strict=True))
        return [read[i] for i in indices.tolist()]

    def in_memory(self) -> "Video":
        """The same video with all its frames decoded."""
        frames = self.read(range(len(self.starts_N)))
        return Video(self.starts_N, self.end, self.rate, lambda wanted: [frames[i] for i in wanted])


def open_video(source: VideoInput, alpha: str = "drop") -> Video:
    """Open a video; its frames are decoded when they are asked for.

    Args:
        source: the path of a file that FFmpeg reads; of an animation, GIF, WebP, APNG or AVIF; of a
            folder of images, which follow each other in the order of the numbers in their names; or
            the frames, a list or an array (N, H, W, 3).
        alpha: what becomes of the transparency of animations and images, see `image_io.to_rgb`.

    Raises:
        VideoError: if it is missing, cannot be decoded or has no frames, or PyAV, which decodes all but
            animations and images, is not installed.
    """
    if not isinstance(source, str | Path):
        return _of_images(list(source), "a video in memory", alpha)
    path = Path(source)
    if path.is_dir():
        files = (file for file in path.iterdir() if not file.name.startswith("."))
        images = sorted((file for file in files if file.is_file()), key=_numbered)
        return _of_images(images, str(path), alpha)
    if not path.is_file():
        raise VideoError(f"{path}: no such file. Check the path and the data root.")
    with decoding(VideoError, str(path), _FIX):
        if path.suffix.lower() in ANIMATIONS:
            return _animation(path, alpha)
        return _with_pyav(path)


def _numbered(path: Path) -> list[tuple[int, str]]:
    """A key that sorts frame2.png before frame10.png."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _of_images(images: Sequence[Any], name: str, alpha: str) -> Video:
    """Frames of equal lengths, a second each."""
    if not images:
        raise VideoError(f"{name} has no frames. Put images there, or leave it out.")

    def read(indices: Sequence[int]) -> list[Image.Image]:
        with decoding(VideoError, name, "Leave it out."):
            return [image_io.to_rgb(images[i], alpha=alpha) for i in indices]

    return Video(np.arange(len(images), dtype=float), float(len(images)), 1.0, read)


def _animation(path: Path, alpha: str) -> Video:
    frames, seconds = [], []
    with image_io.open_image(path) as image:
        count = getattr(image, "n_frames", 1)
        if count * image.width * image.height > MAX_ANIMATION_PIXELS:
            raise VideoError(
                f"its {count:,} frames of {image.width:,} x {image.height:,} have more than "
                f"{MAX_ANIMATION_PIXELS:,} pixels. Convert it to mp4."
            )
        # An APNG may have a still image in front, for programs that know no animations.
        for i in range(1 if count > 1 and image.info.get("default_image") else 0, count):
            image.seek(i)
            image.load()
            frames.append(image_io.to_rgb(image.copy(), alpha=alpha))
            lasts = float(image.info.get("duration") or 0) / 1000
            seconds.append(lasts if lasts >= _SHORTEST else _INSTEAD)
    ends = np.cumsum(seconds)
    starts = np.concatenate([[0.0], ends[:-1]])
    return Video(starts, ends[-1], 1 / min(seconds), lambda indices: [frames[i] for i in indices])


def _with_pyav(path: Path) -> Video:
    if find_spec("av") is None:
        raise VideoError("PyAV, which decodes it, is missing: pip install 'mmonepeace[video]'.")
    stamps, last = _time_stamps(path)
    if not len(stamps):
        raise VideoError("it has no frames.")
    starts = stamps - stamps[0]
    end = float(starts[-1] + (last or (starts[-1] / max(len(starts) - 1, 1)) or _INSTEAD))

    def read(indices: Sequence[int]) -> list[Image.Image]:
        with decoding(VideoError, str(path), _FIX):
            return list(_decoded(path, stamps, list(indices)))

    return Video(starts, end, len(starts) / end, read)


def _time_stamps(path: Path) -> tuple[np.ndarray, float]:
    """Seconds of all frames in ascending order, as packets have them, and how long the last one lasts."""
    import av

    with av.open(str(path)) as container:
        stream = _video_stream(container)
        base, found, last = float(stream.time_base), {}, 0.0
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and stamp is not None and not packet.is_discard:
                found[stamp] = float((packet.duration or 0) * base)
            if len(found) > MAX_FRAMES:
                raise VideoError(f"it has more than {MAX_FRAMES:,} frames. Cut it.")
        if found:
            last = found[max(found)]
        return np.array(sorted(found), dtype=float) * base, last


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise VideoError("it has no pictures, only other streams.")
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # data loaders have processes, and readers threads, of their own
    return stream


def _decoded(path: Path, stamps: np.ndarray, indices: list[int]) -> Iterator[Image.Image]:
    """The frames of ascending indices: from the key frame before the first one on."""
    import av

    with av.open(str(path)) as container:
        stream = _video_stream(container)
        base = float(stream.time_base)
        if indices and indices[0] > 0:
            container.seek(round(stamps[indices[0]] / base), stream=stream, backward=True)
        wanted, last = iter(indices), None
        target = next(wanted, None)
        for frame in container.decode(stream):
            if target is None:
                return
            stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is None:
                continue
            # The first frame at or after the time of the one that is wanted; a damaged one is skipped.
            while target is not None and stamp * base >= stamps[target] - base / 2:
                last = _upright(frame)
                yield last
                target = next(wanted, None)
        while target is not None and last is not None:  # what is cut off at the end
            yield last
            target = next(wanted, None)
        if target is not None:
            raise VideoError("none of its frames can be decoded.")


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return image.rotate(90 * turns, expand=True) if turns else image
