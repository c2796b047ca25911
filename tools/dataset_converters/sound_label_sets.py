"""Classified sounds: ESC-50 in five folds, FSD50K with several classes a clip, VGGSound."""

from collections import defaultdict

from downloads import DataError
from official_files import Source, explain_format, read_csv
from official_tables import Content, Options, Row, Table, TaskSet, check_labels

_FOLDS = range(1, 6)


def _esc50(source: Source, _options: Options) -> Content:
    """One table with the folds, and for each fold what is trained on and what is held out."""
    columns = ("filename", "fold", "target", "category", "src_file")
    clips = read_csv(source, "meta/esc50.csv", columns, " from github.com/karolpiczak/ESC-50")
    folds_of = defaultdict(set)
    names: dict[int, str] = {}
    rows: list[Row] = []
    with explain_format("esc50.csv", "folds 1 to 5 and a target from 0 for each category"):
        for clip in clips:
            folds_of[clip["src_file"]].add(clip["fold"])
            if int(clip["fold"]) not in _FOLDS:
                raise ValueError(f"{clip['filename']} is in fold {clip['fold']}")
            if names.setdefault(int(clip["target"]), clip["category"]) != clip["category"]:
                raise ValueError(f"target {clip['target']} stands for two categories")
            audio = (f"audio/{clip['filename']}",)
            rows.append({"audio": audio, "label": clip["category"], "fold": clip["fold"]})
        classes = [names[i] for i in range(len(names))]
    if leaks := [name for name, folds in folds_of.items() if len(folds) > 1]:
        raise DataError(
            f"esc50.csv: recording {leaks[0]} is in folds {', '.join(sorted(folds_of[leaks[0]]))} "
            f"({len(leaks)} such): results would be too good. Download it again."
        )
    tables = {"all": Table(rows)}
    for fold in _FOLDS:
        held_out = [row for row in rows if row["fold"] == str(fold)]
        kept = [row for row in rows if row["fold"] != str(fold)]
        tables |= {
            f"fold{fold}_train": Table(kept, derived=True, whole="all"),
            f"fold{fold}_val": Table(held_out, derived=True, whole="all"),
        }
    note = (
        "The result is the mean accuracy of five runs: for each fold, train on foldN_train.tsv, measure "
        "on foldN_val.tsv."
    )
    return Content(tables, classes, {"all": 2_000}, notes=[note])


def _fsd50k(source: Source, options: Options) -> Content:
    """Classes in the order of vocabulary.csv, which is not to be guessed."""
    where = " from zenodo.org/records/4060432 (FSD50K.ground_truth.zip)"
    vocabulary = read_csv(source, "vocabulary.csv", ("index", "name", "mid"), where, header=False)
    with explain_format("vocabulary.csv", "lines of index, name and mid, indices from 0"):
        listed = {int(row["index"]): row["name"] for row in vocabulary}
        names = [listed[i] for i in range(len(vocabulary))]
    classes = options.classes or names
    clips = {
        "dev": read_csv(source, "dev.csv", ("fname", "labels", "split"), where),
        "eval": read_csv(source, "eval.csv", ("fname", "labels"), where),
    }
    tables: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    labels = {}
    with explain_format("dev.csv", "the splits train and val"):
        for part, rows in clips.items():
            for row in rows:
                labels[f"{part} {row['fname']}"] = row["labels"].split(",")
                audio = (
                    f"FSD50K.{part}_audio/{row['fname']}.wav",
                    f"{part}_audio/{row['fname']}.*",
                )
                table = tables[row["split"] if part == "dev" else "test"]
                table.append({"audio": audio, "labels": row["labels"]})
    check_labels(labels, classes, "vocabulary.csv or --classes")
    return Content(
        {split: Table(rows) for split, rows in tables.items()},
        classes,
        {"train": 36_796, "val": 4_170, "test": 10_231},
    )


def _vggsound(source: Source, options: Options) -> Content:
    """Classes in alphabetical order unless --classes gives another, as released weights have."""
    columns = ("youtube_id", "start", "label", "split")
    clips = read_csv(source, "vggsound.csv", columns, " from robots.ox.ac.uk/~vgg", header=False)
    tables: dict[str, list[Row]] = {"train": [], "test": []}
    with explain_format(
        "vggsound.csv", "lines of YouTube id, start in seconds, label, train or test"
    ):
        for clip in clips:
            name = f"{clip['youtube_id']}_{int(clip['start']):06d}.*"
            tables[clip["split"]].append({"audio": (name,), "label": clip["label"]})
    classes = options.classes or sorted({clip["label"] for clip in clips})
    labels = {clip["youtube_id"]: [clip["label"]] for clip in clips}
    check_labels(labels, classes, "vggsound.csv or --classes")
    content = Content(
        {split: Table(rows) for split, rows in tables.items()},
        classes,
        {"train": 183_730, "test": 15_446},
    )
    if len(classes) != 309:
        content.notes.append(f"warning: {len(classes)} classes, published are 309.")
    if not options.classes:
        content.notes.append(
            "Classes are in alphabetical order. For finetune_vggsound.pt give the list of its authors: "
            "--classes vggsound_id2label.json"
        )
    return content


SETS = {
    "esc50": TaskSet(_esc50, "ESC-50-master.zip"),
    "fsd50k": TaskSet(_fsd50k, "FSD50K.ground_truth.zip, FSD50K.dev_audio and FSD50K.eval_audio"),
    "vggsound": TaskSet(_vggsound, "vggsound.csv, the sound of the clips", 0.2),
}
