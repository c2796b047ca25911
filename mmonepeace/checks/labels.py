"""Labels outside the classes: found before the training starts, or at the first bad batch."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmonepeace.registry import HOOKS


class LabelError(ValueError):
    """A label map that does not belong to the classes. The message is for the user."""


def check_values(values: Iterable[int], num_classes: int, ignore_index: int, path: str) -> None:
    """Hold the values of a label map against the classes.

    Raises:
        LabelError: naming the file, the value and the fix.
    """
    bad = sorted(int(v) for v in values if v != ignore_index and not 0 <= v < num_classes)
    if not bad:
        return
    hint = (
        "It is exactly the number of classes: are the labels counted from 1, with 0 for 'other'? "
        "Then set reduce_zero_label=True in the dataset and in LoadAnnotations."
        if bad == [num_classes]
        else "Correct the file, or set num_classes of the heads and classes of the dataset "
        "(reduce_zero_label=True if labels are counted from 1)."
    )
    raise LabelError(
        f"{path}: label {', '.join(map(str, bad[:5]))} occurs, but there are {num_classes} "
        f"classes (0 to {num_classes - 1}) and {ignore_index} is ignored. {hint}"
    )


def scan_labels(
    infos: Sequence[dict[str, Any]],
    load: Callable[[dict[str, Any]], dict[str, Any]],
    num_classes: int,
    ignore_index: int,
    seconds: float,
) -> int:
    """Check label maps of a data set, in a random order, for a limited time.

    Args:
        infos: entries of an mmseg data set.
        load: the LoadAnnotations transform of its pipeline.
        num_classes: of the head.
        ignore_index: of the head.
        seconds: time limit.

    Returns:
        how many were checked.

    Raises:
        LabelError: at the first bad one.
    """
    from tqdm import tqdm

    order = random.Random(0).sample(infos, len(infos))
    deadline = time.monotonic() + seconds
    checked = 0
    with tqdm(order, "checking labels", unit="file", leave=False) as progress:
        for entry in progress:
            path = entry["seg_map_path"]
            try:
                labels = load(dict(entry))["gt_seg_map"]
            except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
                raise LabelError(f"{path}: cannot be read ({error}). Replace the file.") from None
            if labels.ndim != 2:
                raise LabelError(
                    f"{path}: has shape {labels.shape}, expected one channel with the number of a "
                    "class in each pixel. Are these colours? Turn them into class numbers."
                )
            check_values(np.unique(labels), num_classes, ignore_index, path)
            checked += 1
            if time.monotonic() > deadline:
                break
    return checked


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Stop at the first batch with a label outside the classes, naming the file.

    Without it such a label fails deep inside the loss, on a GPU without naming anything.
    """

    def _check(self, runner: Runner, data_batch: dict[str, Any]) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, "decode_head", None)
        if head is None:
            return
        for sample in data_batch["data_samples"]:
            if "gt_sem_seg" in sample:
                labels = sample.gt_sem_seg.data
                outside = (labels < 0) | (labels >= head.num_classes)
                bad = labels[outside & (labels != head.ignore_index)]
                if bad.numel():  # rare: sorting every label map would cost more than the rest
                    values = bad.unique().tolist()
                    check_values(values, head.num_classes, head.ignore_index, sample.seg_map_path)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Check a training batch."""
        self._check(runner, data_batch)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Check a validation batch."""
        self._check(runner, data_batch)
