"""Decoders of videos: is the frame the one that is shown at a time, and how long does a clip take?

Run:    python benchmarks/video_decoding.py --out FOLDER
Needs:  PyAV, which also encodes the clips; torchcodec, decord2 and opencv-python where they are installed
Prints: of each decoder and clip: right frames of 16 at random times, ms to open it and read 16 frames

Clips are 340 x 256 pixels, 300 frames, H.264 with B-frames, a key frame every 250; a number is drawn
into each frame. "variable": frames last 1 to 4 ticks of 1/60 s, as those of phones and screens do.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmonepeace.datasets.video_io import open_video

SIZE, COUNT, WANTED, BITS = (340, 256), 300, 16, 12
Read = Callable[[str, Sequence[float]], list[np.ndarray]]


def numbered(i: int, rng: np.random.Generator) -> np.ndarray:
    """A frame of moving texture, with its number as black and white blocks along its top."""
    width, height = SIZE
    small = rng.integers(60, 200, (height // 16, width // 17, 3), dtype=np.uint8)
    frame = small.repeat(16, 0).repeat(17, 1)
    frame = np.roll(frame, i * 3, 1)
    for bit in range(BITS):
        frame[:24, bit * 24 : bit * 24 + 24] = 255 * (i >> bit & 1)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that is drawn into a frame."""
    return sum(int(frame[12, bit * 24 + 12].mean() > 128) << bit for bit in range(BITS))


def encode(path: Path, ticks: Sequence[int], rate: int) -> np.ndarray:
    """Write a clip whose frames last `ticks` of 1 / rate seconds; the times at which they begin."""
    import av

    starts = np.concatenate([[0], np.cumsum(ticks)[:-1]])
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        stream.options = {"crf": "23", "g": "250"}
        for i, start in enumerate(starts):
            frame = av.VideoFrame.from_ndarray(numbered(i, np.random.default_rng(0)), "rgb24")
            frame.pts, frame.time_base = int(start), Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return starts / rate


def with_ours(path: str, times: Sequence[float]) -> list[np.ndarray]:
    """PyAV by `video_io`."""
    video = open_video(path)
    places = np.searchsorted(video.starts_N, times, side="right") - 1
    wanted = sorted(set(places.tolist()))
    read = dict(zip(wanted, video.read(wanted), strict=True))
    return [np.asarray(read[i]) for i in places.tolist()]


def with_torchcodec(path: str, times: Sequence[float]) -> list[np.ndarray]:
    """torchcodec, exact, by times."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1)
    frames = decoder.get_frames_played_at([float(t) for t in times]).data
    return [frame.permute(1, 2, 0).numpy() for frame in frames]


def with_decord(path: str, times: Sequence[float]) -> list[np.ndarray]:
    """decord2, by its time stamps."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    stamps = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0]
    places = np.searchsorted(stamps, np.asarray(times) + 1e-9, side="right") - 1
    return list(reader.get_batch(places.tolist()).asnumpy())


def with_opencv(path: str, times: Sequence[float]) -> list[np.ndarray]:
    """OpenCV from the beginning on, by the time stamp of each frame."""
    import cv2

    capture, frames, last = cv2.VideoCapture(path, cv2.CAP_FFMPEG), [], None
    for wanted in times:
        while True:
            if not capture.grab():
                break
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if stamp > wanted + 1e-9:
                ahead = capture.retrieve()[1][..., ::-1]
                frames.append(last if last is not None else ahead)
                last = ahead
                break
            last = capture.retrieve()[1][..., ::-1]
    return frames


DECODERS: dict[str, Read] = {
    "PyAV (video_io)": with_ours,
    "torchcodec": with_torchcodec,
    "decord2": with_decord,
    "opencv-python": with_opencv,
}


def main() -> None:
    """Encode, decode, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clips = {
        "constant": ([1] * COUNT, 30),
        "variable": (rng.integers(1, 5, COUNT).tolist(), 60),
    }
    for kind, (ticks, rate) in clips.items():
        path = args.out / f"{kind}.mp4"
        starts = encode(path, ticks, rate)
        for name, read in DECODERS.items():
            right, seconds = 0, []
            for repeat in range(args.repeats):
                # Every eighth frame from a random one on, at a random time while it is shown.
                draw = np.random.default_rng(repeat)
                first = int(draw.integers(COUNT - 8 * WANTED))
                places = first + 8 * np.arange(WANTED)
                lasting = np.asarray(ticks)[places] / rate
                times = starts[places] + draw.uniform(0.1, 0.9, WANTED) * lasting
                begin = time.perf_counter()
                try:
                    frames = read(str(path), times)
                except Exception as error:  # noqa: BLE001  (a decoder that is not there)
                    print(f"{kind:9} {name:16} {type(error).__name__}: {str(error)[:80]}")
                    break
                seconds.append(time.perf_counter() - begin)
                right += sum(map(int.__eq__, map(number_of, frames), places.tolist()))
            if seconds:
                total = WANTED * args.repeats
                ms = 1000 * statistics.median(seconds)
                print(f"{kind:9} {name:16} {right} of {total} right, {ms:.0f} ms")


if __name__ == "__main__":
    main()
