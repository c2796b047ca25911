"""Healthy data sets, each broken in one way: the doctor names exactly that."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from mmengine.config import Config
from PIL import Image, ImageEnhance

from mmonepeace.engine.doctor import examine
from mmonepeace.engine.doctor.catalogue import CATALOGUE, LEVELS
from mmonepeace.engine.preflight import PreflightError

SIZE = (48, 64)  # height, width
CLASSES = ("ground", "tree", "house")
PALETTE = [(0, 0, 0), (0, 200, 0), (200, 0, 0)]


def codes(report, *levels):
    return {f.code for f in report.findings if f.level in (levels or LEVELS)}


def picture(seed):
    """A picture that is like no other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def save(array, path, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)


def edit(path, change, **options):
    """Change the array of a file."""
    save(change(np.array(Image.open(path))), path, **options)


class Data:
    """A data set in a folder, and the config that trains on it."""

    def __init__(self, root):
        self.root = root
        self.cfg = Config(self.config())

    def examine(self, limit=None):
        return examine(self.cfg, limit)

    def each_dataset(self, **options):
        for name in ("train", "val", "test"):
            for key, value in options.items():  # update() of a config would merge
                self.cfg[f"{name}_dataloader"].dataset[key] = value


# ---------------------------------------------------------------------------------- segmentation


class Segmentation(Data):
    """Six pictures for training, three for validation; each label map has all classes and 255."""

    def __init__(self, root):
        super().__init__(root)
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            for folder in ("img", "ann"):
                (root / folder / split).mkdir(parents=True)
            for seed in seeds:
                save(picture(seed), self.image(split, seed))
                save(self.labels_of(seed), self.label(split, seed))

    def image(self, split, seed):
        return self.root / f"img/{split}/{seed}.png"

    def label(self, split, seed):
        return self.root / f"ann/{split}/{seed}.png"

    def labels(self):
        return sorted((self.root / "ann").rglob("*.png"))

    @staticmethod
    def labels_of(seed):
        labels = np.zeros(SIZE, np.uint8)
        labels[:20, : 10 + seed], labels[25:, 20 + seed :], labels[:5, 50:] = 1, 2, 255
        return labels

    def config(self):
        pipeline = [
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomCrop", crop_size=(48, 48), cat_max_ratio=0.75),
            dict(type="PackSegInputs"),
        ]

        def loader(split):
            dataset = dict(
                type="BaseSegDataset",
                data_root=str(self.root),
                data_prefix=dict(img_path=f"img/{split}", seg_map_path=f"ann/{split}"),
                img_suffix=".png",
                seg_map_suffix=".png",
                metainfo=dict(classes=CLASSES, palette=PALETTE),
                pipeline=pipeline,
            )
            return dict(batch_size=1, dataset=dataset)

        head = dict(type="FCNHead", num_classes=3, loss_decode=dict(type="CrossEntropyLoss"))
        return dict(
            default_scope="mmseg",
            train_dataloader=loader("train"),
            val_dataloader=loader("val"),
            test_dataloader=loader("val"),
            val_evaluator=dict(type="IoUMetric"),
            model=dict(
                type="EncoderDecoder",
                data_preprocessor=dict(type="SegDataPreProcessor", seg_pad_val=255),
                decode_head=head,
                auxiliary_head=[head],
            ),
        )


SEG = {}  # name -> (fault, the codes that it gives)


def seg(*expected):
    def keep(fault):
        SEG[fault.__name__] = (fault, set(expected))
        return fault

    return keep


def each_label(data, change, **options):
    for path in data.labels():
        edit(path, change, **options)


@seg("folder-missing")
def no_folder(data):
    shutil.rmtree(data.root / "img/val")


@seg("folder-missing")
def no_folder_of_labels(data):
    data.cfg.val_dataloader.dataset.data_prefix.seg_map_path = "ann/test"
    data.cfg.test_dataloader.dataset.data_prefix.seg_map_path = "ann/test"


@seg("no-images")
def another_suffix(data):
    data.each_dataset(img_suffix=".jpg")


@seg("no-images")
def empty_list(data):
    (data.root / "list.txt").write_text("")
    data.cfg.train_dataloader.dataset.ann_file = "list.txt"


@seg("file-missing")
def listed_but_gone(data):
    (data.root / "list.txt").write_text("0\n1\n2\n33\n")
    data.cfg.train_dataloader.dataset.ann_file = "list.txt"


@seg("file-listed-twice")
def listed_twice(data):
    (data.root / "list.txt").write_text("0\n1\n2\n1\n")
    data.cfg.train_dataloader.dataset.ann_file = "list.txt"


@seg("image-other-suffix")
def some_of_another_suffix(data):
    data.image("train", 0).rename(data.root / "img/train/0.PNG")


@seg("image-without-label")
def no_label(data):
    data.label("val", 7).rename(data.root / "ann/val/7.tif")


@seg("label-without-image")
def no_image(data):
    data.image("train", 3).unlink()


