"""Captions of images and sounds: COCO and Flickr30K in Karpathy's splits, AudioCaps, Clotho, MACS."""

from official_files import Source, explain_format, read_csv, read_json, read_yaml
from official_tables import Content, Options, Row, Table, TaskSet, clean

_SPLITS_AT = " from cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_CLOTHO_AT = " from zenodo.org/records/4783391 (Clotho 2.1)"


def _karpathy(source: Source, name: str, published: dict[str, int]) -> Content:
    """A row per caption. `restval`, the rest of COCO's val2014, is trained on, as is usual."""
    tables: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    content = Content({}, published=published)
    images = read_json(source, name, _SPLITS_AT)
    with explain_format(name, "images with filename, split and sentences"):
        for image in images["images"]:
            split = {"restval": "train"}.get(image["split"], image["split"])
            path = "/".join(filter(None, (image.get("filepath", ""), image["filename"])))
            for sentence in image["sentences"]:
                if caption := clean(sentence["raw"]):
                    tables[split].append({"image": (path,), "caption": caption})
                else:
                    content.left_out["have an empty caption"].append(path)
    content.tables = {split: Table(rows) for split, rows in tables.items()}
    return content


def _coco(source: Source, _options: Options) -> Content:
    published = {"train": 566_747, "val": 25_010, "test": 25_010}
    return _karpathy(source, "dataset_coco.json", published)


def _flickr30k(source: Source, _options: Options) -> Content:
    published = {"train": 145_000, "val": 5_070, "test": 5_000}
    return _karpathy(source, "dataset_flickr30k.json", published)


def _audiocaps(source: Source, _options: Options) -> Content:
    """Clips have no official names: those of the usual downloaders are tried."""
    tables = {}
    for split in ("train", "val", "test"):
        columns = ("audiocap_id", "youtube_id", "start_time", "caption")
        rows = read_csv(source, f"{split}.csv", columns, " from github.com/cdjkim/audiocaps")
        tables[split] = Table(
            [
                {
                    "audio": tuple(
                        f"{name}.*"
                        for name in (
                            f"{row['youtube_id']}_{row['start_time']}",
                            row["youtube_id"], f"Y{row['youtube_id']}",
                            f"{split}/{row['audiocap_id']}", row["audiocap_id"],
                        )
                    ),
                    "caption": clean(row["caption"]),
                }
                for row in rows
            ]
        )  # fmt: skip
    return Content(tables, published={"train": 49_838, "val": 2_475, "test": 4_875})


def _clotho(source: Source, _options: Options) -> Content:
    tables = {}
    names = {"train": "development", "val": "validation", "test": "evaluation"}
    captions = [f"caption_{i}" for i in range(1, 6)]
    for split, name in names.items():
        file = f"clotho_captions_{name}.csv"
        rows = read_csv(source, file, ("file_name", *captions), _CLOTHO_AT)
        tables[split] = Table(
            [
                {"audio": (f"{name}/{row['file_name']}",), "caption": clean(row[column])}
                for row in rows
                for column in captions
            ]
        )
    return Content(tables, published={"train": 19_195, "val": 5_225, "test": 5_225})


def _macs(source: Source, _options: Options) -> Content:
    """One table, for training: the set has no splits."""
    rows: list[Row] = []
    annotated = read_yaml(source, "MACS.yaml", " from zenodo.org/records/5114771")
    with explain_format("MACS.yaml", "files with filename and annotations with sentence"):
        for file in annotated["files"]:
            rows += [
                {"audio": (file["filename"],), "caption": clean(annotation["sentence"])}
                for annotation in file["annotations"]
            ]
    return Content({"train": Table(rows)}, published={"train": 17_275})


SETS = {
    "coco": TaskSet(
        _coco,
        "dataset_coco.json (Karpathy), train2014.zip and val2014.zip of COCO",
        folder="coco_karpathy",  # data/coco has the images and boxes of detection
    ),
    "flickr30k": TaskSet(_flickr30k, "dataset_flickr30k.json (Karpathy), images of Flickr30K"),
    "audiocaps": TaskSet(_audiocaps, "train.csv, val.csv, test.csv, clips from YouTube", 0.2),
    "clotho": TaskSet(_clotho, "clotho_captions_*.csv, clotho_audio_*.7z unpacked"),
    "macs": TaskSet(_macs, "MACS.yaml, TAU-urban-acoustic-scenes-2019-development.audio.*.zip"),
}
