"""What can be exported: a module of tensors alone, its inputs, and the sizes that they may have.

Shapes: B batch, T text tokens, S samples, H, W rows and columns of an image, D width, C classes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.spec import (
    AUDIO_CONVS,
    AUDIO_FIELD,
    AUDIO_STRIDE,
    CLIP_MEAN,
    CLIP_STD,
    EOS_ID,
    IMAGE_MEAN,
    IMAGE_STD,
    MAX_POSITIONS,
    MAX_TEXT_TOKENS,
    MIN_AUDIO_SECONDS,
    PAD_ID,
    PATCH_SIZE,
    SAMPLE_RATE,
)

MAX_BATCH = 256
# An axis of length 1 would be one for the exporter, whatever the input. Larger images need more
# memory for attention than there is.
_LEAST_CELLS, _MAX_IMAGE_SIDE = 2, 2048
_COARSEST = 32  # stride of the coarsest map of a ViT-Adapter


@dataclass(frozen=True)
class Axis:
    """The lengths that a dimension may have.

    Attributes:
        low: the shortest.
        high: the longest.
        length: what is traced and timed, and the only length unless it is dynamic.
        step: lengths are multiples of it.
        tried: the longest length of random checks.
    """

    low: int
    high: int
    length: int
    step: int = 1
    tried: int = 0

    def check(self, name: str, length: int) -> None:
        """Raise a ValueError for a length outside."""
        if not self.low <= length <= self.high or length % self.step:
            multiple = f" in multiples of {self.step}" if self.step > 1 else ""
            raise ValueError(
                f"{name} is {length}; a file with dynamic sizes takes {self.low} to {self.high}"
                f"{multiple}. Leave `size` out of --dynamic for a file of one other size."
            )

    def draw(self, generator: torch.Generator) -> int:
        """A random length."""
        low, high = self.low // self.step, min(self.tried, self.high) // self.step
        return self.step * int(torch.randint(low, high + 1, (), generator=generator))


@dataclass(frozen=True)
class Input:
    """A tensor that a graph takes.

    Attributes:
        name: of the input.
        shape: a number, or an axis of `Graph.axes` and how many times its length, of each dimension.
        meaning: one line for who runs the file.
        draw: (shape, generator, lengths of all axes) -> random values.
    """

    name: str
    shape: tuple[int | tuple[str, int], ...]
    meaning: str
    draw: Callable[[Sequence[int], torch.Generator, Mapping[str, int]], Tensor]

    def sizes(self, lengths: Mapping[str, int]) -> list[int]:
        """Its shape for lengths of the axes."""
        return [n if isinstance(n, int) else lengths[n[0]] * n[1] for n in self.shape]


@dataclass
class Graph:
    """A module and its inputs.

    Attributes:
        module: (*tensors) -> a tensor.
        inputs: in the order of the module.
        output: name of the result.
        axes: name -> lengths.
        facts: what who runs the file has to know besides, such as the normalisation of images.
        left_out: what the model has and the file lacks.
    """

    module: nn.Module
    inputs: list[Input]
    output: str
    axes: dict[str, Axis]
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def draw(self, lengths: Mapping[str, int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random inputs."""
        return tuple(each.draw(each.sizes(lengths), generator, lengths) for each in self.inputs)

    def lengths(self) -> dict[str, int]:
        """Lengths that are traced and timed."""
        return {name: axis.length for name, axis in self.axes.items()}

    def metadata(self, dynamic: Sequence[str]) -> str:
        """What the file says of itself: inputs, the lengths of dynamic axes, facts; JSON."""
        inputs = {
            each.name: {
                "shape": [
                    n if isinstance(n, int) else self._length(*n, dynamic) for n in each.shape
                ],
                "meaning": each.meaning,
            }
            for each in self.inputs
        }
        return json.dumps(
            {
                "inputs": inputs,
                "output": self.output,
                "axes": {name: self.range(name) for name in self.axes if name in dynamic},
                **self.facts,
            }
        )

    def _length(self, name: str, times: int, dynamic: Sequence[str]) -> str | int:
        if name not in dynamic:
            return self.axes[name].length * times
        return name if times == 1 else f"{times} * {name}"

    def range(self, name: str) -> dict[str, int]:
        """Lengths of an axis, as the file says them."""
        axis = self.axes[name]
        return {"min": axis.low, "max": axis.high, "multiple_of": axis.step}


class _Module(nn.Module):
    """Calls a model with tensors alone; in the dtype of its weights, and float32 outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def to_weights(self, x: Tensor) -> Tensor:
        """A tensor in the dtype of the weights, if it has numbers with fractions."""
        return x.to(next(self.model.parameters()).dtype) if x.is_floating_point() else x


class _Encoder(_Module):
    """Embeddings of one modality."""

    def __init__(self, model: nn.Module, modality: str) -> None:
        super().__init__(model)
        self.modality = modality

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs of a modality -> (B, D) of unit length."""
        value = PREPARATIONS[self.modality](*map(self.to_weights, inputs))
        return self.model({self.modality: value})[self.modality]


