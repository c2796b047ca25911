"""Images, texts and audio clips as batches of inputs, read ahead of the model."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmonepeace.console import progress_bar
from mmonepeace.datasets import audio_io, image_io
from mmonepeace.datasets.tokenizer import Tokenizer
from mmonepeace.datasets.video_clips import VideoClip
from mmonepeace.datasets.video_io import VideoInput, open_video
from mmonepeace.datasets.video_views import read_views
from mmonepeace.spec import MAX_TEXT_TOKENS

AudioLike = str | Path | bytes | tuple[np.ndarray | Tensor, int]
Batch = tuple[list[int], dict[str, list[Any]]]  # the item of each piece; modality -> inputs

BLOCK_BATCHES = 4  # that are sorted together
BRANCHES = {"video": "image"}  # of a model: what its branch of another name embeds
VIDEO_FRAMES = VideoClip(8, None)  # of a video whose frames are embedded as images
READERS = 4  # threads that decode files while the model runs


class _Piece(NamedTuple):
    """Part of an item that goes through the model at once, such as a window of a long clip."""

    item: int
    inputs: dict[str, Any]  # tensors; of candidate texts, lists of them


@dataclass(kw_only=True)
class ItemReader:
    """Reads items, cuts them into pieces and collects pieces in batches."""

    tokenizer: Tokenizer | None  # None refuses texts
    image_size: int  # side of the square that images are resized to, in pixels; 0 without images
    keep_ratio: bool  # keep the aspect ratio, with about as many pixels
    fast_jpeg: bool  # decode large JPEG files at reduced size, see `image_io.to_rgb`
    alpha: str  # what becomes of transparency, see `image_io.to_rgb`
    windows: tuple[float, float]  # length and hop in seconds; longer audio clips are cut
    batch_size: int  # pieces of a batch, at most
    equal_length_audio: bool  # a batch has audio clips of one length only
    first_window: bool = False  # only the beginning of long audio clips
    lower: bool = True  # texts in lower case
    max_tokens: int = MAX_TEXT_TOKENS  # of a text
    needs_words: bool = False  # an empty or blank text cannot be read
    # Of a video: the frames of a clip, and the clips and crops that are views of it.
    video_clip: VideoClip = VIDEO_FRAMES
    video_views: tuple[int, int] | None = None  # None: its frames are images
    image_sizes: bool = False  # add "image_size", width and height in pixels before the resizing

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected 1 or more.")

    def batches(
        self,
        rows: list[dict[str, Any]],
        errors: dict[int, str] | None = None,
        progress: bool | None = None,
    ) -> Iterator[Batch]:
        """Batches of pieces of all items that can be read; those of an item are in order.

        Rows are items, modality -> value, all of the same modalities. For `errors` and `progress`,
        and the ValueError for an item that cannot be read, see `Embedder`.

        Raises:
            ValueError: also if there are texts and no tokenizer.
        """
        if rows and "text" in rows[0] and self.tokenizer is None:
            raise ValueError(
                "the model needs a tokenizer for texts, and there is no tokenizer. Put tokenizer.json "
                "beside the checkpoint or pass its path, as tools do with --tokenizer; "
                "mmonepeace convert-tokenizer makes one from the official vocabulary files."
            )
        pieces: list[_Piece] = []
        quiet = len(rows) <= BLOCK_BATCHES * self.batch_size if progress is None else not progress
        with (
            ThreadPoolExecutor(READERS) as pool,
            progress_bar(
                total=len(rows), desc="+".join(rows[0]) if rows else "", disable=quiet
            ) as bar,
        ):
            for i, loaded in enumerate(_read_ahead(pool, self._load, rows)):
                if isinstance(loaded, ValueError):
                    if errors is None:
                        raise loaded
                    errors[i] = str(loaded)
                else:
                    pieces += [_Piece(i, inputs) for inputs in loaded]
                if len(pieces) >= BLOCK_BATCHES * self.batch_size:
                    yield from self._batched(pieces)
                    pieces = []
                bar.update()
            yield from self._batched(pieces)

    def _batched(self, pieces: list[_Piece]) -> Iterator[Batch]:
        """Batches of pieces that do not influence each other."""
        same_shape = {"image", "image_2", "video"} | (
            {"audio"} if self.equal_length_audio else set()
        )
        groups = defaultdict(list)
        for piece in pieces:
            shapes = tuple(x.shape for name, x in piece.inputs.items() if name in same_shape)
            groups[shapes].append(piece)
        for members in groups.values():
            # Neighbours of similar length need little padding.
            members.sort(key=lambda piece: sum(map(_num_elements, piece.inputs.values())))
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                inputs = {name: [p.inputs[name] for p in batch] for name in batch[0].inputs}
                yield [piece.item for piece in batch], inputs

    def _load(self, item: Mapping[str, Any]) -> list[dict[str, Any]] | ValueError:
        """The pieces of an item, or why it has none."""
        loaded: dict[str, list[Any]] = {}
        try:
            for name, value in item.items():
                if name == "video" and self.video_views is None:
                    return [{"image": frame} for frame in self._load_frames(value)]
                loaded[name] = getattr(self, f"_load_{name.removesuffix('_2')}")(value)
        except ValueError as error:
            return error
        if self.image_sizes:
            loaded["image"], loaded["image_size"] = map(list, zip(*loaded["image"], strict=True))
        if len(loaded) > 1 or self.first_window:
            return [{name: pieces[0] for name, pieces in loaded.items()}]
        ((name, pieces),) = loaded.items()
        return [{name: piece} for piece in pieces]

    def _load_image(self, image: image_io.ImageInput) -> list[Any]:
        at_least = image_io.fast_sides(self.image_size) if self.fast_jpeg else None
        with image_io.one_large_at_a_time(image):
            rgb = image_io.to_rgb(image, at_least, self.alpha)
            pixels = image_io.to_tensor(image_io.resize(rgb, self.image_size, self.keep_ratio))
            return [(pixels, torch.tensor(rgb.size)) if self.image_sizes else pixels]

    def _load_frames(self, source: VideoInput) -> list[Tensor]:
        video = open_video(source, self.alpha)
        (positions,) = self.video_clip.views(len(video), 1, np.random.default_rng(0))
        frames = video.frames(sorted(set(positions)))
        return [
            image_io.to_tensor(image_io.resize(frame, self.image_size, self.keep_ratio))
            for frame in frames
        ]

    def _load_video(self, source: VideoInput) -> list[Tensor]:
        assert self.video_views
        video, rng = open_video(source, self.alpha), np.random.default_rng(0)
        return [read_views(video, self.video_clip, *self.video_views, self.image_size, rng)]

    def _load_text(self, text: str | list[str]) -> list[Any]:
        assert self.tokenizer  # `batches` has checked it
        texts = text if isinstance(text, list) else [text]
        if wrong := [x for x in texts if not isinstance(x, str)]:
            raise TypeError(f"a text is {wrong[0]!r}, expected a string.")
        if self.needs_words and not all(map(str.strip, texts)):
            raise ValueError("a text is empty, expected some words. Write them, or leave it out.")
        ids = self.tokenizer.encode_candidates(texts, self.max_tokens, self.lower)
        tensors = [torch.tensor(x) for x in ids]
        return tensors if isinstance(text, str) else [tensors]

    def _load_audio(self, clip: AudioLike) -> list[Tensor]:
        if isinstance(clip, tuple):
            wave = audio_io.to_mono_16k(np.asarray(clip[0]), clip[1])
        else:
            wave = audio_io.load_audio(clip)
        # The whole clip is standardised, then cut: the official order.
        windows = audio_io.split_windows(audio_io.standardise(wave), *self.windows)
        return [torch.from_numpy(audio_io.fit_length(w, max_seconds=None)) for w in windows]


def _num_elements(value: Tensor | list[Tensor]) -> int:
    return value.numel() if isinstance(value, Tensor) else sum(x.numel() for x in value)


def model_inputs(
    preprocess: Callable[[dict[str, Any]], dict[str, Any]],
    inputs: Mapping[str, list[Any]],
    like: Tensor,
) -> dict[str, Any]:
    """Inputs of a model, on the device and in the dtype of one of its parameters."""

    def to(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(to, x))
        if not isinstance(x, Tensor):  # padding for the CPU
            return x
        # Token ids and masks keep their type.
        return x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)

    batch = preprocess({"inputs": dict(inputs)})["inputs"]
    return {name: to(value) for name, value in batch.items()}


def as_rows(modalities: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Items, modality -> value, from lists of equal length, or else a ValueError."""
    columns: dict[str, list[Any]] = {}
    for name, values in modalities.items():
        array = isinstance(values, np.ndarray | Tensor) and values.ndim < 4
        if array or _is_clip(values) or isinstance(values, str | bytes | Path | Image.Image):
            kind = type(values).__name__
            raise ValueError(f"{name} is one {kind}; give a list, [x] for one item.")
        columns[name] = list(values)
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"modalities have different numbers of items: {counts}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _is_clip(values: Any) -> bool:
    """Whether it is an audio clip and its sampling rate, not two items."""
    return isinstance(values, tuple) and len(values) == 2 and isinstance(values[1], int)


def _read_ahead(
    pool: ThreadPoolExecutor, load: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """load(item) for each item, in order, with few of them in memory."""
    pending: deque[Future[Any]] = deque()
    for item in items:
        pending.append(pool.submit(load, item))
        if len(pending) > 2 * READERS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
