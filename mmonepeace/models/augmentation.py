"""Random changes of a batch of training images at once, on the model's device.

A transform of each sample costs a CPU more than the step of a small model.

Shapes: B images, H, W pixels; h, w of the result.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # luma of RGB


class BatchAugmentation:
    """Move, colour and cover images, each in its own way.

    Draws come from torch's generator on the CPU, which `StepSeedHook` seeds. The default of each
    option changes nothing.

    Args:
        rotation: largest angle to either side, in degrees.
        zoom: largest factor of the size, and of its inverse; 1 or more. What is outside the image
            has the colour of its border.
        aspect: the same of the ratio of the sides.
        shear: largest shear, in sides of the image to either side.
        shift: largest shift in both directions, in halves of the side.
        flip: probability of mirroring.
        hue: largest turn of the colours to either side, in degrees.
        saturation: lowest and highest factor of the saturation.
        grey: probability of no colour.
        contrast: largest factor of the contrast, and of its inverse; 1 or more.
        brightness: largest change to either side, of values in 0..1.
        invert: probability of a negative.
        cover: largest sides of the rectangle of one colour that covers a part, of 0..1 of those of
            the image.
        size: rows and columns of the result, from a random place inside the image where it fits;
            None: those of the image, and its middle.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        zoom: float = 1.0,
        aspect: float = 1.0,
        shear: float = 0.0,
        shift: float = 0.0,
        flip: float = 0.0,
        hue: float = 0.0,
        saturation: tuple[float, float] = (1.0, 1.0),
        grey: float = 0.0,
        contrast: float = 1.0,
        brightness: float = 0.0,
        invert: float = 0.0,
        cover: float = 0.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        for name, value in dict(zoom=zoom, aspect=aspect, contrast=contrast).items():
            if not 1 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a factor of 1 or more.")
        for name, value in dict(rotation=rotation, shear=shear, shift=shift, hue=hue).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected 0 or more.")
        fractions = dict(flip=flip, grey=grey, brightness=brightness, invert=invert, cover=cover)
        for name, value in fractions.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected 0 to 1.")
        low, high = saturation
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"saturation is {saturation}, expected 0 <= low <= high.")
        self.rotation, self.hue = math.radians(rotation), math.radians(hue)
        self.zoom, self.aspect, self.contrast = math.log(zoom), math.log(aspect), math.log(contrast)
        self.shear, self.shift, self.flip = shear, shift, flip
        self.saturation, self.grey, self.invert = (low, high), grey, invert
        self.brightness, self.cover = brightness, cover
        if size is not None and not (
            isinstance(size, tuple | list)
            and len(size) == 2
            and all(isinstance(side, int) and side > 0 for side in size)
        ):
            raise ValueError(f"size is {size}, expected rows and columns.")
        self.size = size

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W) floats in 0..1 -> (B, 3, h, w)."""
        return self._change(images_B3HW)[0]

    def with_labels(
        self, images_B3HW: Tensor, labels_B1HW: Tensor, stride: int = 1, ignore: int = 255
    ) -> tuple[Tensor, Tensor]:
        """Change images and their label maps.

        Args:
            images_B3HW: floats in 0..1.
            labels_B1HW: integers.
            stride: side of squares of the result, of which only the label in the middle is kept.
            ignore: label outside the image and where it is covered.

        Returns:
            (B, 3, h, w) and (B, 1, h / stride, w / stride), of the same dtypes.

        Raises:
            ValueError: if a side of the result is not a multiple of the stride.
        """
        images, moves, covered = self._change(images_B3HW)
        n, _, *sides = images.shape
        if any(side % stride for side in sides):
            raise ValueError(f"images have {sides} pixels, expected multiples of stride, {stride}.")
        with _in_float32(images):
            grid = F.affine_grid(moves, [n, 1, *(side // stride for side in sides)], False)
            # Less the ignored label: grid_sample has zeros outside.
            labels = labels_B1HW.float() - ignore
            labels = F.grid_sample(labels, grid, "nearest", align_corners=False)
        labels = (labels + ignore).to(labels_B1HW.dtype)
        if covered is not None:
            middle = stride // 2
            labels = labels.masked_fill(covered[..., middle::stride, middle::stride], ignore)
        return images, labels

    def _change(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Changed images, (B, 2, 3) moves, and (B, 1, h, w) bool where an image is covered."""
        (n, _, *sides), device = images_B3HW.shape, images_B3HW.device
        size = self.size or sides
        with _in_float32(images_B3HW):
            moves = self._moves(n, sides, size).to(device)
            grid = F.affine_grid(moves, [n, 3, *size], False)
            x = F.grid_sample(images_B3HW, grid, padding_mode="border", align_corners=False)
            matrix, offset = (t.to(device) for t in self._colours(n))
            x = torch.baddbmm(offset, matrix, x.flatten(2) - 0.5).clamp_(0, 1).view(x.shape)
        if not self.cover:
            return x, moves, None
        covered, colour = (t.to(device) for t in self._covers(n, *size))
        return torch.where(covered, colour, x), moves, covered

    def _moves(self, n: int, sides: Sequence[int], size: Sequence[int]) -> Tensor:
        """(B, 2, 3): from places of the result to those of the image, as `affine_grid` takes them."""
        (height, width), (rows, columns) = sides, size
        turn, shear = _draw(n, self.rotation), _draw(n, self.shear)
        factor, ratio = _draw(n, self.zoom).exp(), _draw(n, self.aspect).exp()
        mirror = 1 - 2 * (_uniform(n) < self.flip).float()
        cos, sin = turn.cos(), turn.sin()
        # Rotation times shear times size, in pixels; then in halves of the sides.
        wide, high = factor * ratio * mirror * columns, factor / ratio * rows
        x = torch.stack([cos * wide, (cos * shear - sin) * high]) / width
        y = torch.stack([sin * wide, (sin * shear + cos) * high]) / height
        places = []
        for axis in (x, y):
            place = _draw(n, self.shift)
            if self.size is not None:
                place += _draw(n, 1) * (1 - axis.abs().sum(0)).clamp(min=0)
            places.append(place)
        return torch.stack([*x, places[0], *y, places[1]], 1).view(n, 2, 3)

    def _colours(self, n: int) -> tuple[Tensor, Tensor]:
        """(B, 3, 3) and (B, 3, 1): the product with colours from which 0.5 is taken, and what is added."""
        turn = _draw(n, self.hue)
        # A turn about the grey axis.
        third, side = (1 - turn.cos()) / 3, turn.sin() / math.sqrt(3)
        same, after, before = turn.cos() + third, third - side, third + side
        rows = [same, after, before, before, same, after, after, before, same]
        hue = torch.stack(rows, 1).view(n, 3, 3)
        low, high = self.saturation
        colour = low + (high - low) * _uniform(n)
        colour = torch.where(_uniform(n) < self.grey, 0, colour).view(n, 1, 1)
        grey = torch.tensor(_GREY, device="cpu").expand(3, 3)
        factor = _draw(n, self.contrast).exp() * (1 - 2 * (_uniform(n) < self.invert).float())
        matrix = (colour * torch.eye(3, device="cpu") + (1 - colour) * grey) @ hue
        offset = 0.5 + _draw(n, self.brightness).view(n, 1, 1).expand(n, 3, 1)
        return matrix * factor.view(n, 1, 1), offset

    def _covers(self, n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) bool where an image is covered, and (B, 3, 1, 1), with which colour."""
        inside = []
        for side in (height, width):
            centre, half = _uniform(n), _uniform(n) * self.cover / 2
            places = (torch.arange(side, device="cpu") + 0.5) / side
            inside.append((places - centre[:, None]).abs() < half[:, None])
        mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return mask, torch.rand(n, 3, 1, 1, device="cpu")


def _in_float32(images: Tensor) -> torch.autocast:
    """Steps run preprocessors under autocast; bfloat16 would move images by pixels."""
    return torch.autocast(images.device.type, enabled=False)


def _uniform(n: int) -> Tensor:
    return torch.rand(n, device="cpu")


def _draw(n: int, limit: float) -> Tensor:
    """(B,) numbers between -limit and limit."""
    return (2 * _uniform(n) - 1) * limit