class _Classifier(_Module):
    """Outputs of a head over one or more modalities."""

    def __init__(self, model: nn.Module, counts: Mapping[str, int]) -> None:
        super().__init__(model)
        self.counts = counts

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs of all modalities -> (B, C)."""
        rest, values = [self.to_weights(x) for x in inputs], {}
        for name, count in self.counts.items():
            values[name] = PREPARATIONS[name](*rest[:count])
            rest = rest[count:]
        return self.model(values).float()


class _Segmentor(_Module):
    """Logits at the size of the image."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        model: Any = self.model
        logits = model.decode_head(model.extract_feat(self.to_weights(images))).float()
        size, corners = images.shape[2:], model.align_corners
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=corners)


def _prepare_audio(waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Complete frames of waveforms, and where they are padding."""
    frames = (waves_BS.shape[1] - (AUDIO_FIELD - AUDIO_STRIDE)) // AUDIO_STRIDE
    # What is behind the last frame is in none; without it the exporter knows all lengths. It cannot tell
    # whether that cuts nothing, and would refuse the lengths where it does: there is one more to cut.
    end = frames * AUDIO_STRIDE + AUDIO_FIELD - AUDIO_STRIDE
    waves_BS = F.pad(waves_BS, (0, 1))[:, :end]
    own = lengths_B
    for kernel, stride in AUDIO_CONVS:
        own = (own - kernel).div(stride, rounding_mode="floor") + 1
    return waves_BS, torch.arange(frames, device=own.device) >= own[:, None]


# Modality -> its inputs as the model takes them.
PREPARATIONS: dict[str, Callable[..., Any]] = {
    "text": lambda ids: ids,
    "image": lambda images: images,
    "image_2": lambda images: images,
    "audio": _prepare_audio,
}


def _draw_text(size: Sequence[int], generator: torch.Generator, _: Mapping[str, int]) -> Tensor:
    """Texts of different lengths, the first of which has no padding."""
    ids_BT = torch.randint(EOS_ID + 1, EOS_ID + 50, tuple(size), generator=generator)
    for row, ids in enumerate(ids_BT):
        length = (
            size[1] if row == 0 else int(torch.randint(1, size[1] + 1, (), generator=generator))
        )
        ids[length - 1] = EOS_ID
        ids[length:] = PAD_ID
    return ids_BT


def _draw_lengths(
    size: Sequence[int], generator: torch.Generator, lengths: Mapping[str, int]
) -> Tensor:
    """Clips of different lengths, the first of which has no padding."""
    least, samples = MIN_AUDIO_SECONDS * SAMPLE_RATE // 2, lengths["samples"]
    drawn_B = torch.randint(least, samples + 1, tuple(size), generator=generator)
    drawn_B[0] = samples
    return drawn_B


def _draw_normal(size: Sequence[int], generator: torch.Generator, _: Mapping[str, int]) -> Tensor:
    return torch.randn(*size, generator=generator)


def image_inputs(
    adapter: Any, size: tuple[int, int] | None, step: int, name: str = "image"
) -> tuple[list[Input], dict[str, Axis]]:
    """Images of a model, and their axes.

    Args:
        adapter: the image adapter.
        size: height and width that are traced; None: those of the model's own grid.
        step: sides are multiples of it.
        name: of the input.
    """
    height, width = size or tuple(side * PATCH_SIZE for side in adapter.grid)
    axes = {
        key: Axis(_LEAST_CELLS * step, _MAX_IMAGE_SIDE, side, step, max(side * 3 // 2, 4 * step))
        for key, side in (("height", height), ("width", width))
    }
    meaning = "RGB, float32, normalised: (x / 255 - mean) / std"
    shape = (("batch", 1), adapter.in_channels, ("height", 1), ("width", 1))
    return [Input(name, shape, meaning, _draw_normal)], axes


def _image(adapter: Any, size: tuple[int, int] | None) -> tuple[list[Input], dict[str, Axis]]:
    return image_inputs(adapter, size, PATCH_SIZE)


def _image_2(adapter: Any, size: tuple[int, int] | None) -> tuple[list[Input], dict[str, Axis]]:
    return image_inputs(adapter, size, PATCH_SIZE, "image_2")


def _text(adapter: Any, _size: Any, texts: int = 1) -> tuple[list[Input], dict[str, Axis]]:
    longest = min(len(adapter.pos_embed), MAX_POSITIONS) - 1
    length = min(MAX_TEXT_TOKENS + 1, longest)
    meaning = f"int64 ids of the tokenizer; {EOS_ID} ends a text, {PAD_ID} pads it"
    shape = (("batch", texts), ("tokens", 1))
    return [Input("token_ids", shape, meaning, _draw_text)], {
        "tokens": Axis(2, longest, length, tried=min(longest, 2 * length))
    }


def _audio(adapter: Any, _size: Any) -> tuple[list[Input], dict[str, Axis]]:
    low = MIN_AUDIO_SECONDS * SAMPLE_RATE
    length = round(adapter.clip_seconds * SAMPLE_RATE)
    high = MAX_POSITIONS * AUDIO_STRIDE
    length = max(low, min(length, high))

    waves = f"mono, {SAMPLE_RATE} Hz, zero mean and unit variance, padded on the right with zeros"
    return [
        Input("waveforms", (("batch", 1), ("samples", 1)), waves, _draw_normal),
        Input("lengths", (("batch", 1),), "int64 samples without padding", _draw_lengths),
    ], {"samples": Axis(low, high, length, tried=4 * low)}


_INPUTS: dict[str, Callable[..., tuple[list[Input], dict[str, Axis]]]] = {
    "text": _text,
    "image": _image,
    "image_2": _image_2,
    "audio": _audio,
}
_BATCH = 2  # that is traced and timed


def encoder_graph(model: Any, modality: str, size: tuple[int, int] | None = None) -> Graph:
    """The encoder of a modality of an `OnePeaceRetriever`: embeddings of unit length.

    What belongs to other modalities is removed from the model.

    Args:
        model: with weights.
        modality: text, image or audio.
        size: height and width of images.

    Raises:
        ValueError: if the model has no such branch, or no projection.
    """
    known = tuple(model.projections)
    if modality not in known:
        raise ValueError(
            f"the model has no {modality} embeddings, only {', '.join(known) or 'none'}."
        )
    others = [name for name in model.backbone.adapters if name != modality]
    for name in others:
        del model.backbone.adapters[name], model.projections[name]
        for layer in model.backbone.layers:
            del layer.ffn[name]
        if name in model.backbone.norms:
            del model.backbone.norms[name]
    inputs, axes = _INPUTS[modality](model.backbone.adapters[modality], size)
    return Graph(
        _Encoder(model, modality).eval(),
        inputs,
        "embeddings",
        _with_batch(axes),
        _facts(modality == "image", CLIP_MEAN, CLIP_STD),
        [f"{name} branch" for name in others],
    )


def classifier_graph(model: Any, size: tuple[int, int] | None = None) -> Graph:
    """A fine-tuned `OnePeaceClassifier`: logits, or boxes in 0..1 of an `OnePeaceGrounder`.

    Args:
        model: with weights.
        size: height and width of images.
    """
    adapters = model.backbone.adapters
    names = [*adapters, *(["image_2"] if model.head.num_views > 1 else [])]
    inputs: list[Input] = []
    axes: dict[str, Axis] = {}
    counts = {}
    for name in names:
        options = {"texts": model.num_candidates} if name == "text" else {}
        own, lengths = _INPUTS[name](adapters[name.removesuffix("_2")], size, **options)
        counts[name] = len(own)
        inputs += own
        axes |= lengths
    output = "boxes" if type(model).__name__ == "OnePeaceGrounder" else "logits"
    facts = _facts("image" in adapters, CLIP_MEAN, CLIP_STD)
    return Graph(_Classifier(model, counts).eval(), inputs, output, _with_batch(axes), facts)


def segmentor_graph(model: Any, size: tuple[int, int] | None = None) -> Graph:
    """A segmentor of mmsegmentation around our backbones: logits at the size of the image.

    Args:
        model: with weights.
        size: height and width of images; None: those of the backbone's own grid.

    Raises:
        ValueError: for what has no logits of each pixel.
    """
    if obstacle := find_obstacle(model):
        raise ValueError(obstacle)
    left_out = []
    if getattr(model, "auxiliary_head", None) is not None:
        del model.auxiliary_head
        left_out = ["auxiliary head"]
    step = _COARSEST if hasattr(model.backbone, "vit_adapter") else PATCH_SIZE
    inputs, axes = image_inputs(model.backbone.adapters["image"], size, step)
    mean, std = (tuple(x / 255 for x in values) for values in (IMAGE_MEAN, IMAGE_STD))
    classes = getattr(model, "dataset_meta", None) or {}
    facts = _facts(True, mean, std) | ({"classes": classes["classes"]} if classes else {})
    return Graph(_Segmentor(model).eval(), inputs, "logits", _with_batch(axes), facts, left_out)


def find_obstacle(model: Any) -> str | None:
    """Why a segmentor cannot be exported, or None."""
    head = getattr(model, "decode_head", None)
    if head is None:
        return f"{type(model).__name__} is no segmentor: only these and encoders are exported."
    if not hasattr(head, "conv_seg"):
        return (
            f"{type(head).__name__} has no logits of each pixel: its queries are matched and resized "
            "by mmdet's code outside of the network, which depends on the image."
        )
    return None


def _with_batch(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    return {"batch": Axis(1, MAX_BATCH, _BATCH, tried=3), **axes}


def _facts(has_images: bool, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {"image_mean": list(mean), "image_std": list(std)} if has_images else {}


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(prod(x.shape) * x.element_size() for x in module.state_dict().values())