@seg("image-unreadable")
def cut(data):
    path = data.image("train", 1)
    path.write_bytes(path.read_bytes()[:500])


@seg("image-unreadable")
def empty(data):
    data.image("val", 6).write_bytes(b"")


@seg("image-unreadable")
def a_text(data):
    data.image("val", 6).write_text("<html>not found</html>")


@seg("image-unreadable")
def wrong_checksum(data):
    path = data.image("train", 1)
    content = bytearray(path.read_bytes())
    content[-20] ^= 255
    path.write_bytes(content)


@seg("image-unreadable")
def jpeg_filled_with_zeros(data):
    path = data.image("train", 1)
    save(picture(1), path, format="JPEG")
    content = path.read_bytes()
    path.write_bytes(content[:-300] + bytes(300))


@seg("image-format")
def unknown_to_opencv(data):
    save(picture(1), data.image("train", 1), format="TGA")


@seg("image-exif-corrupt")
def broken_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 1
    save(picture(1), data.image("train", 1), format="JPEG", exif=exif.tobytes()[:-6])


@seg("image-exif-turned", "label-not-turned")
def turned(data):
    turn(data, 6)


@seg("image-exif-turned", "label-perhaps-not-turned")
def turned_upside_down(data):
    turn(data, 3)


def turn(data, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(picture(1), data.image("train", 1), format="JPEG", exif=exif.tobytes())


@seg("image-channels")
def grey(data):
    edit(data.image("train", 0), lambda p: p[..., 0])


@seg("image-channels")
def transparent(data):
    edit(data.image("val", 8), lambda p: np.dstack([p, p[..., 0]]))


@seg("image-constant")
def black(data):
    edit(data.image("train", 0), np.zeros_like)


@seg("image-extreme-size")
def a_strip(data):
    save(np.resize(picture(0), (15, 200, 3)), data.image("train", 0))
    edit(data.label("train", 0), lambda m: np.resize(m, (15, 200)))


@seg("image-small-for-crop")
def large_crops(data):
    data.cfg.train_dataloader.dataset.pipeline[2].crop_size = (200, 64)


@seg("duplicate-within-split")
def copied_with_its_label(data):
    shutil.copy(data.image("train", 0), data.root / "img/train/9.png")
    shutil.copy(data.label("train", 0), data.root / "ann/train/9.png")


@seg("duplicate-label-conflict")
def copied_over(data):
    shutil.copy(data.image("train", 0), data.image("train", 1))


@seg("duplicate-across-splits")
def copied_to_val(data):
    shutil.copy(data.image("train", 0), data.image("val", 7))


@seg("duplicate-across-splits")
def encoded_anew_to_val(data):
    Image.open(data.image("train", 0)).save(data.image("val", 7), format="TIFF")


@seg("near-duplicate-across-splits")
def recompressed_to_val(data):
    save(picture(0), data.image("val", 7), format="JPEG", quality=60)


@seg("near-duplicate-across-splits")
def brightened_to_val(data):
    brighter = ImageEnhance.Brightness(Image.fromarray(picture(0))).enhance(0.8)
    save(brighter, data.image("val", 7))


@seg("near-duplicate-across-splits")
def mirrored_to_val(data):
    save(picture(0)[:, ::-1], data.image("val", 7))


@seg("split-shares-files")
def same_folder(data):
    for name in ("val", "test"):
        prefix = data.cfg.train_dataloader.dataset.data_prefix
        data.cfg[f"{name}_dataloader"].dataset.data_prefix = dict(prefix)


@seg("split-shares-files")
def linked(data):
    data.image("val", 7).unlink()
    data.image("val", 7).symlink_to(data.image("train", 2))


@seg("label-unreadable")
def cut_label(data):
    path = data.label("val", 7)
    path.write_bytes(path.read_bytes()[:60])


@seg("label-not-single-channel")
def colours(data):
    edit(data.label("train", 0), lambda m: np.array(PALETTE, np.uint8)[m % 3])


@seg("label-not-single-channel")
def colours_everywhere(data):
    each_label(data, lambda m: np.array(PALETTE, np.uint8)[m % 3])


@seg("label-not-single-channel")
def three_equal_channels(data):
    edit(data.label("train", 0), lambda m: np.dstack([m] * 3))


@seg("label-not-single-channel")
def grey_with_alpha(data):
    image = Image.open(data.label("train", 0)).convert("LA")
    image.save(data.label("train", 0))


@seg("label-lossy")
def jpeg_labels(data):
    edit(data.label("train", 0), lambda m: m, format="JPEG")


@seg("label-depth")
def sixteen_bits(data):
    edit(data.label("train", 0), lambda m: m.astype(np.uint16) * 257)


@seg("label-depth")
def fractions(data):
    edit(data.label("train", 0), lambda m: np.float32(m) / 2, format="TIFF")


@seg("label-depth")
def sixteen_bits_that_fit(data):
    edit(data.label("train", 0), lambda m: m.astype(np.uint16))


def with_palette(data, colours):
    for path in data.labels():
        image = Image.open(path)
        filled = [*colours, *[(0, 0, 0)] * (256 - len(colours))]
        image.putpalette([channel for colour in filled for channel in colour])
        image.save(path)


@seg("label-palette")
def a_palette(data):
    with_palette(data, PALETTE)


@seg("label-palette", "label-palette-order")
def a_sorted_palette(data):
    with_palette(data, [PALETTE[0], PALETTE[2], PALETTE[1]])


@seg("label-palette-lost")
def a_palette_read_by_opencv(data):
    with_palette(data, PALETTE)
    data.cfg.train_dataloader.dataset.pipeline[1].imdecode_backend = "cv2"
    for name in ("val", "test"):
        data.cfg[f"{name}_dataloader"].dataset.pipeline[1].imdecode_backend = "cv2"


@seg("label-size-differs")
def smaller_label(data):
    edit(data.label("train", 0), lambda m: m[:, :-1])


@seg("label-size-differs")
def transposed_label(data):
    edit(data.label("train", 0), np.transpose)


@seg("label-outside-classes")
def one_pixel_outside(data):
    edit(data.label("train", 0), lambda m: np.where(np.indices(SIZE).sum(0) == 0, 3, m))


@seg("label-outside-classes")
def a_class_without_name(data):
    each_label(data, lambda m: np.where((m == 0) & (np.indices(SIZE)[1] > 5), 3, m))


@seg("label-outside-classes")
def blended(data):
    def blend(labels):
        image = Image.fromarray(np.where(labels == 2, 200, labels))
        small = image.resize((16, 12), Image.Resampling.BICUBIC)
        wide = np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC))
        return np.where(np.indices(SIZE)[0] < 20, labels, wide)

    edit(data.label("train", 0), blend)


