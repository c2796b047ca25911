"""Every finding that there is: its code, how bad it is, and what to do about it."""

from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

# An error ruins a run or its figures, a warning may, a note does not. Where level or fix depend on
# what is found, the check overrides them.
CATALOGUE: dict[str, tuple[Level, str]] = {
    # data sets as a whole
    "dataset-not-covered": (
        "note",
        "nothing; what is broken in it is counted and named during training.",
    ),
    "dataset-unusable": (
        "error",
        "correct data_root, data_prefix, ann_file and metainfo of the data set.",
    ),
    "folder-missing": (
        "error",
        "correct data_root, data_prefix or ann_file; a copy elsewhere: --data-root DIR.",
    ),
    "sampled": ("note", "leave out --limit to be sure."),
    # the config
    "labels-not-loaded": (
        "warning",
        "dict(type='LoadAnnotations') after LoadImageFromFile, unless a transform of yours does it.",
    ),
    "classes-missing": (
        "error",
        "metainfo=dict(classes=('first', 'second')); a single name needs its comma: ('cat',).",
    ),
    "class-names-repeat": ("error", "metainfo=dict(classes=(...)): each name once."),
    "classes-differ": ("error", "give all data sets of the config the same metainfo."),
    "palette-length": (
        "error",
        "metainfo=dict(palette=[...]): one (red, green, blue) for each class, in their order.",
    ),
    "palette-values": (
        "error",
        "write each colour as (red, green, blue), whole numbers from 0 to 255.",
    ),
    "palette-repeats": ("warning", "give each class a colour of its own in metainfo.palette."),
    "num-classes": ("error", "set num_classes of each head to the number of classes."),
    "class-weight-length": (
        "error",
        "one number for each class, and one for 'nothing' in heads that have it.",
    ),
    "reduce-zero-label-differs": (
        "error",
        "set reduce_zero_label to one value, in all data sets and in each LoadAnnotations.",
    ),
    "ignore-index-differs": (
        "error",
        "use 255 everywhere: it is what mmsegmentation pads with by default.",
    ),
    "ignore-index-is-a-class": (
        "warning",
        "ignore_index=255 in the heads, unless that class is to be ignored.",
    ),
    "evaluator-ann-file": ("error", "let the evaluator name the ann_file of its data set."),
    # files
    "no-images": ("error", "correct data_root, data_prefix and img_suffix of the data set."),
    "file-missing": (
        "error",
        "put the files there, correct data_root and data_prefix, or take them off the list.",
    ),
    "file-listed-twice": ("warning", "keep one line for each file."),
    "image-other-suffix": ("warning", "give them the suffix of the others, or move them away."),
    "image-unlisted": ("warning", "list them with their boxes, or move them away."),
    "image-without-label": (
        "error",
        "add the label maps, delete the pictures, or correct seg_map_path and seg_map_suffix.",
    ),
    "label-without-image": ("warning", "add the pictures, or delete the label maps."),
    # pictures
    "image-unreadable": ("error", "get them again, or delete them with their labels."),
    "image-format": (
        "error",
        "save them as .png, or LoadImageFromFile(imdecode_backend='pillow').",
    ),
    "image-exif-corrupt": ("warning", "remove the EXIF data: exiftool -all= FILE"),
    "image-exif-turned": (
        "note",
        (
            "see that their labels belong to the upright picture, or turn the files themselves: "
            "mogrify -auto-orient FILE"
        ),
    ),
    "image-channels": (
        "note",
        "nothing, if grey may become RGB, transparency be dropped, and 16 bits be cut to 8 of them.",
    ),
    "image-constant": ("warning", "look at them; delete failures with their labels."),
    "image-extreme-size": ("warning", "look at them: did thumbnails or strips get in by mistake?"),
    "image-small-for-crop": ("warning", "leave them out, or lower crop_size of RandomCrop."),
    # copies
    "duplicate-within-split": ("warning", "keep one of each."),
    "duplicate-label-conflict": (
        "error",
        "keep the right one of each, delete the others with their labels.",
    ),
    "duplicate-across-splits": ("error", "delete them from one of the two splits."),
    "near-duplicate-across-splits": (
        "warning",
        "look at the pairs; copies and frames of one film belong in the same split.",
    ),
    "split-shares-files": (
        "error",
        "give each split its own data_prefix, or its own list in ann_file.",
    ),
    # label maps
    "label-unreadable": ("error", "get them again, or delete them with their pictures."),
    "label-not-single-channel": (
        "error",
        (
            "turn each colour into the number of its class, in one channel of 8 bits: "
            "labels[(colours == palette[i]).all(-1)] = i, then Image.fromarray(labels).save(FILE)"
        ),
    ),
    "label-lossy": (
        "error",
        "make them again from their source as .png; converting these keeps the damage.",
    ),
    "label-depth": (
        "note",
        (
            "save them with 8 bits: Image.fromarray(labels.astype('uint8')).save(FILE); divide first if "
            "they have a scale."
        ),
    ),
    "label-palette": ("note", "nothing."),
    "label-palette-lost": ("error", "leave imdecode_backend out: Pillow reads their numbers."),
    "label-palette-order": (
        "error",
        "turn the colours into numbers: labels[(colours == palette[i]).all(-1)] = i",
    ),
    "label-size-differs": (
        "error",
        (
            "are they those of other pictures? Else scale them: "
            "Image.open(LABEL).resize(picture.size, Image.Resampling.NEAREST)"
        ),
    ),
    "label-not-turned": (
        "error",
        (
            "turn the label maps as the pictures are, or take the turn from the pictures: "
            "exiftool -Orientation= FILE"
        ),
    ),
    "label-perhaps-not-turned": (
        "warning",
        "look at some; exiftool -Orientation= FILE keeps pictures as they lie.",
    ),
    "label-outside-classes": (
        "error",
        "correct the files (255 for what belongs to no class), or name the missing classes.",
    ),
    "label-255-not-ignored": ("error", "ignore_index=255 in the heads (the default)."),
    "label-255-is-a-class": (
        "error",
        "write 1 for white: Image.fromarray((labels == 255).astype('uint8')).save(FILE)",
    ),
    "reduce-zero-label-forgotten": (
        "error",
        "if they are counted from 1: reduce_zero_label=True in the data sets.",
    ),
    "reduce-zero-label-wrong": (
        "error",
        "reduce_zero_label=False in the data sets and in LoadAnnotations.",
    ),
    "label-zero-ignored": ("note", "nothing, if 0 means 'other'."),
    "label-all-ignored": ("warning", "label them, or delete them with their pictures."),
    "labels-constant": (
        "error",
        "see whether the right files were written: Image.open(FILE).getextrema()",
    ),
    "label-constant": ("note", "nothing, if so it is."),
    "label-repeats": ("warning", "see whether files were copied by mistake."),
    # occurrence
    "class-absent-train": (
        "warning",
        "add pictures with them, or leave them out of classes and num_classes.",
    ),
    "class-absent-val": ("warning", "move some pictures with them from train."),
    "class-only-in-val": (
        "error",
        "move some pictures with them to train, or leave the classes out.",
    ),
    # COCO files
    "json-missing": (
        "error",
        "correct data_root and ann_file; a copy elsewhere: --data-root DIR.",
    ),
    "json-unreadable": ("error", "write it again; python -m json.tool FILE shows where it breaks."),
    "json-keys": (
        "error",
        (
            "images need id, file_name, width, height; annotations id, image_id, category_id, bbox "
            "[x, y, width, height], area; categories id, name."
        ),
    ),
    "image-id-repeats": ("error", "give each picture its own id."),
    "annotation-id-repeats": ("error", "number the annotations anew: mmdetection stops."),
    "file-name-repeats": ("error", "keep one id for each file, with all its annotations."),
    "category-repeats": ("error", "one id for each name, one name for each id."),
    "annotation-unknown-image": ("error", "correct image_id, or list the picture."),
    "annotation-unknown-category": ("error", "correct category_id, or list the category."),
    "class-not-in-json": ("error", "write metainfo.classes letter by letter as in the file."),
    "class-order": ("error", "put metainfo.classes in the order of the file."),
    "category-not-in-classes": (
        "warning",
        "name them in metainfo.classes and raise num_classes, if they are to be found.",
    ),
    "image-size-differs": (
        "error",
        "correct width and height; if the files were scaled, the boxes must be too.",
    ),
    "image-without-boxes": ("note", "nothing, if they show nothing."),
    "no-boxes": ("error", "add annotations, and see that classes are the categories of the file."),
    # boxes
    "box-malformed": ("error", "write bbox as [x, y, width, height] in pixels."),
    "box-no-area": ("error", "delete them, or write bbox as [x, y, width, height] in pixels."),
    "box-normalised": (
        "error",
        "multiply x and width by the picture's width, y and height by its height; area too.",
    ),
    "box-xyxy": ("error", "write bbox as [x1, y1, x2 - x1, y2 - y1]; area is width * height."),
    "box-centre": ("error", "write bbox as [x - width / 2, y - height / 2, width, height]."),
    "box-swapped": ("error", "write bbox as [x, y, width, height]."),
    "box-outside": ("error", "correct them, or delete them."),
    "box-leaves-image": (
        "warning",
        (
            "cut them off at the borders, so that x + width is at most the picture's width and y + height "
            "its height; or are they [x1, y1, x2, y2]?"
        ),
    ),
    "box-tiny": ("warning", "delete them, or write them in pixels."),
    "box-repeats": ("warning", "keep one of each."),
    "box-two-classes": ("warning", "keep the right one, unless one thing covers the other."),
    "area-not-positive": ("error", "area = width * height, or that of the mask."),
    "area-differs": ("warning", "area = width * height, or that of the mask."),
    "iscrowd": ("note", "nothing; iscrowd=0 for boxes of single things."),
    "iscrowd-values": ("warning", "write 0, or 1 for a group that is to be ignored."),
    "annotation-ignored": ("note", "nothing; take the key away from boxes that are to be found."),
    # masks
    "mask-missing": ("error", "add them, or with_mask=False and a model without mask_head."),
    "mask-malformed": (
        "warning",
        (
            "segmentation is [[x1, y1, x2, y2, x3, y3, ...], ...] or "
            "{size: [height, width], counts: ...}; delete what is neither."
        ),
    ),
    "mask-size-differs": ("warning", "size is [height, width]; encode them again from the masks."),
    "mask-outside": (
        "warning",
        "cut them off at the borders; are they those of another size of the picture?",
    ),
    "mask-box-differs": ("warning", "make the box from the polygon, or correct the polygon."),
    # pairs
    "table-unusable": ("error", "correct data_root, ann_file and columns of the data set."),
    "row-incomplete": ("warning", "fill in what is missing, or delete the rows."),
    "caption-empty": ("error", "write captions, or delete the rows."),
    "audio-unreadable": ("error", "get them again, or delete their rows."),
}
