"""Zero-shot segmentation: each patch is compared with the prompts of class names.

Shapes: B crops, C classes, M names of all classes, D width, h x w patches, H x W pixels.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.item_reader import model_inputs
from mmonepeace.apis.zero_shot import ZeroShotClassifier
from mmonepeace.console import progress_bar
from mmonepeace.datasets import image_io
from mmonepeace.datasets.label_maps import read_label_map
from mmonepeace.datasets.sample_errors import ImageError
from mmonepeace.evaluation.segmentation import SegmentationEvaluation, confusion_matrix
from mmonepeace.spec import PATCH_SIZE

DENSE, CLS = "patches", "CLS"  # ways to predict


class ZeroShotSegmentor:
    """Labels each pixel with the class whose prompts its patch is most similar to.

    Args:
        embedder: with image and text branches.
        classes: a name each, or several of which the most similar one counts: `["sky", ("car", "bus")]`.
        templates: as for `ZeroShotClassifier`.
        values: patches take the value path of the last block, see `layers.value_path`.
        short_side: of images as they are encoded, in pixels, with their aspect ratio; None takes about
            `image_size` squared pixels of the embedder, as heat maps do.
        window: side of a square that slides over images which are larger; None encodes them whole.
        stride: of the window; None is half of it.

    Raises:
        ValueError: for wrong names or templates, sides below 1, or a stride larger than the window.
    """

    def __init__(
        self,
        embedder: Embedder,
        classes: Sequence[str | Sequence[str]],
        templates: Sequence[str] | None = None,
        *,
        values: bool = False,
        short_side: int | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> None:
        if isinstance(classes, str):
            raise TypeError("classes are a list; one is a string.")
        names = [[each] if isinstance(each, str) else list(each) for each in classes]
        if not all(names):
            raise ValueError(f"class {names.index([])} has no name; each needs one at least.")
        sides = {"short_side": short_side, "window": window, "stride": stride}
        for name, side in sides.items():
            if side is not None and side < 1:
                raise ValueError(f"{name} is {side}; it must be at least 1, or None.")
        if stride is not None and (window is None or stride > window):
            raise ValueError(
                f"stride is {stride}, the window {window}; it slides by at most its side."
            )
        self.embedder, self.values, self.short_side = embedder, values, short_side
        self.classes = tuple(first for first, *_ in names)
        flat = [name for several in names for name in several]
        classifier = ZeroShotClassifier(embedder, flat, "image", templates)
        self.name_embeddings = torch.as_tensor(classifier.class_embeddings)  # (M, D)
        self.spans = list(pairwise(accumulate(map(len, names), initial=0)))
        self.window, self.stride = window, stride or (window and max(1, window // 2))

    @torch.inference_mode()
    def predict(self, image: image_io.ImageInput) -> dict[str, np.ndarray]:
        """Way to predict -> (H, W) int64, the class of each pixel of an image, at its own size.

        `DENSE` is by patches. `CLS` is the baseline that labels the image, or each window, as a whole.
        Images are those of `Embedder.encode_image`.
        """
        # Models are imported when one exists, see `apis`.
        from mmonepeace.models.sliding_window import BandResizer, SlidingWindow

        rgb = image_io.to_rgb(image, alpha=self.embedder.reader.alpha)
        model = self.embedder.model
        pixels = {"image": [image_io.to_tensor(self._resized(rgb))]}
        pixels_13HW = model_inputs(model.data_preprocessor, pixels, model.logit_scale)["image"]
        height, width = pixels_13HW.shape[-2:]
        crop, stride = (height, width), (height, width)
        if self.window and self.stride:
            crop, stride = (self.window, self.window), (self.stride, self.stride)
        slide = SlidingWindow(crop, stride, crop_batch=self.embedder.batch_size)
        resize = BandResizer(height, (rgb.height, rgb.width), align_corners=False)
        parts = []
        for _, _, band in slide.bands(pixels_13HW, lambda crops, _: self._scores(crops)):
            _, scores = resize(band)  # (2 C, rows, W)
            parts.append(scores.unflatten(0, (2, -1)).argmax(1).cpu())
        dense_HW, cls_HW = torch.cat(parts, 1).numpy()
        return {DENSE: dense_HW, CLS: cls_HW}

    def evaluate(
        self,
        images: Sequence[Path],
        label_maps: Sequence[Path],
        reduce_zero_label: bool = False,
        errors: dict[int, str] | None = None,
    ) -> SegmentationEvaluation:
        """Compare predictions with the labels of files.

        Args:
            images: files.
            label_maps: the file of each, see `datasets.label_maps`.
            reduce_zero_label: label 0 is ignored, and 1 the first class.
            errors: takes index -> reason for images that cannot be read, which are left out.

        Raises:
            ValueError: if a label map does not fit, an image cannot be read and `errors` is None, or
                there is nothing to count.
        """
        count = len(self.classes)
        confusions: dict[str, Any] = {DENSE: 0, CLS: 0}
        errors, strict, done = errors if errors is not None else {}, errors is None, 0
        pairs = list(zip(images, label_maps, strict=True))
        for i, (image, path) in enumerate(progress_bar(pairs, desc="segment", unit=" images")):
            try:
                rgb = image_io.to_rgb(image, alpha=self.embedder.reader.alpha)
            except ImageError as error:
                if strict:
                    raise
                errors[i] = str(error)
                continue
            labels_HW = read_label_map(path, (rgb.height, rgb.width), count, reduce_zero_label)
            for name, predicted_HW in self.predict(rgb).items():
                confusions[name] = confusions[name] + confusion_matrix(
                    labels_HW, predicted_HW, count
                )
            done += 1
        if not done or not confusions[DENSE].any():
            raise ValueError(
                f"none of {len(images)} images can be read and has a label: there is nothing to measure."
            )
        return SegmentationEvaluation(self.classes, confusions, done)

    def _resized(self, rgb: Any) -> Any:
        if self.short_side is None:
            return image_io.resize(rgb, self.embedder.reader.image_size, keep_ratio=True)
        patches = self.short_side / min(rgb.size) / PATCH_SIZE
        sides = (PATCH_SIZE * max(1, round(side * patches)) for side in (rgb.height, rgb.width))
        return image_io.resize(rgb, tuple(sides))

    def _scores(self, crops_B3HW: Tensor) -> Tensor:
        """(B, 2 C, H, W): cosines of the patches, and of the crop as a whole, at each pixel."""
        cls_BD, patches_BhwD = self.embedder.model.embed_patches(crops_B3HW, self.values)
        names_DM = self.name_embeddings.to(cls_BD).t()
        dense_BChw = self._of_classes(patches_BhwD @ names_DM).permute(0, 3, 1, 2)
        height, width = crops_B3HW.shape[-2:]
        # The last patches may reach beyond the crop.
        full = [PATCH_SIZE * side for side in dense_BChw.shape[-2:]]
        dense_BCHW = F.interpolate(dense_BChw, full, mode="bilinear")[..., :height, :width]
        whole_BC11 = self._of_classes(cls_BD @ names_DM)[..., None, None]
        return torch.cat([dense_BCHW, whole_BC11.expand_as(dense_BCHW)], 1)

    def _of_classes(self, cosines: Tensor) -> Tensor:
        """(..., M) -> (..., C): of the names of a class the most similar one."""
        return torch.stack([cosines[..., a:b].amax(-1) for a, b in self.spans], -1)
