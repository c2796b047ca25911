"""A healthy COCO set, and ways to break it."""

import json
import shutil

from PIL import Image

from tests.checks.data import SIZE, Data, random_image, save


class Detection(Data):
    """Six images for training, three for validation, two boxes of each of two classes in each."""

    def __init__(self, root):
        super().__init__(root)
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            (root / split).mkdir()
            for seed in seeds:
                save(random_image(seed), root / split / f"{seed}.png")
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


@det("json-keys", "class-not-in-json", "annotation-unknown-category", "no-boxes")
def no_categories(data):
    data.change("train", lambda d: d.pop("categories"))


@det("json-keys", "class-not-in-json", "no-images", "no-boxes", "image-unlisted")
def entries_of_another_type(data):
    data.write("train", dict(images=3, annotations=[], categories=[7]))


for _key in ("id", "image_id", "category_id", "bbox", "area"):
    DET[f"annotation_without_{_key}"] = (
        lambda data, key=_key: data.change("train", first(lambda a: a.pop(key))),
        {"json-keys"},
    )


@det("folder-missing")
def no_folder_of_images(data):
    shutil.rmtree(data.root / "train")


@det("folder-missing")
def no_name_of_the_folder(data):
    data.cfg.train_dataloader.dataset.data_prefix = dict(img_path="train")


@det("file-missing")
def listed_without_file(data):
    (data.root / "train/2.png").unlink()


@det("image-unreadable")
def cut_image(data):
    (data.root / "train/2.png").write_bytes(b"\x89PNG")


@det("image-unlisted")
def file_without_entry(data):
    save(random_image(77), data.root / "train/77.png")


@det("image-size-differs")
def width_and_height_swapped(data):
    data.change("train", lambda d: d["images"][0].update(width=SIZE[0], height=SIZE[1]))


@det("image-size-differs", "image-exif-turned")
def turned_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(random_image(0), data.root / "train/0.png", format="JPEG", exif=exif.tobytes())

    def fit(document):  # into the upright image
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


@det("annotation-id-zero")
def annotations_counted_from_zero(data):
    data.each_annotation(lambda a: a.update(id=a["id"] - 1))


@det("annotation-id-text")
def texts_as_ids(data):
    data.change("val", first(lambda a: a.update(id="a1")))


@det("ids-of-two-types")
def a_text_among_the_ids_of_images(data):
    def rename(document):
        document["images"][0]["id"] = "first"
        for annotation in document["annotations"][:4]:
            annotation["image_id"] = "first"

    data.change("train", rename)


def _renumber(data, change):
    def renumber(document):
        for category in document["categories"]:
            category["id"] = change(category["id"])
        for annotation in document["annotations"]:
            annotation["category_id"] = change(annotation["category_id"])

    data.change("train", renumber)


@det("category-id-type")
def categories_with_texts_as_ids(data):
    _renumber(data, str)


@det("category-id-type")
def categories_with_fractions_as_ids(data):
    _renumber(data, float)


@det("json-unreadable")
def a_byte_order_mark(data):
    path = data.root / "train.json"
    path.write_text("\ufeff" + path.read_text(), "utf-8")


@det("json-unreadable")
def brackets_without_end(data):
    (data.root / "train.json").write_text("[" * 100_000)


@det("json-keys", "annotation-unknown-image", "image-unlisted")
def an_image_without_width(data):
    data.change("train", lambda d: d["images"][0].pop("width"))


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


@det("category-not-in-classes")
def a_category_left_out_of_the_heads_too(data):
    data.each_dataset(metainfo=dict(classes=("cat",)))
    for head in (*data.cfg.model.roi_head.bbox_head, data.cfg.model.roi_head.mask_head):
        head.num_classes = 1


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


@det("masks-not-loaded")
def a_mask_head_without_masks(data):
    data.cfg.train_dataloader.dataset.pipeline[1].with_mask = False


@det("metric-without-masks", "mask-missing")
def a_metric_of_masks_without_a_head(data):
    without_masks(data)
    data.cfg.val_evaluator.metric = ["bbox", "segm"]


@det("image-without-boxes")
def an_image_without_boxes(data):
    data.change("train", lambda d: d["annotations"].__delitem__(slice(0, 4)))


@det("no-boxes")
def no_boxes(data):
    data.change("train", lambda d: d["annotations"].clear())


@det("no-boxes", "annotation-unknown-image")
def no_boxes_of_listed_images(data):
    data.change("train", lambda d: [a.update(image_id=99) for a in d["annotations"]])


