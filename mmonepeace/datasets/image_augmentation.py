"""Random changes of training images, as the official recipes have them.

Those of timm take the images of any pipeline: `inputs["image"]` (3, H, W) uint8 RGB, or `img` (H, W, 3)
uint8 BGR, as mmcv loads it. The others take `inputs["image"]` and, where there is one,
`inputs["image_2"]`; these may be Pillow images too.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from mmonepeace.datasets.image_io import to_tensor
from mmonepeace.datasets.seeded_dataset import seeded
from mmonepeace.datasets.transforms import Results, generator
from mmonepeace.registry import TRANSFORMS
from mmonepeace.spec import IMAGE_MEAN, IMAGE_STD

_IMAGES = ("image", "image_2")
_MAX_LEVEL = 10  # of RandAugment
_FILL = (128, 128, 128)  # what shows where a shifted or rotated image ends, on NLVR2
_Change = Callable[[Image.Image], Image.Image]


@contextmanager
def _seeded_by(results: Results, transform: BaseTransform) -> Iterator[None]:
    """Seed the global generators, which timm draws from, with the seed of the sample.

    Data sets of MM libraries give samples none: there `SeededDataset` has seeded them already.
    """
    if "seed" not in results:
        yield
        return
    with seeded(*results["seed"], zlib.crc32(type(transform).__name__.encode())):
        yield


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _change(results: Results, change: _Change) -> Results:
    """Apply a function of a Pillow image to the image of a record."""
    inputs = results.get("inputs", {})
    if isinstance(inputs.get("image"), Tensor):
        inputs["image"] = to_tensor(change(_to_pil(inputs["image"])))
    elif isinstance(results.get("img"), np.ndarray):
        changed = change(Image.fromarray(np.ascontiguousarray(results["img"][..., ::-1])))
        results["img"] = np.asarray(changed)[..., ::-1].copy()
    else:
        raise KeyError("the record has no image. Put LoadImage or LoadImageFromFile before.")
    return results


@TRANSFORMS.register_module()
class RandAugment(BaseTransform):
    """timm's RandAugment.

    Args:
        policy: in timm's notation: magnitude, its standard deviation, operations that grow with it.
            The default is that of the official ImageNet recipes.

    Raises:
        ValueError: if timm does not know the policy.
    """

    def __init__(self, policy: str = "rand-m9-mstd0.5-inc1") -> None:
        from timm.data.auto_augment import rand_augment_transform

        mean = tuple(round(value) for value in IMAGE_MEAN)
        options = dict(img_mean=mean, interpolation=Image.Resampling.BICUBIC)
        try:
            self.augment = rand_augment_transform(policy, options)
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"policy is {policy!r}; expected one of timm's, such as 'rand-m9-mstd0.5-inc1' ({error})."
            ) from None

    def transform(self, results: Results) -> Results:
        """Change the image."""
        with _seeded_by(results, self):
            return _change(results, self.augment)


@TRANSFORMS.register_module()
class RandomErasing(BaseTransform):
    """timm's random erasing: cover a rectangle. The official recipes leave it out.

    timm erases normalised images. Here noise has the mean and standard deviation of normalised images
    in pixel values, and is clipped to 0..255.

    Args:
        probability: of erasing.
        mode: "const", the mean colour; "rand", one random colour; "pixel", noise.
        max_count: rectangles at most; their areas are divided by their number.
        area: limits of the area of them all, as fractions of the image.
    """

    def __init__(
        self,
        probability: float = 0.25,
        mode: Literal["const", "rand", "pixel"] = "pixel",
        max_count: int = 1,
        area: tuple[float, float] = (0.02, 1 / 3),
    ) -> None:
        from timm.data.random_erasing import RandomErasing as TimmErasing

        _check_probabilities(probability=probability)
        if mode not in ("const", "rand", "pixel"):
            raise ValueError(f"mode is {mode!r}; choose 'const', 'rand' or 'pixel'.")
        low, high = area
        if max_count < 1 or not 0 < low <= high <= 1:
            raise ValueError(
                f"max_count is {max_count} and area {area}; expected 1 or more, and 0 < low <= high <= 1."
            )
        self.erase = TimmErasing(
            probability, low, high, mode=mode, max_count=max_count, device="cpu"
        )

    def transform(self, results: Results) -> Results:
        """Change the image."""
        with _seeded_by(results, self):
            return _change(results, self._erase)

    def _erase(self, image: Image.Image) -> Image.Image:
        pixels = np.array(image)
        covers = self.erase(torch.full((3, *pixels.shape[:2]), torch.nan)).permute(1, 2, 0).numpy()
        colours = np.rint(covers * IMAGE_STD + IMAGE_MEAN).clip(0, 255)
        covered = ~np.isnan(covers)
        pixels[covered] = colours[covered].astype(np.uint8)
        return Image.fromarray(pixels)


@TRANSFORMS.register_module()
class BlurImage(BaseTransform):
    """Pillow's Gaussian blur of a random radius; the only augmentation of visual grounding.

    Args:
        probability: of each image.
        radius: limits in pixels.
    """

    def __init__(self, probability: float = 0.5, radius: tuple[float, float] = (0.1, 2.0)) -> None:
        _check_probabilities(probability=probability)
        self.probability = probability
        self.radius = _check_radius(radius)

    def transform(self, results: Results) -> Results:
        """Change the images of `inputs`."""
        rng = generator(results, self)
        for key, image in _images(results):
            if rng.random() < self.probability:
                image = _blur(rng, image, self.radius)
            _put(results, key, image)
        return results


@TRANSFORMS.register_module()
class AugmentImagePair(BaseTransform):
    """The augmentation of NLVR2: colours, blur, flip, then two of nine operations.

    The two images of a sample, `inputs["image"]` and `inputs["image_2"]`, get changes of their own, but
    are mirrored together: statements tell the left one from the right. Operations are drawn with
    replacement from: none, equalising, brightness, sharpness, shear and shift along both axes, rotation.

    Args:
        jitter: brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter, in
            random order.
        jitter_probability: of changing colours.
        blur_probability: of a blur.
        blur_radius: its limits in pixels.
        flip: probability of mirroring.
        num_ops: operations.
        level: their strength, 0 to 10.
        op_probability: of each of them.
        independent_flips: mirror each image on its own, as the official code does: right and left are
            then often wrong.
    """

    def __init__(
        self,
        jitter: float = 0.4,
        jitter_probability: float = 0.5,
        blur_probability: float = 0.5,
        blur_radius: tuple[float, float] = (0.1, 2.0),
        flip: float = 0.5,
        num_ops: int = 2,
        level: float = 7,
        op_probability: float = 0.5,
        independent_flips: bool = False,
    ) -> None:
        _check_probabilities(
            jitter=jitter,
            jitter_probability=jitter_probability,
            blur_probability=blur_probability,
            flip=flip,
            op_probability=op_probability,
        )
        if num_ops < 0 or not 0 <= level <= _MAX_LEVEL:
            raise ValueError(
                f"num_ops is {num_ops} and level {level}; expected 0 or more, and 0 to {_MAX_LEVEL}."
            )
        self.jitter = jitter
        self.jitter_probability = jitter_probability
        self.blur_probability = blur_probability
        self.blur_radius = _check_radius(blur_radius)
        self.flip = flip
        self.num_ops = num_ops
        self.level = level
        self.op_probability = op_probability
        self.independent_flips = independent_flips

    def transform(self, results: Results) -> Results:
        """Change the images of `inputs`."""
        rng = generator(results, self)
        mirrored = rng.random() < self.flip
        for key, image in _images(results):
            if self.independent_flips:
                mirrored = rng.random() < self.flip
            _put(results, key, self._augment(rng, image, mirrored))
        return results

    def _augment(self, rng: np.random.Generator, image: Image.Image, mirrored: bool) -> Image.Image:
        if rng.random() < self.jitter_probability:
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for i in rng.permutation(len(enhancers)):
                image = enhancers[i](image).enhance(1 + rng.uniform(-self.jitter, self.jitter))
        if rng.random() < self.blur_probability:
            image = _blur(rng, image, self.blur_radius)
        if mirrored:
            image = ImageOps.mirror(image)
        for i in rng.integers(len(OPERATIONS), size=self.num_ops):
            if rng.random() < self.op_probability:
                sign = rng.choice((-1, 1))
                image = list(OPERATIONS.values())[i](image, self.level / _MAX_LEVEL, sign)
        return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Move an image: the matrix gives places in it from those in the result."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_FILL,
    )


# (image, strength in 0..1, sign) -> image. Source: the official NLVR2 recipe.
OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "identity": lambda image, *_: image,
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "brightness": lambda image, s, _: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * s),
    "sharpness": lambda image, s, _: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * s),
    "shear_x": lambda image, s, sign: _affine(image, 1, -0.3 * s * sign, 0, 0, 1, 0),
    "shear_y": lambda image, s, sign: _affine(image, 1, 0, 0, -0.3 * s * sign, 1, 0),
    "translate_x": lambda image, s, sign: _affine(image, 1, 0, -10 * s * sign, 0, 1, 0),
    "translate_y": lambda image, s, sign: _affine(image, 1, 0, 0, 0, 1, -10 * s * sign),
    "rotate": lambda image, s, sign: image.rotate(
        30 * s * sign, Image.Resampling.BILINEAR, fillcolor=_FILL
    ),
}


def _blur(rng: np.random.Generator, image: Image.Image, radius: tuple[float, float]) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(*radius)))


def _images(results: Results) -> list[tuple[str, Image.Image]]:
    """The images of `inputs`, as Pillow images."""
    inputs: dict[str, Any] = results.get("inputs", {})
    found = [(key, inputs[key]) for key in _IMAGES if key in inputs]
    if not found:
        raise KeyError(f"inputs have no image, only {tuple(inputs)}. Put LoadImage before.")
    return [(key, _to_pil(x) if isinstance(x, Tensor) else x) for key, x in found]


def _put(results: Results, key: str, image: Image.Image) -> None:
    """Replace an image by another, in the form that it has."""
    tensor = isinstance(results["inputs"][key], Tensor)
    results["inputs"][key] = to_tensor(image) if tensor else image


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected 0 to 1.")


def _check_radius(radius: Sequence[float]) -> tuple[float, float]:
    low, high = radius
    if not 0 <= low <= high:
        raise ValueError(
            f"the radius of the blur is {radius}, expected 0 <= low <= high, in pixels."
        )
    return low, high
