"""Sliding window inference: positions of the window, blending, rows of the result as they finish.

Shapes: N images, C channels of the result, H rows, W columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# Weight of a smooth window at its edges, relative to its centre: not zero, since weights are divided
# by their sum, and small, so that a window fades in and out without a step.
_SMOOTH_FLOOR = 1e-3


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side; the last window is moved back to end with the side.

    The side is at least as long as a window. Source: mmsegmentation's sliding window.
    """
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def window_weights(starts: list[int], window: int, blend: Literal["mean", "smooth"]) -> Tensor:
    """Weights of the windows along a side, for a weighted mean where they overlap.

    Args:
        starts: first pixels of the windows, which leave no gap.
        window: length of a window.
        blend: "mean", equal weights; "smooth", a raised cosine, lower towards the edges.

    Returns:
        (windows, window) float32, positive; at each pixel of the side they sum to one.
    """
    shape = torch.ones(window, dtype=torch.float64)
    if blend == "smooth":
        phase = (torch.arange(window, dtype=torch.float64) + 0.5) / window * torch.pi
        shape = _SMOOTH_FLOOR + (1 - _SMOOTH_FLOOR) * phase.sin().square()
    pixels = torch.tensor(starts)[:, None] + torch.arange(window)
    total = torch.zeros(starts[-1] + window, dtype=torch.float64)
    total.index_add_(0, pixels.flatten(), shape.repeat(len(starts)))
    return (shape / total[pixels]).float()


def check_option(name: str, value: Any, valid: bool, expected: str) -> None:
    """Raise a `ValueError` if an option of `test_cfg` is not valid."""
    if not valid:
        raise ValueError(f"{name} is {value!r}, it should be {expected}. Set test_cfg.{name}.")


