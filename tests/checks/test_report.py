"""What is examined, and what the report says."""

import numpy as np
import pytest
import soundfile
from mmengine.config import Config
from PIL import Image

from mmonepeace import checks
from mmonepeace.checks import CheckError, examine
from tests.checks.data import check, codes, random_image, save
from tests.checks.detection import Detection
from tests.checks.segmentation import (
    colours,
    copied_to_val,
    cut,
    each_label,
    never_in_train,
    one_pixel_outside,
    one_zero,
)
from tests.datasets.conftest import write_shard


def test_the_report_names_files_and_fixes(segmentation):
    one_pixel_outside(segmentation)
    text = str(segmentation.examine())
    for part in (
        f"{segmentation.label('train', 0)}: 3",
        "label maps have values outside the classes 0 to 2: 3",
        "fix: correct the files",
        "errors: 1, warnings: 0",
        "| 2 | house ",
        "█",
    ):
        assert part in text


def test_what_is_found_does_not_depend_on_which_file_is_read_first(segmentation, monkeypatch):
    for fault in (cut, colours, copied_to_val, one_zero):
        fault(segmentation)
    first = segmentation.examine().to_dict()
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert segmentation.examine().to_dict() == first


def test_a_file_that_cannot_be_read_is_named_once(pair_data):
    for name, content in (("3.wav", b"RIFF"), ("4.wav", b"text"), ("3.png", b"none")):
        (pair_data.root / "files" / name).write_bytes(content)
    soundfile.write(pair_data.root / "files/5.wav", np.zeros(0), 16000)
    places = [place for finding in pair_data.examine().findings for place in finding.where]
    assert f"{pair_data.root}/files/5.wav: it has no samples. Leave it out." in places
    assert len(places) == 4
    assert not [place for place in places if "it: it" in place]


def test_a_limit_looks_at_some_and_says_so(segmentation):
    never_in_train(segmentation)
    report = segmentation.examine(limit=2)
    assert [section.summary[:2] for section in report.sections] == ["2 ", "2 "]
    assert codes(report, "note") == {"sampled"}
    assert codes(report, "warning") == {"class-only-in-val"}  # not sure, so no error


def test_wrappers_are_opened_and_repetition_is_no_copy(segmentation):
    dataset = segmentation.cfg.train_dataloader.dataset
    repeated = dict(type="RepeatDataset", times=3, dataset=dataset)
    both = dict(type="ConcatDataset", datasets=[repeated, dataset])
    segmentation.cfg.train_dataloader["dataset"] = both
    report = segmentation.examine()
    assert codes(report) == set()
    assert report.sections[0].bins[0].images == 6


def test_the_quick_check_opens_wrappers_too(detection):
    inner = detection.cfg.train_dataloader.dataset
    detection.cfg.train_dataloader["dataset"] = dict(type="RepeatDataset", times=2, dataset=inner)
    both = dict(type="ConcatDataset", datasets=[detection.cfg.val_dataloader.dataset, inner])
    detection.cfg.val_dataloader["dataset"] = both
    checks.check_data(detection.cfg)
    (detection.root / "train/2.png").unlink()
    with pytest.raises(CheckError, match=r"train/2\.png"):
        checks.check_data(detection.cfg, ("val_dataloader",))


def test_parts_of_a_split_are_counted_together(segmentation):
    first = segmentation.cfg.train_dataloader.dataset
    second = {**first, "data_prefix": dict(segmentation.cfg.val_dataloader.dataset.data_prefix)}
    both = dict(type="ConcatDataset", datasets=[first, second])
    segmentation.cfg.train_dataloader["dataset"] = both
    report = segmentation.examine()
    assert report.sections[0].bins[0].images == 9
    assert codes(report) == {"split-shares-files"}


def test_images_and_label_maps_may_share_a_folder(segmentation):
    for split in ("train", "val"):
        for path in (segmentation.root / "ann" / split).iterdir():
            path.rename(segmentation.root / "img" / split / f"{path.stem}_mask.png")
        for path in list((segmentation.root / "img" / split).glob("[0-9].png")):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
    segmentation.each_dataset(img_suffix=".bmp", seg_map_suffix="_mask.png")
    for name, split in (("train", "train"), ("val", "val"), ("test", "val")):
        prefix = dict(img_path=f"img/{split}", seg_map_path=f"img/{split}")
        segmentation.cfg[f"{name}_dataloader"].dataset["data_prefix"] = prefix
    assert codes(segmentation.examine()) == set()


def test_classes_that_are_a_part_of_a_known_data_set_s_are_taken(segmentation):
    segmentation.each_dataset(
        type="ADE20KDataset", metainfo=dict(classes=("wall", "sky")), reduce_zero_label=True
    )
    for key in ("img_suffix", "seg_map_suffix"):
        for name in ("train", "val", "test"):
            del segmentation.cfg[f"{name}_dataloader"].dataset[key]
    for path in (segmentation.root / "img").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    each_label(segmentation, lambda m: np.choose(m % 4, [1, 3, 20, 0]).astype(np.uint8))
    segmentation.cfg.model.decode_head.num_classes = 2
    segmentation.cfg.model.auxiliary_head[0].num_classes = 2
    report = segmentation.examine()
    assert codes(report) == set()
    assert [b.images for b in report.sections[0].bins] == [6, 6, 6]


def test_a_test_set_may_be_without_labels(detection, segmentation):
    detection.write(
        "test", {k: v for k, v in Detection.document([9]).items() if k != "annotations"}
    )
    (detection.root / "test").mkdir()
    save(random_image(9), detection.root / "test/9.png")
    dataset = detection.cfg.test_dataloader.dataset
    dataset.update(ann_file="test.json", data_prefix=dict(img="test"))
    assert codes(detection.examine()) == set()


def test_streams_are_named_as_not_covered(pair_data):
    write_shard(pair_data.root / "0.tar", {f"{i}": {"txt": b"a dog"} for i in range(8)})
    options = dict(shards=str(pair_data.root), modalities=["text"], batch_size=2)
    pair_data.cfg.train_dataloader["dataset"] = dict(type="mmonepeace.ShardDataset", **options)
    check(pair_data, {"dataset-not-covered"})
    (pair_data.root / "0.tar").unlink()
    check(pair_data, {"dataset-unusable"})


def test_other_data_sets_have_their_images_checked(segmentation):
    pytest.importorskip("mmpretrain", reason="needs mmpretrain: pip install -e .[cls]")
    folder = segmentation.root / "img"
    cut(segmentation)
    dataset = dict(type="mmpretrain.CustomDataset", data_root=str(folder), data_prefix="")
    cfg = Config(dict(default_scope="mmpretrain", train_dataloader=dict(dataset=dataset)))
    assert codes(examine(cfg)) == {"image-unreadable"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(type="NoSuchDataset"), "NoSuchDataset"),
        (dict(img_sufix=".png"), "img_sufix"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(segmentation, options, says):
    segmentation.cfg.train_dataloader.dataset.update(options)
    with pytest.raises(CheckError, match=says):
        segmentation.examine()


def test_a_config_without_data_is_refused():
    with pytest.raises(CheckError, match="no data"):
        examine(Config(dict(model=dict())))