@seg("label-255-not-ignored", "ignore-index-differs")
def another_ignored_number(data):
    for head in (data.cfg.model.decode_head, *data.cfg.model.auxiliary_head):
        head.ignore_index = 254


@seg("ignore-index-differs")
def padded_with_a_class(data):
    data.cfg.model.data_preprocessor.seg_pad_val = 0


@seg("ignore-index-differs")
def a_loss_that_ignores_something_else(data):
    data.cfg.model.decode_head.loss_decode = [dict(type="DiceLoss", ignore_index=0)]


@seg("ignore-index-differs")
def a_metric_that_ignores_something_else(data):
    data.cfg.val_evaluator.ignore_index = 0


@seg("ignore-index-is-a-class", "ignore-index-differs", "label-255-not-ignored")
def ignoring_a_class(data):
    for head in (data.cfg.model.decode_head, *data.cfg.model.auxiliary_head):
        head.ignore_index = 0


@seg("label-255-is-a-class")
def black_and_white(data):
    each_label(data, lambda m: np.where(m == 0, 0, 255).astype(np.uint8))


@seg("label-255-is-a-class")
def black_and_white_in_val(data):
    for path in data.labels():
        white = 255 if path.parent.name == "val" else 1
        edit(path, lambda m, white=white: np.where(m == 0, 0, white).astype(np.uint8))
    use_classes(data, ("no", "yes"), PALETTE[:2])


@seg("reduce-zero-label-forgotten")
def counted_from_one(data):
    each_label(data, lambda m: np.where(m == 255, 255, m + 1).astype(np.uint8))


@seg("reduce-zero-label-forgotten")
def counted_from_one_in_val(data):
    for path in (data.root / "ann/val").iterdir():
        edit(path, lambda m: np.where(m == 255, 255, m + 1).astype(np.uint8))


@seg("reduce-zero-label-wrong")
def reduced_though_counted_from_zero(data):
    data.each_dataset(reduce_zero_label=True)


@seg("reduce-zero-label-differs", "reduce-zero-label-wrong")
def reduced_in_val_only(data):
    for name in ("val", "test"):
        data.cfg[f"{name}_dataloader"].dataset.reduce_zero_label = True


@seg("reduce-zero-label-differs")
def reduced_while_loading_only(data):
    data.cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label = True


@seg("reduce-zero-label-differs")
def reduced_in_tta_only(data):
    step = dict(type="LoadAnnotations", reduce_zero_label=True)
    data.cfg.tta_pipeline = [dict(type="TestTimeAug", transforms=[[step]])]


@seg("label-zero-ignored")
def zero_means_other(data):
    data.each_dataset(reduce_zero_label=True)
    each_label(data, lambda m: np.where(m == 0, 3, m).astype(np.uint8))
    edit(data.label("train", 0), lambda m: np.where(np.indices(SIZE)[0] > 44, 0, m))


@seg("label-all-ignored")
def nothing_labelled(data):
    edit(data.label("train", 0), lambda m: np.full_like(m, 255))


@seg("labels-constant")
def all_zero(data):
    each_label(data, np.zeros_like)


