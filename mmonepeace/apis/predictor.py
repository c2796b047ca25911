"""Answers of fine-tuned models: classes, answers to questions, boxes of phrases, true or false.

Shapes: N items, B pieces in a batch, C classes or candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.apis.item_reader import AudioLike, ItemReader, as_rows, model_inputs
from mmonepeace.apis.loading import (
    build_predictor,
    check_vocabulary,
    find_tokenizer,
    load_predictor,
    to_dtype,
)
from mmonepeace.apis.sharing import Shared
from mmonepeace.datasets import image_io
from mmonepeace.datasets.tokenizer import Tokenizer, clean_caption
from mmonepeace.datasets.video_clips import VideoClip
from mmonepeace.datasets.video_io import VideoInput
from mmonepeace.spec import MAX_AUDIO_SECONDS, MAX_TEXT_TOKENS, PATCH_SIZE, TEXT_POSITIONS

if TYPE_CHECKING:
    from mmonepeace.models import OnePeaceClassifier

VIDEO_VIEWS = (3, 3)  # clips and crops of a video, as officially
_CLASS_FILES = ("classes.txt", "classes.json")  # beside a checkpoint


class Prediction(NamedTuple):
    """A class or an answer, and how probable the model finds it."""

    label: str
    score: float  # a probability; of candidates, which models rank only, a softmax of their scores


class Predictor(Shared):
    """What a fine-tuned model says about images, audio clips and texts.

    Up to rounding, the result of an item does not depend on the other items of a call. A method that
    the model was not trained for raises a ValueError that names the one that it was trained for.

    Args:
        model: on its device.
        tokenizer: needed where there is text; its ids must be those of the model.
        classes: their names, in the order of the outputs; None calls them by number.
        image_size: side of the square that images are resized to, in pixels; None takes that of
            the model.
        alpha: what becomes of transparency, see `Embedder`.
        video_views: clips and crops of a video, whose probabilities are averaged; see `LoadVideo`.
        batch_size: items in one forward pass.
        progress: show a progress bar; None shows one for more than four batches.
    """

    stored = ("image_size", "alpha")

    def __init__(
        self,
        model: OnePeaceClassifier,
        tokenizer: Tokenizer | None = None,
        *,
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        alpha: str = "drop",
        video_views: tuple[int, int] = VIDEO_VIEWS,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> None:
        from mmonepeace.models import MultiLabelLoss, OnePeaceGrounder

        self.model = model.eval()
        self._grounds = isinstance(model, OnePeaceGrounder)
        self._several_labels = isinstance(model.loss, MultiLabelLoss)
        self.progress = progress
        adapters = model.backbone.adapters
        outputs = model.num_outputs
        if classes is not None and len(classes) != outputs:
            raise ValueError(f"there are {len(classes)} names of classes, the model has {outputs}.")
        self.classes = list(classes) if classes else [str(i) for i in range(outputs)]
        if "image" in adapters:
            image_size = image_size or PATCH_SIZE * adapters["image"].rpb.sides[0]
        clip = adapters["audio"].clip_seconds if "audio" in adapters else MAX_AUDIO_SECONDS
        chooses = model.num_candidates > 1
        check_vocabulary(model, tokenizer)
        self.reader = ItemReader(
            tokenizer=tokenizer,
            image_size=image_size or 0,
            keep_ratio=False,
            fast_jpeg=False,
            alpha=image_io.check_alpha(alpha),
            windows=(clip, clip),
            batch_size=batch_size,
            equal_length_audio=model.backbone.metadata().get("audio_padding") == "compat",
            image_sizes=self._grounds,
            video_clip=VideoClip(*model.clip or (1, None)),
            video_views=video_views,
            first_window=True,  # as these models were trained and measured
            lower=not chooses,
            needs_words=True,
            max_tokens=TEXT_POSITIONS - 4 if chooses else MAX_TEXT_TOKENS,
        )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "fp32",
        tokenizer: str | Path | Tokenizer | None = None,
        classes: Sequence[str] | str | Path | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> Predictor:
        """Build the model that a file describes.

        Args:
            path: an official fine-tuned file or one of ours, or a folder with one. Sizes and head
                are read off its weights, the task off its metadata.
            device: by default a GPU if there is one.
            dtype: of weights and activations: "fp32", "bf16", "fp16", or a torch dtype.
            tokenizer: file or object; by default `tokenizer.json` beside the checkpoint.
            classes: their names, or a file with a line for each; by default those that the
                checkpoint has, or `classes.txt` or `classes.json` beside it.
            adapter: folder of LoRA that is merged into the checkpoint, see `checkpoint.read_lora`.
            options: see `Predictor`.

        Raises:
            CheckpointError: if the file cannot be used, or is not of such a model.
            ValueError: for an unknown dtype, or the wrong number of classes.
        """
        from mmonepeace.datasets.labelled import read_classes

        dtype = to_dtype(dtype)
        model, stored, path = load_predictor(Path(path), None if adapter is None else Path(adapter))
        beside = [path.parent / name for name in _CLASS_FILES if (path.parent / name).is_file()]
        if classes is None:
            classes = stored or (read_classes(beside[0]) if beside else None)
        elif isinstance(classes, str | Path):
            classes = read_classes(classes)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = find_tokenizer(tokenizer, path)
        return cls(model.to(device, dtype), tokenizer, classes=classes, **options)

    @classmethod
    def _build(cls, saved: checkpoint.Saved) -> tuple[OnePeaceClassifier, dict[str, Any]]:
        model, classes = build_predictor(saved.converted, saved.path, saved)
        return model, {"classes": classes}

    def facts(self) -> dict[str, Any]:
        """See `Shared`."""
        numbers = list(map(str, range(len(self.classes))))
        named = None if self.classes == numbers else self.classes
        return {**super().facts(), "task": self.task, "classes": named}

    @property
    def task(self) -> str:
        """The method that the model was trained for."""
        if self._grounds:
            return "ground"
        if self.model.head.num_views > 1:
            return "compare"
        return "answer" if "text" in self.model.backbone.adapters else "classify"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each of its items has: some of "audio", "image", "image_2" and "text", or "video"."""
        if self.model.clip:
            return ("video",)
        second = {"image_2"} if self.task == "compare" else set[str]()
        return tuple(sorted({*self.model.backbone.adapters, *second}))

    def classify(
        self,
        images: Iterable[image_io.ImageInput] | None = None,
        audio: Iterable[AudioLike] | None = None,
        top_k: int = 5,
        errors: dict[int, str] | None = None,
        videos: Iterable[VideoInput] | None = None,
    ) -> list[list[Prediction]]:
        """The most probable classes of images, audio clips or videos.

        Of several classes that an item may have at once, each score is a probability of its own.

        Args:
            images: see `Embedder.encode_image`.
            audio: see `Embedder.encode_audio`; of a long clip, the beginning is taken.
            top_k: classes of each item.
            errors: takes index -> reason for items that cannot be read, whose list is empty. None
                raises at the first such item.
            videos: see `video_io.open_video`: paths of files, of animations or of folders of frames, or
                lists of frames.

        Returns:
            for each item the best classes, the best first.
        """
        self._check("classify")
        return self._best(self._rows(image=images, audio=audio, video=videos), top_k, errors)

    def answer(
        self,
        questions: Iterable[str],
        images: Iterable[image_io.ImageInput] | None = None,
        audio: Iterable[AudioLike] | None = None,
        candidates: Iterable[Sequence[str]] | None = None,
        top_k: int = 5,
        errors: dict[int, str] | None = None,
    ) -> list[list[Prediction]]:
        """The most probable answers to questions about images or audio clips.

        Args:
            questions: one for each item; an empty one cannot be read.
            images: see `classify`.
            audio: the same.
            candidates: answers to choose from, for models that rank them; the others know theirs.
            top_k: answers of each item.
            errors: see `classify`.

        Returns:
            for each item the best answers, the best first.
        """
        from mmonepeace.datasets.labelled import candidate_texts

        self._check("answer")
        wanted = self.model.num_candidates
        if (candidates is None) is not (wanted == 1):
            needs = f"ranks {wanted} candidates: give them" if wanted > 1 else "knows its answers"
            raise ValueError(f"this model {needs}.")
        if candidates is None:
            return self._best(self._rows(text=questions, image=images, audio=audio), top_k, errors)
        asked = [_string(row["text"]) for row in as_rows({"text": questions})]
        choices = [[] if isinstance(texts, str) else list(texts) for texts in candidates]
        if len(choices) != len(asked) or any(len(texts) != wanted for texts in choices):
            raise ValueError(
                f"the model ranks {wanted} candidates of each question: give a list of {wanted} "
                f"strings for each of {len(asked)}."
            )
        texts = []
        for question, own in zip(asked, choices, strict=True):
            parts = [question, *map(_string, own)]
            # An empty one is refused as the text of an item is.
            whole = all(map(str.strip, parts))
            texts.append(candidate_texts(question, own) if whole else [""])
        rows = self._rows(text=texts, image=images, audio=audio)
        return self._best(rows, top_k, errors, choices)

    def ground(
        self,
        images: Iterable[image_io.ImageInput],
        phrases: Iterable[str],
        errors: dict[int, str] | None = None,
    ) -> np.ndarray:
        """The boxes of what phrases name in images.

        Args:
            images: see `classify`.
            phrases: one for each image.
            errors: takes index -> reason for items that cannot be read, whose rows are NaN.

        Returns:
            (N, 4) float32 corners x0, y0, x1, y1 in pixels of the images as they are shown.
        """
        self._check("ground")
        rows = self._rows(text=phrases, image=images)
        boxes = np.full((len(rows), 4), np.nan, np.float32)
        for owners, outputs, inputs in self._run(rows, errors):
            sides = torch.stack(inputs["image_size"]).repeat(1, 2)
            boxes[owners] = (outputs.float().cpu() * sides).numpy()
        return boxes

    def compare(
        self,
        images: Iterable[image_io.ImageInput],
        images_2: Iterable[image_io.ImageInput],
        statements: Iterable[str],
        errors: dict[int, str] | None = None,
    ) -> list[list[Prediction]]:
        """Whether statements about two images are true, as `classify` returns classes."""
        self._check("compare")
        rows = self._rows(text=statements, image=images, image_2=images_2)
        return self._best(rows, len(self.classes), errors)

    def _check(self, task: str) -> None:
        if task != self.task:
            raise ValueError(f"this model was trained for another task: use .{self.task}(...).")

    def _rows(self, **modalities: Iterable[Any] | None) -> list[dict[str, Any]]:
        given = {name: values for name, values in modalities.items() if values is not None}
        if set(given) != set(self.inputs):
            together = " together" if len(self.inputs) > 1 else ""
            raise ValueError(
                f"the model takes {' and '.join(self.inputs)}{together}; "
                f"{' and '.join(sorted(given)) or 'nothing'} given."
            )
        rows = as_rows(given)
        for row in rows if "text" in given and self.model.num_candidates == 1 else ():
            row["text"] = clean_caption(_string(row["text"]))
        return rows

    def _run(
        self, rows: list[dict[str, Any]], errors: dict[int, str] | None
    ) -> Iterable[tuple[list[int], Tensor, Mapping[str, list[Tensor]]]]:
        """Indices of items, the outputs of the model, and what was read."""
        parameter = next(self.model.parameters())
        for owners, inputs in self.reader.batches(rows, errors, self.progress):
            read = {name: values for name, values in inputs.items() if name != "image_size"}
            with torch.inference_mode():
                batch = model_inputs(self.model.data_preprocessor, read, parameter)
                yield owners, self.model(batch), inputs

    def _best(
        self,
        rows: list[dict[str, Any]],
        top_k: int,
        errors: dict[int, str] | None,
        names: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Prediction]]:
        """The most probable classes of items; `names` are those of each item, if they differ."""
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected 1 or more.")
        results: list[list[Prediction]] = [[] for _ in rows]
        for owners, outputs, _ in self._run(rows, errors):
            logits_BC = outputs.float()
            scores_BC = logits_BC.sigmoid() if self._several_labels else logits_BC.softmax(1)
            # By logits: probabilities close to 1 are equal in float32.
            best = logits_BC.topk(min(top_k, logits_BC.shape[1]), 1).indices.cpu()
            scores = scores_BC.cpu().gather(1, best)
            for owner, indices, values in zip(owners, best.tolist(), scores.tolist(), strict=True):
                labels = self.classes if names is None else names[owner]
                pairs = zip(indices, values, strict=True)
                results[owner] = [Prediction(labels[i], value) for i, value in pairs]
        return results


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is {text!r}, expected a string.")
    return text