@det("no-boxes", "annotation-unknown-category")
def no_boxes_of_listed_categories(data):
    data.change("train", lambda d: [a.update(category_id=7) for a in d["annotations"]])


@det("no-boxes", "area-not-positive")
def no_boxes_with_an_area(data):
    data.change("train", lambda d: [a.update(area=0) for a in d["annotations"]])


@det("no-boxes", "no-images", "annotation-unknown-image", "image-unlisted")
def no_images_listed(data):
    data.change("train", lambda d: d["images"].clear())


@det("box-malformed")
def not_a_number(data):
    data.change("train", first(lambda a: a.update(bbox=[1, 2, float("nan"), 4])))


@det("box-malformed")
def three_numbers(data):
    data.change("train", first(lambda a: a.update(bbox=[1, 2, 3])))


@det("box-negative")
def negative_width(data):
    data.change("train", first(lambda a: a.update(bbox=[20, 20, -8, 10])))


@det("box-no-area")
def zero_height(data):
    data.change("train", first(lambda a: a.update(bbox=[20, 20, 8, 0])))


def without_masks(data):
    """A detector of boxes only, and data that have no masks."""
    del data.cfg.model.roi_head["mask_head"]
    for loader in ("train", "val", "test"):
        data.cfg[f"{loader}_dataloader"].dataset.pipeline[1].with_mask = False
    data.each_annotation(lambda a: a.pop("segmentation"))


def with_boxes(data, to_other):
    """All boxes in another layout, without masks and with areas as before."""
    without_masks(data)
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
def fractions_of_the_image(data):
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


for _key, _value in (("iscrowd", 5), ("iscrowd", "false"), ("iscrowd", None), ("ignore", "0")):
    DET[f"{_key} is {_value!r}"] = (
        lambda data, change={_key: _value}: data.change("train", first(lambda a: a.update(change))),
        {"iscrowd-values"},
    )


@det("iscrowd-missing")
def no_iscrowd_to_evaluate_with(data):
    data.each_annotation(lambda a: a.pop("iscrowd"))


@det("iscrowd", "no-boxes")
def groups_only(data):
    data.change("train", lambda d: [a.update(iscrowd=1) for a in d["annotations"]])


@det("annotation-ignored")
def an_ignored_box(data):
    data.change("train", first(lambda a: a.update(ignore=1)))


@det("mask-missing")
def no_masks(data):
    data.change("train", first(lambda a: a.pop("segmentation")))


# pycocotools crashes, hangs, reads beyond the text or takes another shape with each of these.
_RUNS = [10, 20, SIZE[0] * SIZE[1] - 30]
for _name, _mask in {
    "two points": [[1, 2, 3, 4]],
    "an odd number": [[1, 2, 3, 4, 5, 6, 7]],
    "a flat list": [1, 2, 3, 4, 5, 6],
    "pairs": [[[1, 2], [3, 4], [5, 6]]],
    "a good and a bad polygon": [[1, 2, 9, 2, 9, 9], [1, 2]],
    "texts": [["1", "2", "3", "4", "5", "6"]],
    "not a number": [[1, 2, float("nan"), 4, 5, 6]],
    "far away": [[1, 2, 1e9, 4, 5, 6]],
    "a text": "1 2 3 4 5 6",
    "run lengths of bytes": dict(size=[*SIZE], counts="b'0`1'"),
    "run lengths that are cut": dict(size=[*SIZE], counts="0`"),
    "run lengths that are too few": dict(size=[*SIZE], counts=[10, 20]),
    "run lengths that go back": dict(size=[*SIZE], counts=[10, -20, 10]),
    "run lengths as texts": dict(size=[*SIZE], counts=["10", "20"]),
    "run lengths without a size": dict(counts=_RUNS),
    "no run lengths": dict(size=[*SIZE]),
    "run lengths in a list": [dict(size=[*SIZE], counts=_RUNS)],
}.items():
    DET[f"mask: {_name}"] = (
        lambda data, mask=_mask: data.change("train", first(lambda a: a.update(segmentation=mask))),
        {"mask-malformed"},
    )


@det("mask-size-differs")
def run_lengths_of_another_size(data):
    mask = dict(size=[SIZE[1], SIZE[0]], counts=_RUNS)
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
    without_masks(data)
    data.change("train", first(lambda a: a.update(bbox=box, area=box[2] * box[3])))