@seg("label-constant")
def one_zero(data):
    edit(data.label("train", 0), np.zeros_like)


@seg("label-repeats")
def label_copied_over(data):
    shutil.copy(data.label("train", 0), data.label("train", 1))


@seg("class-absent-train")
def never(data):
    use_classes(data, (*CLASSES, "car"), [*PALETTE, (9, 9, 9)])


@seg("class-absent-val")
def never_in_val(data):
    for path in (data.root / "ann/val").iterdir():
        edit(path, lambda m: np.where(m == 2, 0, m))


@seg("class-only-in-val")
def never_in_train(data):
    for path in (data.root / "ann/train").iterdir():
        edit(path, lambda m: np.where(m == 2, 0, m))


def use_classes(data, classes, palette):
    data.each_dataset(metainfo=dict(classes=classes, palette=palette))
    for head in (data.cfg.model.decode_head, *data.cfg.model.auxiliary_head):
        head.num_classes = len(classes)


@seg("num-classes")
def too_many_in_a_head(data):
    data.cfg.model.auxiliary_head[0].num_classes = 4


@seg("labels-not-loaded")
def no_loading_of_labels(data):
    del data.cfg.train_dataloader.dataset.pipeline[1]


@seg("folder-missing")
def no_seg_map_path(data):
    data.cfg.train_dataloader.dataset.data_prefix = dict(img_path="img/train")


@seg("class-weight-length")
def too_few_weights(data):
    data.cfg.model.decode_head.loss_decode.class_weight = [1.0, 2.0]


@seg("classes-missing", "num-classes")
def a_forgotten_comma(data):
    each_label(data, lambda m: np.where(m == 1, 0, 255).astype(np.uint8))
    data.each_dataset(metainfo=dict(classes=("ground"), palette=PALETTE[:1]))


@seg("classes-missing")
def no_classes(data):
    data.each_dataset(metainfo=dict())


@seg("class-names-repeat")
def a_name_twice(data):
    use_classes(data, ("ground", "tree", "tree"), PALETTE)


@seg("classes-differ")
def others_in_val(data):
    for name in ("val", "test"):
        classes = ("ground", "house", "tree")
        data.cfg[f"{name}_dataloader"].dataset.metainfo.classes = classes


@seg("palette-length")
def a_colour_too_few(data):
    data.each_dataset(metainfo=dict(classes=CLASSES, palette=PALETTE[:2]))


@seg("palette-values")
def no_colour(data):
    data.each_dataset(metainfo=dict(classes=CLASSES, palette=[*PALETTE[:2], (0, 0, 256)]))


@seg("palette-repeats")
def a_colour_twice(data):
    data.each_dataset(metainfo=dict(classes=CLASSES, palette=[*PALETTE[:2], PALETTE[0]]))


@seg("dataset-unusable")
def a_file_of_classes_that_data_refuse(data):
    data.cfg.train_dataloader.dataset.type = "ADE20KDataset"
    for key in ("img_suffix", "seg_map_suffix"):
        del data.cfg.train_dataloader.dataset[key]
    data.cfg.train_dataloader.dataset.reduce_zero_label = False


@pytest.fixture
def segmentation(tmp_path):
    return Segmentation(tmp_path)


def test_a_healthy_segmentation_set_has_no_findings(segmentation):
    report = segmentation.examine()
    assert codes(report) == set()
    train, val = report.sections
    assert [b.images for b in train.bins] == [6, 6, 6, 6]
    assert sum(b.amount for b in train.bins) == 6 * SIZE[0] * SIZE[1]
    assert val.split == "val and test"


@pytest.mark.parametrize("name", SEG)
def test_a_fault_of_a_segmentation_set_is_named(segmentation, name):
    fault, expected = SEG[name]
    fault(segmentation)
    assert codes(segmentation.examine()) == expected


# ------------------------------------------------------------------------------------- detection


