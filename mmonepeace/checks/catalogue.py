"""Every finding: its code, how severe it is, what is wrong, and how to fix it."""

from typing import Literal, NamedTuple

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


class Fault(NamedTuple):
    """An entry of the catalogue.

    Attributes:
        level: "error" ruins a run or its metrics, "warning" may, "note" does not. A check overrides
            it where it depends on how far the fault goes.
        what: what is wrong, a sentence without its full stop; {fields} are filled in by the check.
        fix: what to do, with a command or a line of a config where there is one.
        stops: whether tools refuse to start a run where it is an error: the run would crash, or
            train on something other than the config says.
    """

    level: Level
    what: str
    fix: str
    stops: bool


_NUMBER_ANNOTATIONS = (
    "number them from 1: for i, a in enumerate(coco['annotations'], 1): a['id'] = i"
)
# code: (level, or "stop" for an error that stops a run; what is wrong; how to fix it)
# fmt: off
_ENTRIES: dict[str, tuple[Level | Literal["stop"], str, str]] = {
    # data sets as a whole
    "dataset-not-covered": ("note", "{type} is not a table of samples: not checked",
        "nothing; its broken samples are counted and named during training."),
    "dataset-unusable": ("stop", "{type} says: {error}",
        "correct the options of the data set; a copy of its files elsewhere: --data-root DIR."),
    "folder-missing": ("stop", "{error}",
        "correct data_root, data_prefix or ann_file; a copy elsewhere: --data-root DIR."),
    "sampled": ("note", "only {limit:,} of {total:,} files were read",
        "leave out --limit to be sure."),
    # the config
    "labels-not-loaded": ("warning", "pipelines do not have LoadAnnotations, which loads labels",
        "dict(type='LoadAnnotations') after LoadImageFromFile, unless a transform of yours does it."),
    "classes-missing": ("stop", "{error}",
        "metainfo=dict(classes=('first', 'second')); a single name needs its comma: ('cat',)."),
    "class-names-repeat": ("error", "names occur in classes more than once",
        "metainfo=dict(classes=(...)): each name once."),
    "classes-differ": ("stop", "the data sets of the config differ in their classes or their order",
        "give all data sets of the config the same metainfo."),
    "palette-length": ("error", "the palette has {colours} colours for {classes} classes",
        "metainfo=dict(palette=[...]): one (red, green, blue) for each class, in their order."),
    "palette-values": ("error", "the palette has entries that are not colours",
        "write each colour as (red, green, blue), integers from 0 to 255."),
    "palette-repeats": ("warning", "classes share a colour: drawn predictions do not show which is which",
        "give each class a colour of its own in metainfo.palette."),
    "num-classes": ("stop", ("num_classes of the heads does not match the {classes} classes of the data"
        " ({names})"), "--cfg-options {options}"),
    "one-class": ("stop", ("a softmax over one class is always 1: loss and gradient are 0, accuracy and "
        "IoU 100 %, whatever the model says"), "name a second class, such as the background."),
    "class-weight-length": ("stop", "{path}.class_weight has {weights} values for {classes} classes",
        "one value for each class, and one for the background in heads that have it."),
    "reduce-zero-label-differs": ("error",
        "reduce_zero_label is not the same everywhere: label values mean different classes",
        "set reduce_zero_label to one value, in all data sets and in each LoadAnnotations."),
    "ignore-index-differs": ("error",
        "the decode head ignores {ignored}, other parts of the config a different value",
        "use 255 everywhere: mmsegmentation pads with it by default."),
    "ignore-index-is-a-class": ("warning", "the decode head ignores {ignored}, which is a class index",
        "ignore_index=255 in the heads, unless that class is to be ignored."),
    "evaluator-ann-file": ("stop",
        "{evaluator} compares with {path}, which is not the annotation file of its data set",
        "--cfg-options {evaluator}.ann_file={own}"),
    "masks-not-loaded": ("stop", "the model has a mask_head, but LoadAnnotations loads no masks",
        "LoadAnnotations(with_mask=True) in the pipeline, or mask_head=None in the model."),
    "metric-without-masks": ("stop", "{evaluator}.metric has 'segm', but the model has no mask_head",
        "--cfg-options {evaluator}.metric=bbox"),
    # weights and tokenizers, before a run only
    "weights-missing": ("stop", "weights {path} do not exist. This recipe needs {need}",
        ("--checkpoint PATH if they are elsewhere; from scratch: "
        "--cfg-options {part}=None")),
    "load-from-missing": ("stop", "load_from {path} does not exist. This recipe needs {need}",
        "--cfg-options load_from=PATH if it is elsewhere; without: --cfg-options load_from=None"),
    "stage-one-missing": ("stop", "stage_one {path} does not exist",
        ("name the checkpoint of the first stage with --stage-one CKPT, or train one: "
        "mmonepeace pretrain with a recipe of stage vl.")),
    "stage-one-unused": ("stop", "stage_one {path} is what stage al starts from, not this recipe",
        "to start from all weights of a checkpoint: --cfg-options load_from=CKPT"),
    "init-missing": ("stop", "{option} is {path}, which does not exist",
        "--cfg-options {option}=PATH if it is elsewhere; without: {part}=None"),
    "teacher-missing": ("stop", "teacher {path} does not exist. This recipe needs {need}",
        "--checkpoint PATH if it is elsewhere."),
    "weights-unusable": ("stop", "{error}", "use a copy of it, or another checkpoint."),
    "tokenizer-unusable": ("stop", "{error}", "--tokenizer JSON, or tokenizer=... in the pipelines."),
    "vocab-size": ("stop", ("{path} has {size} tokens, but model.backbone.modalities.text.vocab_size is "
        "{vocab_size}"), "set it to {size}, or use the tokenizer of the model."),
    # files
    "no-images": ("stop", "{error}",
        "correct data_root, data_prefix and img_suffix of the data set{hint}."),
    "file-missing": ("stop", "files are listed, but do not exist",
        "put the files there, correct data_root and data_prefix, or remove them from the list."),
    "file-listed-twice": ("warning", "files are listed more than once",
        "keep one line for each file."),
    "image-other-suffix": ("warning",
        "images are skipped: they do not end in {suffix}, or are broken links",
        "give them the suffix of the others, or move them away."),
    "image-unlisted": ("warning", "images are not listed in any COCO file and are skipped",
        "list them with their boxes, or move them away."),
    "image-without-label": ("stop", "images have no label map",
        "add the label maps, delete the images, or correct seg_map_path and seg_map_suffix."),
    "label-without-image": ("warning", "label maps have no image and are skipped",
        "add the images, or delete the label maps."),
    # images
    "image-unreadable": ("error", "images cannot be read: they are truncated, empty or not images",
        "get them again, or delete them with their labels."),
    "image-format": ("error", "OpenCV, which decodes images in training, does not support their format",
        "save them as .png, or LoadImageFromFile(imdecode_backend='pillow')."),
    "image-exif-corrupt": ("warning",
        "EXIF data are corrupt: readers differ in whether they rotate such images",
        "remove the EXIF data: exiftool -all= FILE"),
    "image-exif-turned": ("note", "images are rotated as their EXIF data say when they are read",
        ("check that their labels fit the upright image, or rotate the files themselves: "
        "mogrify -auto-orient FILE")),
    "image-channels": ("note", "images are not 8-bit RGB; all are {counts}",
        "nothing, if grey may become RGB, transparency be dropped, and 16 bits be reduced to 8."),
    "image-constant": ("warning", "images have a single colour",
        "look at them; delete failures with their labels."),
    "image-in-alpha": ("warning", ("images are drawn in their transparency alone, which is dropped: the "
        "model sees a single colour"),
        "give them a background: mogrify -background white -alpha remove FILE"),
    "image-extreme-size": ("warning",
        "images have a side below {smallest} pixels, or one over {ratio} times the other",
        "look at them: are there thumbnails or strips among them by mistake?"),
    "image-small-for-crop": ("warning", ("images have less than a quarter of the width or height of "
        "training crops, {width} x {height}: they become blurry, or tiny in a padded crop"),
        "leave them out, or lower crop_size of RandomCrop."),
    # copies
    "duplicate-within-split": ("warning", "images or audio clips occur more than once: they weigh more",
        "keep one of each."),
    "duplicate-label-conflict": ("error", "equal images have different labels: one of them is wrong",
        "keep the right one of each, delete the others with their labels."),
    "duplicate-across-splits": ("error", ("images or audio clips equal one of train{other}: scores on "
        "data seen in training are inflated"), "delete them from one of the two splits."),
    "near-duplicate-across-splits": ("warning", ("images look nearly the same as one of train: "
        "scores on data seen in training are inflated"),
        "look at the pairs; copies and frames of one video belong in the same split."),
    "split-shares-files": ("error", ("files are those of train: scores on data seen in training are "
        "inflated"), "give each split its own data_prefix, or its own list in ann_file."),
    # label maps
    "label-unreadable": ("error", "label maps cannot be read: they are truncated, empty or not images",
        "get them again, or delete them with their images."),
    "labels-unreadable": ("stop", ("too many label maps cannot be read: they are truncated, empty or not "
        "images"), "get them again, or delete them with their images; or raise max_broken."),
    "label-not-single-channel": ("stop", ("label maps have several channels, {kind}, instead of one "
        "channel with the index of a class in each pixel"),
        ("convert each colour to the index of its class, in one channel of 8 bits: "
        "labels[(colours == palette[i]).all(-1)] = i, then Image.fromarray(labels).save(FILE)")),
    "label-lossy": ("stop", "label maps have a lossy format, which changes values at the borders",
        "make them again from their source as .png; converting these keeps the damage."),
    "label-depth": ("stop",
        "label maps have more than 8 bits, and mmsegmentation truncates them to 8: {effect}",
        ("save them with 8 bits: Image.fromarray(labels.astype('uint8')).save(FILE); divide first if "
        "they have a scale.")),
    "label-palette": ("note", "label maps have a palette: their values count, not their colours",
        "nothing."),
    "label-palette-lost": ("stop",
        "LoadAnnotations(imdecode_backend='cv2') reads label maps with a palette as colours",
        "leave imdecode_backend out: Pillow reads their values."),
    "label-palette-order": ("stop", ("the colours of label maps are those of the classes in another "
        "order, as if a program that sorts palettes had changed the values"),
        "convert the colours to class indices: labels[(colours == palette[i]).all(-1)] = i"),
    "label-size-differs": ("error", "label maps differ in size from their image",
        ("do they belong to other images? Otherwise resize them: "
        "Image.open(LABEL).resize(image.size, Image.Resampling.NEAREST)")),
    "label-not-turned": ("error",
        "images are rotated as their EXIF data say, and their label maps are not",
        ("rotate the label maps as the images are, or remove the rotation of the images: "
        "exiftool -Orientation= FILE")),
    "label-perhaps-not-turned": ("warning", ("images are rotated as their EXIF data say, without a "
        "change of size; whether their label maps are rotated too cannot be determined"),
        "look at some; exiftool -Orientation= FILE leaves images as they are stored."),
    "label-outside-classes": ("stop", ("label maps have values outside the classes 0 to {last}"
        "{reduced}: {values}; {ignored} is ignored"), ("{hint}correct the files (255 for pixels without a "
        "class), name the missing classes, or set reduce_zero_label=True if labels start at 1.")),
    "label-255-not-ignored": ("stop", "255 occurs, and the head ignores {ignored} instead",
        "ignore_index=255 in the heads (the default)."),
    "label-255-is-a-class": ("stop", ("0 and 255 are the only values, and 255, {share:.1%} of the "
        "pixels, is ignored: are these black and white masks?"),
        "write 1 for white: Image.fromarray((labels == 255).astype('uint8')).save(FILE)"),
    "reduce-zero-label-forgotten": ("stop",
        "the values are 1 to {classes}, those of {classes} classes are 0 to {last}",
        "if they are counted from 1: reduce_zero_label=True in the data sets."),
    "reduce-zero-label-wrong": ("error", ("reduce_zero_label removes label 0, {share:.1%} of the pixels, "
        "and makes label 1 class 0; but no label is {classes}, so the last class never occurs: the "
        "values, {values}, look like classes counted from 0"),
        "reduce_zero_label=False in the data sets and in LoadAnnotations."),
    "label-zero-ignored": ("note", "reduce_zero_label removes label 0: {share:.1%} of the pixels",
        "nothing, if 0 means 'other'."),
    "label-all-ignored": ("warning", "label maps are ignored entirely: nothing to learn",
        "label them, or delete them with their images."),
    "labels-constant": ("error", "every label map has a single class: {classes}",
        "check whether the right files were written: Image.open(FILE).getextrema()"),
    "label-constant": ("note", "label maps have a single class", "nothing, if that is correct."),
    "label-repeats": ("warning", "different images have exactly the same label map",
        "check whether files were copied by mistake."),
    # occurrence
    "class-absent-train": ("warning", "classes never occur: they cannot be learnt",
        "add images with them, or leave them out of classes and num_classes."),
    "class-absent-val": ("warning", "classes never occur: they get no score",
        "move some images with them from train."),
    "class-only-in-val": ("error", "classes occur here and never in train: they cannot be learnt",
        "move some images with them to train, or leave the classes out."),
    # COCO files
    "json-missing": ("stop", "{error}",
        "correct data_root and ann_file; a copy elsewhere: --data-root DIR."),
    "json-unreadable": ("stop", "{path} is not JSON: {error}",
        "write it again; python -m json.tool FILE shows where it breaks."),
    "json-keys": ("stop", "values are missing or not of COCO's types",
        ("images need id, file_name, width, height; annotations id, image_id, category_id, bbox "
        "[x, y, width, height], area; categories id, name.")),
    "image-id-repeats": ("stop", "ids of images occur more than once: mmdetection skips all but one",
        "give each image its own id."),
    "annotation-id-zero": ("stop", ("the id of an annotation is 0, which pycocotools takes for 'none': a "
        "prediction that finds it counts as wrong"), _NUMBER_ANNOTATIONS),
    "annotation-id-text": ("stop",
        "ids of annotations are texts: pycocotools, which computes AP, stops", _NUMBER_ANNOTATIONS),
    "category-id-type": ("stop", ("ids of categories are not whole numbers: pycocotools, which computes AP, "
        "finds no category"), "write them as 1, 2, ..., here and in category_id."),
    "ids-of-two-types": ("stop", ("ids of images are partly texts, partly numbers: pycocotools, which "
        "sorts them, stops"), "write all as whole numbers, here and where annotations refer to them."),
    "annotation-id-repeats": ("stop", "ids of annotations occur more than once: mmdetection stops",
        _NUMBER_ANNOTATIONS),
    "file-name-repeats": ("error", "images are listed under several ids, which separates their boxes",
        "keep one id for each file, with all its annotations."),
    "category-repeats": ("stop", "categories share an id or a name",
        "one id for each name, one name for each id."),
    "annotation-unknown-image": ("stop",
        "annotations name an image that is not listed; ids are such as {ids}",
        "correct image_id, list the image, or delete the annotations."),
    "annotation-unknown-category": ("stop",
        "annotations name a category that is not listed; ids are such as {ids}",
        "correct category_id, list the category, or delete the annotations."),
    "class-not-in-json": ("stop", ("classes are not categories of {path}, which has {categories}; the "
        "indices of the others shift"), "write metainfo.classes letter by letter as in the file."),
    "class-order": ("stop", ("classes are not in the order of the categories of {path}: mmdetection "
        "numbers them in the file's order, so each gets the name of another class"),
        "metainfo=dict(classes={classes})"),
    "category-not-in-classes": ("warning", "categories are not classes: their boxes are skipped",
        "name them in metainfo.classes and raise num_classes, if they are to be found."),
    "image-size-differs": ("error", "images differ from the (width, height) in their COCO file",
        "correct width and height; if the files were scaled, the boxes must be too."),
    "image-without-boxes": ("note", "images have no box of a class; {use}",
        "nothing, if they show nothing."),
    "no-boxes": ("stop", ("none of {annotations:,} annotations is a box that mmdetection learns from: of a "
        "class, in an image of the file, a pixel wide and high or more, with an area above 0, no crowd"),
        "add annotations; classes must be categories of the file, boxes x, y, width, height in pixels."),
    # boxes
    "box-malformed": ("stop", "boxes are not four finite numbers",
        "write bbox as [x, y, width, height] in pixels."),
    "box-negative": ("stop", "boxes have a negative width or height",
        "write bbox as [x, y, width, height] in pixels, x and y of the upper left corner."),
    "box-no-area": ("error", "boxes have no area: width or height is 0",
        "delete them, or write bbox as [x, y, width, height] in pixels."),
    "box-normalised": ("stop", "the boxes are fractions of the image, from 0 to 1, not pixels",
        "multiply x and width by the image's width, y and height by its height; area too."),
    "box-xyxy": ("stop", ("{share:.0%} of the boxes extend beyond their images, and all would fit if bbox "
        "were two corners, [x1, y1, x2, y2]"),
        "write bbox as [x1, y1, x2 - x1, y2 - y1]; area is width * height."),
    "box-centre": ("stop", ("{share:.0%} of the boxes extend beyond their images, and all would fit if bbox "
        "were the centre, width and height"),
        "write bbox as [x - width / 2, y - height / 2, width, height]."),
    "box-swapped": ("stop", ("{share:.0%} of the boxes extend beyond their images, and all would fit if bbox "
        "were [y, x, height, width]"), "write bbox as [x, y, width, height]."),
    "box-outside": ("error", "boxes are outside their images", "correct them, or delete them."),
    "box-leaves-image": ("warning",
        "boxes extend beyond their images, by up to {reach:.0f} pixels and {most:.0%} of their area",
        ("clip them at the borders, so that x + width is at most the image's width and y + height its "
        "height; or are they [x1, y1, x2, y2]?")),
    "box-tiny": ("warning", "boxes are less than a pixel wide or high: mmdetection drops them",
        "delete them, or write them in pixels."),
    "box-repeats": ("warning", "boxes occur more than once", "keep one of each."),
    "box-two-classes": ("warning", "equal boxes have different classes",
        "keep the right one, unless one object covers the other."),
    "area-not-positive": ("error",
        "annotations have an area of 0 or below: mmdetection drops their boxes",
        "area = width * height, or that of the mask."),
    "area-differs": ("warning", "area is far from width * height; AP by object size depends on it",
        "area = width * height, or that of the mask."),
    "iscrowd": ("note", "boxes are crowds (iscrowd), which training ignores",
        "nothing; iscrowd=0 for boxes of single objects."),
    "iscrowd-values": ("stop", "iscrowd or ignore is neither 0 nor 1",
        "write 0, or 1 for a crowd that is to be ignored."),
    "iscrowd-missing": ("stop", "annotations have no iscrowd: pycocotools, which computes AP, stops",
        "add 'iscrowd': 0: for a in coco['annotations']: a.setdefault('iscrowd', 0)"),
    "annotation-ignored": ("note", "boxes have ignore=1, which training leaves out",
        "nothing; remove the key from boxes that are to be found."),
    # masks
    "mask-missing": ("stop",
        "LoadAnnotations(with_mask=True) or the metric needs masks; annotations have no segmentation",
        "add them, or use a recipe without masks: with_mask=False, mask_head=None and metric=bbox."),
    "mask-malformed": ("stop", "masks are neither polygons nor run-length encodings in COCO's format",
        ("segmentation is [[x1, y1, x2, y2, x3, y3, ...], ...] or "
        "{{size: [height, width], counts: ...}}; counts of pycocotools are bytes: counts.decode(), not "
        "str(counts).")),
    "mask-size-differs": ("stop", "run-length masks differ in size from their image",
        "size is [height, width]; encode them again from the masks."),
    "mask-outside": ("warning", "polygons extend beyond their images",
        "clip them at the borders; were they drawn on the image at another size?"),
    "mask-box-differs": ("warning", "polygons overlap with their box by less than half",
        "make the box from the polygon, or correct the polygon."),
    # tables
    "phrase-box-normalised": ("stop", "boxes are fractions of the image, from 0 to 1, not pixels",
        "multiply x0 and x1 by the image's width, y0 and y1 by its height."),
    "phrase-box-outside": ("stop",
        "boxes extend beyond their images, by up to {reach:.0f} pixels and {most:.0%} of their area",
        ("write x0,y0,x1,y1 in pixels of the image as it is shown: were they drawn on it at another "
        "size, or rotated as its EXIF data say?")),
    "table-unusable": ("stop", "{error}", "correct ann_file, columns or classes of the data set; a copy elsewhere: --data-root DIR."),
    "row-without-target": ("warning", "rows have no target: none of their answers is one of the classes",
        "correct the answers, or delete the rows, unless rare answers are left out on purpose."),
    "row-incomplete": ("warning",
        "rows with these values lack a value in another column and are left out",
        "fill in what is missing, or delete the rows."),
    "caption-empty": ("error", "captions are empty after tokenisation",
        "write captions, or delete the rows."),
    "audio-cut": ("warning", "audio clips are damaged: only what comes before the damage is used",
        "get them again."),
    "audio-cancels": ("warning", ("the channels of audio clips cancel each other: the model gets their "
        "mean, which is silent"),
        "keep one channel, or invert one: ffmpeg -i FILE -af 'pan=mono|c0=c0' NEW"),
    "audio-short": ("warning", ("audio clips are shorter than a frame of the model: what repeating makes "
        "of them is a hum"), "get longer ones, or delete their rows."),
    "audio-silent": ("warning", "audio clips are silent", "listen to them; delete failures."),
    "video-unreadable": ("error", "videos cannot be read", "get them again, or delete their rows."),
    "audio-unreadable": ("error", "audio clips cannot be read", "get them again, or delete their rows."),
}
# fmt: on
CATALOGUE: dict[str, Fault] = {
    code: Fault("error" if level == "stop" else level, what, fix, level == "stop")
    for code, (level, what, fix) in _ENTRIES.items()
}
# Faults whose error also says what the recipe needs.
NOT_FOUND = frozenset({
    "dataset-unusable", "file-missing", "folder-missing", "json-missing", "no-images",
    "table-unusable", "weights-missing",
})  # fmt: skip
# Faults that a run is told of even where they do not stop it: typing errors look like them.
TOLD = frozenset({"phrase-box-outside", "row-without-target"})
