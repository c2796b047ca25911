from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmonepeace.checks import CheckError, LabelCheckHook

RUNNER = SimpleNamespace(
    model=SimpleNamespace(decode_head=SimpleNamespace(num_classes=4, ignore_index=255))
)


def batch(*values):
    labels = torch.tensor([[values]])
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=labels), metainfo={"seg_map_path": "dir/name.png"}
    )
    return {"data_samples": [SegDataSample(), sample]}


@pytest.mark.parametrize("when", ["before_train_iter", "before_val_iter"])
def test_a_bad_batch_stops_the_run_and_names_the_file(when):
    check = getattr(LabelCheckHook(), when)
    check(RUNNER, 0, batch(0, 3, 255))
    for bad in (4, 254, -1):
        with pytest.raises(CheckError) as error:
            check(RUNNER, 0, batch(0, bad, 255))
        split = when.split("_")[1]
        outside = f"label maps have values outside the classes 0 to 3: {bad}; 255 is ignored"
        for text in (
            f"[label-outside-classes] {split}: {outside}",
            f"dir/name.png: {bad}",
            "fix: ",
        ):
            assert text in str(error.value)


def test_labels_counted_from_one_get_a_hint():
    with pytest.raises(CheckError, match="reduce_zero_label=True"):
        LabelCheckHook().before_train_iter(RUNNER, 0, batch(1, 4))