class Detection(Data):
    """Six pictures for training, three for validation, two boxes of each of two classes in each."""

    def __init__(self, root):
        super().__init__(root)
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            (root / split).mkdir()
            for seed in seeds:
                save(picture(seed), root / split / f"{seed}.png")
            self.write(split, self.document(seeds))

    @staticmethod
    def document(seeds):
        images = [dict(id=s, file_name=f"{s}.png", width=SIZE[1], height=SIZE[0]) for s in seeds]
        annotations = []
        for seed in seeds:
            for i in range(4):
                x, y, w, h = 3 + 11 * i, 20 - 4 * i, 10 + seed, 16 - seed
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                entry = dict(image_id=seed, category_id=1 + i % 2, bbox=[x, y, w, h], area=w * h)
                number = len(annotations) + 1
                annotations.append(dict(entry, id=number, iscrowd=0, segmentation=[polygon]))
        categories = [dict(id=1, name="cat"), dict(id=2, name="dog")]
        return dict(images=images, annotations=annotations, categories=categories)

    def write(self, split, document):
        (self.root / f"{split}.json").write_text(json.dumps(document))

    def change(self, split, change):
        document = json.loads((self.root / f"{split}.json").read_text())
        change(document)
        self.write(split, document)

    def each_annotation(self, change):
        for split in ("train", "val"):
            self.change(split, lambda d: [change(a) for a in d["annotations"]])

    def config(self):
        pipeline = [
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs"),
        ]

        def loader(split):
            dataset = dict(
                type="CocoDataset",
                data_root=str(self.root),
                ann_file=f"{split}.json",
                data_prefix=dict(img=split),
                metainfo=dict(classes=("cat", "dog")),
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=pipeline,
            )
            return dict(batch_size=1, dataset=dataset)

        head = dict(type="Shared2FCBBoxHead", num_classes=2)
        return dict(
            default_scope="mmdet",
            train_dataloader=loader("train"),
            val_dataloader=loader("val"),
            test_dataloader=loader("val"),
            val_evaluator=dict(type="CocoMetric", ann_file=str(self.root / "val.json")),
            model=dict(
                type="MaskRCNN",
                rpn_head=dict(type="RPNHead", num_classes=1),
                roi_head=dict(
                    bbox_head=[head, head], mask_head=dict(type="FCNMaskHead", num_classes=2)
                ),
            ),
        )


DET = {}


def det(*expected):
    def keep(fault):
        DET[fault.__name__] = (fault, set(expected))
        return fault

    return keep


def first(change):
    """A change of the first annotation."""
    return lambda document: change(document["annotations"][0])


@det("json-missing")
def no_json(data):
    (data.root / "train.json").unlink()