@dataclass(frozen=True)
class SlidingWindow:
    """A window that slides over images, and how its results are combined.

    Args:
        crop_size: (height, width) of the window; smaller in an image that is smaller.
        stride: (vertical, horizontal) distance between windows, at most `crop_size`.
        crop_batch: windows per forward pass of the model.
        blend: "mean", windows have equal weights, as in mmsegmentation; "smooth", pixels count less
            towards the edges of a window, where the model sees less context.
        accumulate_device: where results are summed; None: the device of the images.

    Raises:
        ValueError: for a value that is not valid.
    """

    crop_size: tuple[int, int]
    stride: tuple[int, int]
    crop_batch: int = 2
    blend: Literal["mean", "smooth"] = "mean"
    accumulate_device: str | None = None

    def __post_init__(self) -> None:
        for name in ("crop_size", "stride"):
            pair = getattr(self, name)
            valid = isinstance(pair, (tuple, list)) and len(pair) == 2
            valid = valid and all(isinstance(side, int) and side > 0 for side in pair)
            check_option(
                name, pair, valid, "(height, width), two positive integers such as (512, 512)"
            )
        if any(step > side for step, side in zip(self.stride, self.crop_size, strict=True)):
            raise ValueError(
                f"stride {tuple(self.stride)} is larger than crop_size {tuple(self.crop_size)}: "
                "pixels between the windows would have no result. Set test_cfg.stride to at most "
                "the crop_size; two thirds of it are usual."
            )
        valid = isinstance(self.crop_batch, int) and self.crop_batch > 0
        fit = "a positive integer, the number of crops that fit into memory, such as 4"
        check_option("crop_batch", self.crop_batch, valid, fit)
        check_option("blend", self.blend, self.blend in ("mean", "smooth"), "'mean' or 'smooth'")
        try:
            torch.device(self.accumulate_device or "cpu")
        except (RuntimeError, TypeError):
            check_option("accumulate_device", self.accumulate_device, False, "a torch device")

    @torch.no_grad()
    def bands(
        self, images: Tensor, encode: Callable[[Tensor, list[int]], Tensor]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of the result as soon as no further window covers them, without gradients.

        Images come one after the other, and the bands of an image from top to bottom without a gap.
        Only one row of windows is held: C x crop height x W values, whatever the height and number
        of the images.

        Args:
            images: (N, 3, H, W).
            encode: maps crops (B, 3, h, w), and the indices of the images that they are from, to
                results (B, C, h, w).

        Yields:
            index of the image, first row of the band, and the band (C, rows, W) in float32, which
            the next iteration overwrites.
        """
        count, _, height, width = images.shape
        h, w = min(height, self.crop_size[0]), min(width, self.crop_size[1])
        tops = window_starts(height, h, self.stride[0])
        lefts = window_starts(width, w, self.stride[1])
        device = torch.device(self.accumulate_device or images.device)
        row_weights = window_weights(tops, h, self.blend).to(device)
        column_weights = window_weights(lefts, w, self.blend).to(device)
        sums = None
        windows = list(product(range(count), range(len(tops)), range(len(lefts))))
        for start in range(0, len(windows), self.crop_batch):
            batch = windows[start : start + self.crop_batch]
            crops = [
                images[i, :, tops[r] : tops[r] + h, lefts[c] : lefts[c] + w] for i, r, c in batch
            ]
            results = encode(torch.stack(crops), [i for i, _, _ in batch])
            if sums is None:
                sums = torch.zeros(results.shape[1], h, width, device=device)
            for (i, r, c), result in zip(batch, results, strict=True):
                weight = torch.outer(row_weights[r], column_weights[c])
                sums[..., lefts[c] : lefts[c] + w].addcmul_(result.to(sums), weight)
                if c < len(lefts) - 1:
                    continue
                done = tops[r + 1] - tops[r] if r < len(tops) - 1 else h
                yield i, tops[r], sums[:, :done]
                for plane in sums:  # one by one: a copy of all would cost as much as the sums
                    plane[: h - done] = plane[done:].clone()
                sums[:, h - done :] = 0
            del results, result  # frees memory for the next crops


class BandResizer:
    """Flip and bilinear resizing of a map that arrives in bands of rows, from top to bottom.

    Equal to `F.interpolate` of the full flipped map. A row of the output needs two neighbouring
    rows of the input, so one row is kept from band to band.

    Args:
        height: rows of the full map.
        size: (height, width) of the full output.
        align_corners: as in `F.interpolate`.
        flip: direction, None for no flip. After a vertical one the output comes from the bottom.
    """

    def __init__(
        self,
        height: int,
        size: tuple[int, int],
        align_corners: bool,
        flip: Literal["horizontal", "vertical", "diagonal"] | None = None,
    ) -> None:
        if flip not in (None, "horizontal", "vertical", "diagonal"):
            raise ValueError(
                f"flip_direction is {flip!r}, it should be 'horizontal', 'vertical' or 'diagonal'. "
                "Set it in RandomFlip of the pipeline."
            )
        # float32 factors and one rounding, as in `F.interpolate`: it matters for thousands of rows.
        rows = torch.arange(size[0], dtype=torch.float64)
        if align_corners:
            source = rows * torch.tensor((height - 1) / max(size[0] - 1, 1)).double()
        else:
            source = (rows + 0.5) * torch.tensor(height / size[0]).double() - 0.5
        source = source.float().clamp(min=0)
        self.upper = source.long().clamp(max=height - 1)
        self.weight = (source - self.upper).clamp(max=1)[:, None]  # of the lower row
        self.lower = (self.upper + (self.weight[:, 0] > 0)).clamp(max=height - 1)
        if flip in ("vertical", "diagonal"):
            self.upper, self.lower = height - 1 - self.upper, height - 1 - self.lower
        self.needed = torch.maximum(self.upper, self.lower)
        self.same_rows = height == size[0] and flip in (None, "horizontal")
        self.mirrored = flip in ("horizontal", "diagonal")
        self.width = size[1]
        self.align_corners = align_corners
        self.rows_seen = 0
        self.last_row: Tensor | None = None

    def __call__(self, band: Tensor) -> tuple[slice, Tensor]:
        """Take the next band, (C, rows, W), at least one row; return the rows that it completes.

        These are rows of the output, perhaps none, and their values.
        """
        height = band.shape[1]
        if self.mirrored:
            band = band.flip(2)
        if band.shape[2] != self.width:
            band = F.interpolate(
                band[None], (height, self.width), mode="bilinear", align_corners=self.align_corners
            )[0]
        first = self.rows_seen
        self.rows_seen += height
        if self.same_rows:
            return slice(first, self.rows_seen), band
        complete = (self.needed >= first) & (self.needed < self.rows_seen)
        indices = complete.nonzero().flatten().tolist()
        rows = slice(indices[0], indices[-1] + 1) if indices else slice(0, 0)
        if self.last_row is not None:
            band = torch.cat([self.last_row, band], 1)
            first -= 1
        self.last_row = band[:, -1:].clone()
        upper = band[:, (self.upper[rows] - first).to(band.device)]
        lower = band[:, (self.lower[rows] - first).to(band.device)]
        return rows, upper.lerp(lower, self.weight[rows].to(band))
