"""Frames by their times: animations, folders, arrays, and files where PyAV is installed."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from mmonepeace.datasets import video_io
from mmonepeace.datasets.sample_errors import VideoError
from mmonepeace.datasets.video_io import open_video

LEVELS = [0, 60, 120, 180, 240]


def grey(level, size=(24, 16)):
    return Image.new("RGB", size, (level,) * 3)


def levels(frames):
    return [round(np.asarray(frame).mean()) for frame in frames]


def animation(path, lasting, **options):
    first, *others = map(grey, LEVELS)
    first.save(path, save_all=True, append_images=others, duration=lasting, **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_is_sampled_by_the_durations_of_its_frames(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = animation(tmp_path / f"a{suffix}", [100, 100, 300, 100, 200], **options)
    video = open_video(path)
    assert video.end == pytest.approx(0.8)
    assert len(video) == 8  # of the length of the shortest
    assert levels(video.frames(range(8))) == [0, 60, 120, 120, 120, 180, 240, 240]
    assert levels(video.in_memory().frames([7, 0])) == [240, 0]


def test_equal_frames_that_pillow_merges_last_as_long_as_they_did(tmp_path):
    frames = [grey(x) for x in (10, 10, 200, 200, 90)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)  # fmt: skip
    video = open_video(tmp_path / "a.webp")
    assert video.end == pytest.approx(0.5)
    assert levels(video.frames([round(x / 5 * len(video)) for x in range(5)])) == [10, 10, 200, 200, 90]  # fmt: skip


def test_frames_without_a_duration_last_as_browsers_show_them(tmp_path):
    path = animation(tmp_path / "a.gif", 0)
    assert open_video(path).end == pytest.approx(0.5)


def test_a_still_image_is_a_video_of_one_frame(tmp_path):
    grey(50).save(tmp_path / "a.png")
    assert levels(open_video(tmp_path / "a.png").frames([0])) == [50]


def test_the_still_in_front_of_an_apng_is_not_shown(tmp_path):
    frames = [grey(x) for x in (0, 100, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, default_image=True)  # fmt: skip
    video = open_video(tmp_path / "a.png")
    assert levels(video.frames(range(len(video)))) == [100, 200]


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for i, level in enumerate(LEVELS):
        grey(level).save(tmp_path / f"frame{i * 5}.png")  # 0, 5, 10, ...
    (tmp_path / ".hidden").write_text("")
    video = open_video(tmp_path)
    assert len(video) == 5
    assert levels(video.frames(range(5))) == LEVELS


def test_frames_in_memory():
    array = np.stack([np.asarray(grey(level)) for level in LEVELS])
    assert levels(open_video(array).frames([4, 0])) == [240, 0]
    assert levels(open_video([grey(7)]).frames([0])) == [7]


def test_transparency_can_get_a_colour(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.webp", lossless=True)
    assert levels(open_video(tmp_path / "a.webp", alpha="white").frames([0])) == [255]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.mp4", None, "no such file"),
        ("text.gif", b"GIF89a no", "cannot be decoded|not an image"),
        ("empty", "folder", "has no frames"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as error:
        open_video(path)
    assert name in str(error.value)


def test_a_large_animation_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video_io, "MAX_ANIMATION_PIXELS", 1000)
    with pytest.raises(VideoError, match="Convert it to mp4"):
        open_video(animation(tmp_path / "a.gif", 100))


def test_without_pyav_a_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(video_io, "find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"0" * 100)
    with pytest.raises(VideoError, match=r"pip install 'mmonepeace\[video\]'"):
        open_video(tmp_path / "a.mp4")


def encode(path, lasting, rate=60):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for level, start in zip(
            LEVELS, np.concatenate([[0], np.cumsum(lasting)[:-1]]), strict=True
        ):
            frame = av.VideoFrame.from_ndarray(np.asarray(grey(level, (64, 48))), "rgb24")
            frame.pts, frame.time_base = int(start), Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_a_file_of_a_variable_rate_is_sampled_by_time(tmp_path):
    video = open_video(encode(tmp_path / "a.mp4", [1, 4, 2, 1, 2]))
    np.testing.assert_allclose(video.starts_N, np.array([0, 1, 5, 7, 8]) / 60, atol=1e-6)
    found = video.index(range(len(video)))
    middles = (np.arange(len(video)) + 0.5) / len(video) * video.end
    assert (video.starts_N[found] <= middles).all()
    np.testing.assert_allclose(levels(video.read([0, 2, 4])), [0, 120, 240], atol=4)
    np.testing.assert_allclose(levels(video.read([3])), [180], atol=4)


def test_a_damaged_file_is_named(tmp_path):
    path = encode(tmp_path / "a.mp4", [1] * 5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be decoded"):
        open_video(path)