@det("json-unreadable")
def cut_json(data):
    text = (data.root / "train.json").read_text()
    (data.root / "train.json").write_text(text[: len(text) // 2])


@det("json-keys")
def a_list(data):
    (data.root / "train.json").write_text("[]")


@det("json-keys", "no-boxes")
def no_annotations(data):
    data.change("train", lambda d: d.pop("annotations"))


@det("json-keys")
def no_area(data):
    data.change("train", first(lambda a: a.pop("area")))


@det("file-missing")
def listed_without_file(data):
    (data.root / "train/2.png").unlink()


@det("image-unreadable")
def cut_picture(data):
    (data.root / "train/2.png").write_bytes(b"\x89PNG")


@det("image-unlisted")
def file_without_entry(data):
    save(picture(77), data.root / "train/77.png")


@det("image-size-differs")
def width_and_height_swapped(data):
    data.change("train", lambda d: d["images"][0].update(width=SIZE[0], height=SIZE[1]))


@det("image-size-differs", "image-exif-turned")
def turned_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(0), data.root / "train/0.png", format="JPEG", exif=exif.tobytes())

    def fit(document):  # into the upright picture
        for i, annotation in enumerate(document["annotations"][:4]):
            x, y = 2 + 9 * i, 5
            shape = [[x, y, x + 9, y, x + 9, y + 9, x, y + 9]]
            annotation.update(bbox=[x, y, 9, 9], area=81, segmentation=shape)

    data.change("train", fit)


@det("image-id-repeats")
def an_image_id_twice(data):
    data.change("train", lambda d: d["images"].append(dict(d["images"][0])))


@det("file-name-repeats")
def a_file_under_two_ids(data):
    data.change("train", lambda d: d["images"][1].update(file_name="0.png"))
    (data.root / "train/1.png").unlink()


@det("annotation-id-repeats")
def an_annotation_id_twice(data):
    data.change("train", lambda d: d["annotations"][1].update(id=1))


@det("category-repeats")
def a_category_id_twice(data):
    data.change("train", lambda d: d["categories"].append(dict(id=1, name="cat")))


@det("category-repeats")
def a_category_name_twice(data):
    data.change("train", lambda d: d["categories"].append(dict(id=3, name="cat")))


@det("annotation-unknown-image")
def an_id_as_a_text(data):
    data.change("train", first(lambda a: a.update(image_id="0")))


@det("annotation-unknown-category")
def counted_from_zero(data):
    data.change("train", first(lambda a: a.update(category_id=0)))


@det("class-not-in-json", "category-not-in-classes")
def a_misspelt_class(data):
    data.each_dataset(metainfo=dict(classes=("cat", "dogs")))


@det("class-not-in-json", "category-not-in-classes", "classes-missing", "num-classes", "no-boxes")
def a_single_class_without_comma(data):
    data.each_dataset(metainfo=dict(classes=("kitten")))


@det("class-order")
def classes_in_another_order(data):
    data.each_dataset(metainfo=dict(classes=("dog", "cat")))


@det("category-not-in-classes", "num-classes")
def a_category_left_out(data):
    data.each_dataset(metainfo=dict(classes=("cat",)))


@det("class-absent-train")
def a_class_that_never_occurs(data):
    for split in ("train", "val"):
        data.change(split, lambda d: d["categories"].append(dict(id=3, name="cow")))
    data.each_dataset(metainfo=dict(classes=("cat", "dog", "cow")))
    for head in (*data.cfg.model.roi_head.bbox_head, data.cfg.model.roi_head.mask_head):
        head.num_classes = 3


@det("class-only-in-val")
def a_class_in_val_only(data):
    data.change("train", lambda d: [a.update(category_id=1) for a in d["annotations"]])


@det("num-classes")
def the_mask_head_of_coco(data):
    data.cfg.model.roi_head.mask_head.num_classes = 80


@det("num-classes")
def a_head_left_to_its_default(data):
    del data.cfg.model.roi_head.mask_head["num_classes"]


@det("num-classes")
def things_and_stuff(data):
    data.cfg.model.panoptic_head = dict(num_things_classes=2, num_stuff_classes=3)


@det("evaluator-ann-file")
def evaluated_on_train(data):
    data.cfg.val_evaluator.ann_file = str(data.root / "train.json")


@det("image-without-boxes")
def a_picture_without_boxes(data):
    data.change("train", lambda d: d["annotations"].__delitem__(slice(0, 4)))


@det("no-boxes")
def no_boxes(data):
    data.change("train", lambda d: d["annotations"].clear())


@det("box-malformed")
def not_a_number(data):
    data.change("train", first(lambda a: a.update(bbox=[1, 2, float("nan"), 4])))


@det("box-malformed")
def three_numbers(data):
    data.change("train", first(lambda a: a.update(bbox=[1, 2, 3])))


@det("box-no-area")
def negative_width(data):
    data.change("train", first(lambda a: a.update(bbox=[20, 20, -8, 10])))


@det("box-no-area")
def zero_height(data):
    data.change("train", first(lambda a: a.update(bbox=[20, 20, 8, 0])))


def with_boxes(data, to_other):
    """All boxes in another layout, without masks and with areas as before."""
    data.cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    data.cfg.val_dataloader.dataset.pipeline[1].with_mask = False
    data.cfg.test_dataloader.dataset.pipeline[1].with_mask = False
    data.each_annotation(lambda a: a.pop("segmentation"))
    data.each_annotation(lambda a: a.update(bbox=to_other(*a["bbox"])))


@det("box-xyxy")
def two_corners(data):
    with_boxes(data, lambda x, y, w, h: [x + 8, y + 8, x + w + 8, y + h + 8])


@det("box-centre")
def centres(data):
    def move(x, y, w, h):
        return (
            [64 - (x + w / 2) + 0.0, y + h / 2, w, h] if x > 30 else [x + w / 2, 47 - h / 2, w, h]
        )

    with_boxes(data, move)


@det("box-swapped")
def y_before_x(data):
    with_boxes(data, lambda x, y, w, h: [y, x + 10, h, w])


@det("box-normalised")
def shares_of_the_picture(data):
    with_boxes(data, lambda x, y, w, h: [x / 64, y / 48, w / 64, h / 48])


@det("box-outside")
def far_away(data):
    move(data, [100, 10, 10, 16])


@det("box-leaves-image")
def beyond_the_border(data):
    move(data, [58, 10, 20, 16])


@det("box-leaves-image")
def above_the_border(data):
    move(data, [10, -8, 20, 16])


@det("box-tiny", "mask-box-differs")
def half_a_pixel(data):
    data.change("train", first(lambda a: a.update(bbox=[3, 20, 0.5, 16], area=8)))


@det("box-repeats")
def a_box_twice(data):
    data.change("train", lambda d: d["annotations"].append(dict(d["annotations"][0], id=99)))


@det("box-two-classes")
def a_box_of_two_classes(data):
    other = dict(id=99, category_id=2)
    data.change("train", lambda d: d["annotations"].append(dict(d["annotations"][0], **other)))


@det("area-not-positive")
def area_zero(data):
    data.change("train", first(lambda a: a.update(area=0)))


@det("area-differs")
def area_of_something_else(data):
    data.change("train", first(lambda a: a.update(area=2000)))


@det("iscrowd")
def a_group(data):
    data.change("train", first(lambda a: a.update(iscrowd=1)))


@det("iscrowd", "iscrowd-values")
def a_number_of_things(data):
    data.change("train", first(lambda a: a.update(iscrowd=5)))


@det("annotation-ignored")
def an_ignored_box(data):
    data.change("train", first(lambda a: a.update(ignore=1)))


@det("mask-missing")
def no_masks(data):
    data.change("train", first(lambda a: a.pop("segmentation")))


@det("mask-malformed")
def two_points(data):
    data.change("train", first(lambda a: a.update(segmentation=[[1, 2, 3, 4]])))


@det("mask-malformed")
def a_flat_list(data):
    data.change("train", first(lambda a: a.update(segmentation=[1, 2, 3, 4, 5, 6])))


@det("mask-size-differs")
def run_lengths_of_another_size(data):
    mask = dict(size=[SIZE[1], SIZE[0]], counts=[SIZE[0] * SIZE[1]])
    data.change("train", first(lambda a: a.update(segmentation=mask)))


@det("mask-size-differs")
def run_lengths_that_are_too_few(data):
    mask = dict(size=[*SIZE], counts=[10, 20])
    data.change("train", first(lambda a: a.update(segmentation=mask)))


@det("mask-outside")
def polygon_beyond_the_border(data):
    shape = [[3, 20, 90, 20, 90, 36]]
    data.change("train", first(lambda a: a.update(segmentation=shape)))


@det("mask-box-differs")
def polygon_elsewhere(data):
    shape = [[40, 2, 50, 2, 50, 12]]
    data.change("train", first(lambda a: a.update(segmentation=shape)))


@det("split-shares-files")
def same_file(data):
    for name in ("val", "test"):
        dataset = data.cfg[f"{name}_dataloader"].dataset
        dataset.update(ann_file="train.json", data_prefix=dict(img="train"))
    data.cfg.val_evaluator.ann_file = str(data.root / "train.json")


@det("duplicate-across-splits")
def detection_copied_to_val(data):
    shutil.copy(data.root / "train/0.png", data.root / "val/7.png")


@det("duplicate-label-conflict")
def copied_with_other_boxes(data):
    shutil.copy(data.root / "train/0.png", data.root / "train/1.png")


def move(data, box):
    data.cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    data.change("train", first(lambda a: a.update(bbox=box, area=box[2] * box[3])))
    data.change("train", first(lambda a: a.pop("segmentation")))


@pytest.fixture
def detection(tmp_path):
    pytest.importorskip("mmdet", reason="needs mmdetection: pip install -e .[det]")
    return Detection(tmp_path)


def test_a_healthy_detection_set_has_no_findings(detection):
    report = detection.examine()
    assert codes(report) == set()
    assert [(b.amount, b.images) for b in report.sections[0].bins] == [(12, 6), (12, 6)]


@pytest.mark.parametrize(
    ("change", "code", "level"),
    [
        (dict(bbox=[44, 8, 21.5, 16], area=344), "box-leaves-image", "warning"),
        (dict(bbox=[44, 8, 30, 16], area=480), "box-leaves-image", "error"),
        (dict(iscrowd=1), "iscrowd", "note"),
    ],
)
def test_how_bad_a_fault_is_depends_on_how_far_it_goes(detection, change, code, level):
    detection.cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    detection.change("train", first(lambda a: [a.update(change), a.pop("segmentation")]))
    assert {f.code: f.level for f in detection.examine().findings} == {code: level}


@pytest.mark.parametrize(("factor", "level"), [(1, "note"), (257, "error")])
def test_deep_label_maps_are_an_error_only_where_numbers_are_lost(segmentation, factor, level):
    edit(segmentation.label("train", 0), lambda m: m.astype(np.uint16) * factor)
    assert {f.code: f.level for f in segmentation.examine().findings} == {"label-depth": level}


@pytest.mark.parametrize("name", DET)
def test_a_fault_of_a_detection_set_is_named(detection, name):
    fault, expected = DET[name]
    fault(detection)
    assert codes(detection.examine()) == expected


# ----------------------------------------------------------------------------------------- pairs


class Pairs(Data):
    """Tables of pictures and sounds with captions."""

    def __init__(self, root):
        super().__init__(root)
        (root / "files").mkdir()
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            lines = ["image\taudio\tcaption"]
            for seed in seeds:
                save(picture(seed), root / f"files/{seed}.png")
                noise = np.random.default_rng(seed).normal(0, 0.1, 16000)
                soundfile.write(root / f"files/{seed}.wav", noise, 16000)
                lines.append(f"files/{seed}.png\tfiles/{seed}.wav\tthing {seed}")
            (root / f"{split}.tsv").write_text("\n".join(lines))

    def config(self):
        def loader(split):
            dataset = dict(
                type="mmonepeace.PairDataset",
                data_root=str(self.root),
                ann_file=f"{split}.tsv",
                columns=dict(image="image", audio="audio", text="caption"),
                pipeline=[dict(type="mmonepeace.LoadImage"), dict(type="mmonepeace.LoadAudio")],
            )
            return dict(batch_size=1, dataset=dataset)

        return dict(
            train_dataloader=loader("train"),
            val_dataloader=loader("val"),
            test_dataloader=loader("val"),
            model=dict(type="mmonepeace.OnePeacePretrainer"),
        )

    def replace(self, old, new, split="train"):
        path = self.root / f"{split}.tsv"
        path.write_text(path.read_text().replace(old, new))


PAIRS = {}


def pairs(*expected):
    def keep(fault):
        PAIRS[fault.__name__] = (fault, set(expected))
        return fault

    return keep


@pairs("table-unusable")
def no_table(data):
    (data.root / "val.tsv").unlink()


@pairs("table-unusable")
def another_column(data):
    data.replace("caption", "text")


@pairs("file-missing")
def picture_gone(data):
    (data.root / "files/3.png").unlink()


@pairs("file-missing")
def sound_gone(data):
    (data.root / "files/3.wav").unlink()


@pairs("image-unreadable")
def picture_cut(data):
    (data.root / "files/3.png").write_bytes((data.root / "files/3.png").read_bytes()[:300])


@pairs("audio-unreadable")
def sound_cut(data):
    (data.root / "files/3.wav").write_bytes(b"RIFF")


@pairs("row-incomplete")
def no_caption(data):
    data.replace("thing 3", "")


@pairs("caption-empty")
def a_blank_caption(data):
    data.replace("thing 3", "  ")


@pairs("duplicate-within-split")
def pair_twice(data):
    shutil.copy(data.root / "files/3.png", data.root / "files/4.png")


@pairs("duplicate-across-splits")
def sound_in_both_in_another_format(data):
    wave, rate = soundfile.read(data.root / "files/3.wav", dtype="int16")
    soundfile.write(data.root / "files/7.wav", wave, rate, format="FLAC")


@pairs("split-shares-files")
def row_in_both(data):
    data.replace("files/7", "files/3", "val")


def as_classes(data, classes=("thing", "other")):
    """Each row with one of two classes, for a classifier."""
    for split in ("train", "val"):
        path = data.root / f"{split}.tsv"
        lines = path.read_text().splitlines()
        rows = [f"{line}\t{classes[i % 2]}" for i, line in enumerate(lines[1:])]
        path.write_text("\n".join([f"{lines[0]}\tclass", *rows]))
    for name in ("train", "val", "test"):
        dataset = data.cfg[f"{name}_dataloader"].dataset
        dataset.update(type="mmonepeace.LabelledDataset", label="class", classes=("thing", "other"))
        dataset["pipeline"] = [dict(type="LoadImageFromFile", imdecode_backend="pillow")]
        del dataset["columns"]
    data.cfg["model"] = dict(type="ImageClassifier", head=dict(num_classes=2))


@pairs("table-unusable")
def a_class_without_name_in_a_table(data):
    as_classes(data, ("thing", "else"))


@pairs("num-classes")
def a_classifier_of_imagenet(data):
    as_classes(data)
    data.cfg.model.head.num_classes = 1000


@pairs("class-absent-train")
def a_class_that_no_row_has(data):
    as_classes(data, ("thing", "thing"))


@pytest.fixture
def pair_data(tmp_path):
    return Pairs(tmp_path)


def test_a_healthy_set_of_pairs_has_no_findings(pair_data):
    assert codes(pair_data.examine()) == set()


@pytest.mark.parametrize("name", PAIRS)
def test_a_fault_of_a_set_of_pairs_is_named(pair_data, name):
    fault, expected = PAIRS[name]
    fault(pair_data)
    assert codes(pair_data.examine()) == expected


def test_a_healthy_set_of_classes_has_no_findings(pair_data):
    as_classes(pair_data)
    report = pair_data.examine()
    assert codes(report) == set()
    assert [b.images for b in report.sections[0].bins] == [3, 3]


# ------------------------------------------------------------------------------------------ rest


def test_every_finding_has_a_fault_that_gives_it():
    seeded = set().union(*(e for faults in (SEG, DET, PAIRS) for _, e in faults.values()))
    assert set(CATALOGUE) - seeded == {"sampled", "dataset-not-covered"}


def test_the_report_names_files_and_fixes(segmentation):
    one_pixel_outside(segmentation)
    text = str(segmentation.examine())
    for part in (
        f"{segmentation.label('train', 0)}: 3",
        "label maps have numbers outside 0 to 2",
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


def test_parts_of_a_split_are_counted_together(segmentation):
    first = segmentation.cfg.train_dataloader.dataset
    second = {**first, "data_prefix": dict(segmentation.cfg.val_dataloader.dataset.data_prefix)}
    both = dict(type="ConcatDataset", datasets=[first, second])
    segmentation.cfg.train_dataloader["dataset"] = both
    report = segmentation.examine()
    assert report.sections[0].bins[0].images == 9
    assert codes(report) == {"split-shares-files"}


def test_pictures_and_label_maps_may_share_a_folder(segmentation):
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
    save(picture(9), detection.root / "test/9.png")
    dataset = detection.cfg.test_dataloader.dataset
    dataset.update(ann_file="test.json", data_prefix=dict(img="test"))
    assert codes(detection.examine()) == set()


def test_streams_are_named_as_not_covered(pair_data):
    pair_data.cfg.train_dataloader["dataset"] = dict(type="mmonepeace.ShardDataset", shards="x")
    assert codes(pair_data.examine()) == {"dataset-not-covered"}


def test_other_data_sets_have_their_pictures_checked(segmentation):
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
    with pytest.raises(PreflightError, match=says):
        segmentation.examine()


def test_a_config_without_data_is_refused():
    with pytest.raises(PreflightError, match="no data"):
        examine(Config(dict(model=dict())))
