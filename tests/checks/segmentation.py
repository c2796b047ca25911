"""A healthy segmentation set, and ways to break it."""

import shutil

import numpy as np
from PIL import Image, ImageEnhance

from tests.checks.data import CLASSES, PALETTE, SIZE, Data, edit, random_image, save


class Segmentation(Data):
    """Six images for training, three for validation; each label map has all classes and 255."""

    def __init__(self, root):
        super().__init__(root)
        for split, seeds in (("train", range(6)), ("val", range(6, 9))):
            for folder in ("img", "ann"):
                (root / folder / split).mkdir(parents=True)
            for seed in seeds:
                save(random_image(seed), self.image(split, seed))
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
def an_empty_folder(data):
    for path in (data.root / "img/train").iterdir():
        path.unlink()


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
    save(random_image(1), path, format="JPEG")
    content = path.read_bytes()
    path.write_bytes(content[:-300] + bytes(300))


@seg("image-format")
def unknown_to_opencv(data):
    save(random_image(1), data.image("train", 1), format="TGA")


@seg("image-exif-corrupt")
def broken_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 1
    save(random_image(1), data.image("train", 1), format="JPEG", exif=exif.tobytes()[:-6])


@seg("image-exif-turned", "label-not-turned")
def turned(data):
    turn(data, 6)


@seg("image-exif-turned", "label-perhaps-not-turned")
def turned_upside_down(data):
    turn(data, 3)


def turn(data, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(random_image(1), data.image("train", 1), format="JPEG", exif=exif.tobytes())


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
    save(np.resize(random_image(0), (15, 200, 3)), data.image("train", 0))
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
    save(random_image(0), data.image("val", 7), format="JPEG", quality=60)


@seg("near-duplicate-across-splits")
def brightened_to_val(data):
    brighter = ImageEnhance.Brightness(Image.fromarray(random_image(0))).enhance(0.8)
    save(brighter, data.image("val", 7))


@seg("near-duplicate-across-splits")
def mirrored_to_val(data):
    save(random_image(0)[:, ::-1], data.image("val", 7))


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


@seg("labels-unreadable")
def two_of_six_labels(data):
    for seed in (1, 2):
        data.label("train", seed).write_bytes(b"")


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


@seg("classes-missing", "one-class")
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


@seg("one-class", "label-outside-classes")
def one_class(data):
    data.each_dataset(metainfo=dict(classes=("tree",)))
    for head in (data.cfg.model.decode_head, *data.cfg.model.auxiliary_head):
        head.num_classes = 1


@seg("one-class")
def one_value_without_sigmoid(data):
    data.each_dataset(metainfo=dict(classes=CLASSES[:2]))
    each_label(data, lambda labels: np.where(labels == 2, 1, labels))
    for head in (data.cfg.model.decode_head, *data.cfg.model.auxiliary_head):
        head.update(num_classes=2, out_channels=1)


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
