"""mmsegmentation's segmentor, for images of any size and of different sizes in one call.

Shapes: N images, C classes, H rows, W columns.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from mmseg.models import SegDataPreProcessor as MMSegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmonepeace.models.augmentation import BatchAugmentation
from mmonepeace.models.necks import accept_narrow_maps
from mmonepeace.models.segmentation_heads import head_losses
from mmonepeace.models.sliding_window import BandResizer, SlidingWindow, check_option
from mmonepeace.models.widths import fill_widths
from mmonepeace.registry import MODELS
from mmonepeace.spec import IMAGE_MEAN, IMAGE_STD

# Of logits that are resized and compared at once; glibc maps larger blocks from the system on each
# allocation, which costs more than the work itself.
_CHUNK_BYTES = 24 * 2**20
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_GB = 10**9


class LabelsOnly(SegDataSample):
    """Prediction of an image whose logits were too large to keep."""

    @SegDataSample.seg_logits.getter
    def seg_logits(self) -> PixelData:
        """Not available: raises AttributeError."""
        raise AttributeError(
            f"the prediction of {self.get('img_path', 'this image')} has labels and no seg_logits, "
            f"which at {self.get('ori_shape')} would exceed test_cfg.max_logits_gb. Test-time "
            "augmentation, and whatever else reads them, needs that memory for each image and "
            "augmentation: raise the limit, --cfg-options model.test_cfg.max_logits_gb=16; "
            "model.test_cfg.accumulate_dtype=float16 halves them."
        )


@MODELS.register_module()
class SegDataPreProcessor(MMSegDataPreProcessor):
    """`mmseg.SegDataPreProcessor` whose defaults are the normalisation of the released models.

    Args:
        augmentation: options of `BatchAugmentation` for batches of training: a small model sees more
            images in the same time than if each was changed by transforms. With option `size`, they
            need no `RandomCrop`. Images are padded to the largest of their batch, and not further.
            None changes none.
        label_stride: side of squares of the augmented images of which the loss sees the label in the
            middle: that of the head's maps makes it cheaper.

    Raises:
        ValueError: if options are out of range, or samples have not just `gt_sem_seg`.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGE_MEAN,
        std: Sequence[float] = IMAGE_STD,
        bgr_to_rgb: bool = True,
        augmentation: Mapping[str, Any] | None = None,
        label_stride: int = 1,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("batch_augments") is not None:
            raise ValueError(
                f"batch_augments is {kwargs['batch_augments']}, which mmseg calls in training without "
                "building it. Use `augmentation`, or transforms in the pipeline."
            )
        if augmentation and kwargs.get("size") is not None:
            raise ValueError(
                f"size is {kwargs['size']}, expected none: `augmentation` does not pad, it has a size."
            )
        if not isinstance(label_stride, int) or label_stride < 1:
            raise ValueError(f"label_stride is {label_stride}, expected pixels, 1 or more.")
        if label_stride > 1 and not augmentation:
            raise ValueError(f"label_stride is {label_stride}, which needs `augmentation`.")
        super().__init__(mean, std, bgr_to_rgb=bgr_to_rgb, **kwargs)
        self.augment = BatchAugmentation(**augmentation) if augmentation else None
        self.label_stride = label_stride

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """As mmseg's; in training with `augmentation`, batches of it."""
        if not training or self.augment is None:
            return super().forward(data, training)
        samples = data["data_samples"]
        for sample, image in zip(samples, data["inputs"], strict=True):
            if set(sample.keys()) != {"gt_sem_seg"}:
                raise ValueError(
                    f"{sample.get('img_path')} has {', '.join(sorted(sample.keys())) or 'no labels'}: "
                    "`augmentation` moves images and gt_sem_seg, neither less nor more."
                )
            labels_size, size = sample.gt_sem_seg.shape, tuple(image.shape[1:])
            if tuple(labels_size) != size:
                raise ValueError(
                    f"{sample.get('seg_map_path')} has {tuple(labels_size)} pixels, its image {size}."
                )
        # One copy to the device instead of two an image, see `cast_data`.
        images = _stack(data["inputs"], 0).to(self.device)
        if self._channel_conversion:
            images = images[:, [2, 1, 0]]
        labels = _stack([sample.gt_sem_seg.data for sample in samples], self.seg_pad_val)
        images, labels = self.augment.with_labels(
            images.float() / 255, labels.to(self.device), self.label_stride, self.seg_pad_val
        )
        images = images * 255
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        shape = tuple(images.shape[2:])
        for sample, label in zip(samples, labels, strict=True):
            sample.gt_sem_seg = PixelData(data=label)
            sample.set_metainfo(dict(img_shape=shape, pad_shape=shape))
        return dict(inputs=images, data_samples=samples)


