"""The hook that finds a label outside the classes at the first bad batch of a run."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmonepeace.checks.label_values import check_values
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import Split
from mmonepeace.registry import HOOKS

Batch = dict[str, Any] | None


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Stop at the first batch with a label outside the classes, naming the file.

    The check before a run reads only some label maps. Without this hook such a label fails inside
    the loss, on a GPU without naming anything.
    """

    def _check(self, runner: Runner, data_batch: Any, split: str) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, "decode_head", None)
        if head is None:
            return
        values = {}
        for sample in data_batch["data_samples"]:
            if "gt_sem_seg" in sample:
                labels = sample.gt_sem_seg.data
                outside = (labels < 0) | (labels >= head.num_classes)
                bad = labels[outside & (labels != head.ignore_index)]
                if bad.numel():  # rare: sorting every label map would cost more than the rest
                    values[sample.seg_map_path] = bad.unique().tolist()
        if values:
            report = Report()
            check_values(Split(split, [], report), values, head.num_classes, head.ignore_index)
            report.raise_stops()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batch = None) -> None:
        """Check a training batch."""
        self._check(runner, data_batch, "train")

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Batch = None) -> None:
        """Check a validation batch."""
        self._check(runner, data_batch, "val")