def _stack(maps: Sequence[Tensor], value: float) -> Tensor:
    """Maps (C, H, W), padded on the right and at the bottom to the largest of them."""
    rows, columns = (max(each.shape[axis] for each in maps) for axis in (1, 2))
    return torch.stack(
        [F.pad(m, (0, columns - m.shape[2], 0, rows - m.shape[1]), value=value) for m in maps]
    )


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """`mmseg.EncoderDecoder` that takes images of any sizes, with a sliding window that scales.

    Only images of one size share a batch, so that a list gives exactly what single calls give.
    Widths of neck and heads that are left out follow the backbone, see `fill_widths`. A side of an
    image may be shorter than a patch. A batch of one in training needs heads without BatchNorm.

    `test_cfg.dtype` ("float32"): "bfloat16" and "float16" predict in mixed precision, whoever calls the
    model; training is not changed. With `test_cfg.mode` "slide", `test_cfg` takes these keys besides `crop_size` and `stride`:

    - `crop_batch` (2): crops that the model sees at once, from one image or several;
    - `blend` ("mean"): "mean" as in mmseg; "smooth", crops count less towards their edges;
    - `max_logits_gb` (2): larger logits of an image, at its original size and in units of 10^9
      bytes, are not kept. Its prediction is a `LabelsOnly`, without `seg_logits`, and takes
      memory for one row of crops instead of the whole image;
    - `accumulate_dtype` ("float32"): of the logits that are kept; "float16" or "bfloat16" halve
      them. Overlapping crops are summed in float32 before;
    - `accumulate_device` (that of the images): where crops are summed and logits are kept.

    Raises:
        ValueError: for an invalid sliding window, or a width that does not fit the backbone.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**fill_widths(config))
        if self.with_neck:
            accept_narrow_maps(self.neck)
        mode = (self.test_cfg or {}).get("mode", "whole")
        check_option("mode", mode, mode in ("slide", "whole"), "'slide' or 'whole'")
        self._read_dtype("dtype")
        if self._slides():
            self._read_test_cfg()  # an error should not wait for the first image

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Losses and accuracies of all heads, as in mmseg, see `head_losses`."""
        maps = self.extract_feat(inputs)
        heads = {"decode": self.decode_head}
        if self.with_auxiliary_head:
            other = self.auxiliary_head
            several = isinstance(other, nn.ModuleList)
            heads |= (
                {f"aux_{i}": head for i, head in enumerate(other)} if several else {"aux": other}
            )
        return {
            f"{name}.{key}": value
            for name, head in heads.items()
            for key, value in head_losses(head, maps, data_samples, self.train_cfg).items()
        }

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Any:
        """What the decode head gives, as in mmseg; Mask2Former takes samples, which it does not read."""
        head, maps = self.decode_head, self.extract_feat(inputs)
        return head(maps, data_samples) if hasattr(head, "pixel_decoder") else head(maps)

    def val_step(self, data: dict[str, Any]) -> list[Any]:
        """Predictions of `inputs`, images (3, H, W) of any sizes, with their `data_samples`."""
        groups = defaultdict(list)
        for i, image in enumerate(data["inputs"]):
            groups[image.shape].append(i)
        # A batch of crops comes from that many images at most: others would only take memory.
        limit = self._read_test_cfg()[0].crop_batch if self._slides() else len(data["inputs"])
        batches = [
            group[start : start + limit]
            for group in groups.values()
            for start in range(0, len(group), limit)
        ]
        if len(batches) == 1:
            return super().val_step(data)
        results: dict[int, SegDataSample] = {}
        for indices in batches:
            batch = {
                key: None if values is None else [values[i] for i in indices]
                for key, values in data.items()
            }
            results.update(zip(indices, super().val_step(batch), strict=True))
        return [results[i] for i in range(len(results))]

    def test_step(self, data: dict[str, Any]) -> list[Any]:
        """As `val_step`."""
        return self.val_step(data)

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predict images of one size.

        Args:
            inputs: (N, 3, H, W).
            data_samples: metadata of each image. Without them images count as loaded: not resized,
                padded or flipped.

        Returns:
            for each image its sample with `pred_sem_seg` and `seg_logits` at the original size,
            as in mmseg; a new `LabelsOnly` if the logits would exceed `max_logits_gb`.
        """
        if not self._slides():
            return super().predict(inputs, data_samples)
        samples = data_samples or [SegDataSample() for _ in inputs]
        bands = self._bands(inputs, [sample.metainfo for sample in samples])
        return [
            self._assemble(samples[i], inputs, (band[1:] for band in of_image))
            for i, of_image in groupby(bands, itemgetter(0))
        ]

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Logits of images (N, 3, H, W) through a sliding window, without gradients.

        They are (N, C, H, W) in `accumulate_dtype` on `accumulate_device`.
        """
        window, dtype, _ = self._read_test_cfg()
        shape = (len(inputs), self.out_channels, *inputs.shape[2:])
        device = window.accumulate_device or inputs.device
        logits = torch.empty(shape, dtype=dtype, device=device)
        for i, top, band in self._bands(inputs, batch_img_metas):
            logits[i, :, top : top + band.shape[1]] = band
        return logits

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Logits (N, C, H, W) of images (N, 3, H, W), computed in `test_cfg.dtype`."""
        dtype = self._read_dtype("dtype")
        if dtype == torch.float32:  # or in that of an autocast around
            return super().encode_decode(inputs, batch_img_metas)
        with torch.autocast(inputs.device.type, dtype):
            return super().encode_decode(inputs, batch_img_metas).float()

    def _read_dtype(self, key: str) -> torch.dtype:
        name = (self.test_cfg or {}).get(key, "float32")
        check_option(key, name, name in _DTYPES, f"one of {', '.join(_DTYPES)}")
        return _DTYPES[name]

    def _slides(self) -> bool:
        return (self.test_cfg or {}).get("mode") == "slide"

    def _read_test_cfg(self) -> tuple[SlidingWindow, torch.dtype, float]:
        """The window, the dtype of the logits that are kept, and the limit in bytes per image."""
        cfg = self.test_cfg
        missing = [key for key in ("crop_size", "stride") if key not in cfg]
        if missing:
            raise ValueError(
                f"test_cfg has mode='slide' and no {' and no '.join(missing)}. Set test_cfg=dict("
                "mode='slide', crop_size=(512, 512), stride=(341, 341)), or mode='whole'."
            )
        window = SlidingWindow(
            **{field.name: cfg[field.name] for field in fields(SlidingWindow) if field.name in cfg}
        )
        limit = cfg.get("max_logits_gb", 2)
        valid = isinstance(limit, (int, float)) and limit >= 0
        check_option("max_logits_gb", limit, valid, "a number of GB, or 0 to keep no logits")
        return window, self._read_dtype("accumulate_dtype"), limit * _GB

    def _bands(
        self, inputs: Tensor, metas: list[dict[str, Any]]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """(image, first row, (C, rows, W) logits), image by image and from top to bottom."""

        def encode(crops: Tensor, images: list[int]) -> Tensor:
            # Heads take the size of their output from one or the other.
            size = crops.shape[2:]
            sizes = {"img_shape": size, "pad_shape": size}
            return self.encode_decode(crops, [{**metas[i], **sizes} for i in images])

        return self._read_test_cfg()[0].bands(inputs, encode)

    def _assemble(
        self, sample: SegDataSample, inputs: Tensor, bands: Iterator[tuple[int, Tensor]]
    ) -> SegDataSample:
        """Prediction of an image from its bands: `postprocess_result` without the full map."""
        window, dtype, limit = self._read_test_cfg()
        channels, (height, width), meta = self.out_channels, inputs.shape[2:], sample.metainfo
        padding = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
        left, right, above, below = padding
        bottom = height - below
        flip = meta.get("flip_direction") if meta.get("flip") else None
        size = tuple(meta.get("ori_shape", (height, width)))[:2]
        resize = BandResizer(bottom - above, size, self.align_corners, flip)
        pred_dtype = torch.int64 if channels > 1 else torch.float32  # as in mmseg
        labels = torch.empty((1, *size), dtype=pred_dtype, device=inputs.device)
        logits = None
        if channels * size[0] * size[1] * dtype.itemsize <= limit:
            device = window.accumulate_device or inputs.device
            logits = torch.empty((channels, *size), dtype=dtype, device=device)
        enlarged = max(1, size[0] / (bottom - above)) * max(width, size[1])
        chunk = max(1, int(_CHUNK_BYTES / (4 * channels * enlarged)))
        for top, band in bands:
            inside = band[:, max(above - top, 0) : max(bottom - top, 0), left : width - right]
            for start in range(0, inside.shape[1], chunk):
                rows, values = resize(inside[:, start : start + chunk])
                if channels > 1:
                    labels[:, rows] = values.max(0, keepdim=True).indices.to(labels.device)
                else:
                    values = values.sigmoid()
                    labels[:, rows] = (values > self.decode_head.threshold).to(labels)
                if logits is not None:
                    logits[:, rows] = values
        data = {"pred_sem_seg": PixelData(data=labels)}
        if logits is not None:
            data["seg_logits"] = PixelData(data=logits)
        else:
            others = {key: value for key, value in sample.items() if key != "seg_logits"}
            sample = LabelsOnly(metainfo=meta)
            data = {**others, **data}
        sample.set_data(data)
        return sample
