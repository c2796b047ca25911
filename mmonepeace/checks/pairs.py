"""Tables: rows that are left out, captions without words, boxes outside, files that cannot be read."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.registry import DATASETS, TRANSFORMS

from mmonepeace.checks.boxes import LARGE, SLACK, outside
from mmonepeace.checks.catalogue import Level
from mmonepeace.checks.decoding import (
    AudioInfo,
    FileInfo,
    ImageInfo,
    VideoInfo,
    collect_warnings,
    digest_of,
    read_files,
    read_size,
    reader,
)
from mmonepeace.checks.images import check_missing
from mmonepeace.checks.report import Bin, Section
from mmonepeace.checks.splits import DatasetInfo, Sample, Split
from mmonepeace.datasets.pairs import PATH_KEYS, RECORD_KEYS
from mmonepeace.datasets.video_io import open_video

Entry = dict[str, Any]
Tables = Mapping[DatasetInfo, list[Entry]]
_QUICK = 1000  # files that are looked for before a run
# Code -> what the warning of `audio_io` says.
_AUDIO_WARNINGS = {
    "audio-cut": "is damaged",
    "audio-cancels": "cancel each other",
    "audio-short": "is shorter than a frame",
}


def list_samples(split: Split, quick: bool = False) -> Tables:
    """Fill a split with the files of its tables. The label of a sample is its modality.

    `quick` looks for some of the files only, and tolerates as many missing ones as training does.

    Returns:
        the records of each data set.
    """
    tables, tolerated = {}, 1.0
    for info, entries in split.read("table-unusable", OSError, ValueError):
        tables[info] = entries
        tolerated = min(tolerated, info.built.max_broken)
        for name in sorted(set(info.built.columns) - {"text"}):
            paths = dict.fromkeys(record[RECORD_KEYS[name]] for record in entries)
            split.samples += [Sample(path, name, info) for path in paths]
    if quick:
        split.draw(_QUICK)
    check_missing(split, tolerated if quick else 0.0)
    boxes = list(_boxes(tables))
    fractions = [f"{path}: {_corners(box)}" for path, box in boxes if box.max() <= 1]
    split.add("phrase-box-normalised", fractions, of=len(boxes))
    for info, entries in tables.items():
        if lost := getattr(info.built, "without_target", None):
            places = list(info.built.places(info.built.target, lost))
            split.add("row-without-target", places, of=len(entries))
    return tables


def check_tables(split: Split, tables: Tables) -> Section:
    """Find rows that are left out and captions without words.

    Returns:
        the histogram, if the texts are names of classes.
    """
    total, files, incomplete, wordless, labels = 0, 0, [], [], Counter[int]()
    having: dict[int, set[str]] = {}  # label -> files
    for info, entries in tables.items():
        for entry in entries:
            present = [entry["gt_label"]] if "gt_label" in entry else list(entry.get("scores", ()))
            labels.update(present)
            for label in present:
                having.setdefault(label, set()).add(_file_of(entry))
        names = list(info.built.columns)
        rows = _rows(info, names)
        total += len(rows)
        for name in names:
            complete = Counter(row[RECORD_KEYS[name]] for row in rows)
            unpaired = Counter(row[RECORD_KEYS[name]] for row in _rows(info, [name])) - complete
            incomplete += [f"{name} {value}" for value in unpaired]
            files += len(complete) if name != "text" else 0
        texts = {row["text"]: _file_of(row) for row in rows if "text" in row}
        wordless += [f"{texts[text]}: {text!r}" for text in _wordless(info, texts)]
    split.add("row-incomplete", incomplete)
    split.add("caption-empty", wordless)
    bins = tuple(
        Bin(i, name, labels[i], len(having.get(i, ()))) for i, name in enumerate(split.classes)
    )
    return Section(split.name, f"{total:,} rows, {files:,} files", "rows", bins)


def check_boxes(split: Split, tables: Tables, images: Sequence[ImageInfo]) -> None:
    """Find boxes of phrases that leave their images; without an image, those that begin below 0."""
    known = {image.path: image.size for image in images if not image.error}
    chosen = [(path, box) for path, box in _boxes(tables) if box.max() > 1]
    if not chosen:
        return
    boxes_N4 = np.stack([box for _, box in chosen])
    xywh_N4 = np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], 1)
    sizes_N2 = np.array([known.get(path, (np.inf, np.inf)) for path, _ in chosen])
    reach_N, fraction_N = outside(xywh_N4, sizes_N2)
    leave_N = reach_N > SLACK
    lines = [
        f"{path}: {_corners(box)}"
        + (f" in {known[path][0]} x {known[path][1]}" if path in known else "")
        for (path, box), leaves in zip(chosen, leave_N, strict=True)
        if leaves
    ]
    most = fraction_N[leave_N].max(initial=0)
    level: Level | None = None if most > LARGE else "warning"
    split.add(
        "phrase-box-outside", lines, of=len(chosen), level=level, reach=reach_N.max(), most=most
    )


def check_boxes_quickly(split: Split, tables: Tables, seconds: float) -> None:
    """`check_boxes` of the images of a split whose headers can be read in some seconds."""
    boxed = {path for path, _ in _boxes(tables)}
    jobs = [(read_size, sample.path) for sample in split.samples if sample.path in boxed]
    check_boxes(split, tables, list(read_files(jobs, seconds).values()))


def _boxes(tables: Tables) -> Iterator[tuple[str, np.ndarray]]:
    """The image and the box of each row that has one."""
    for entries in tables.values():
        for entry in entries:
            if "gt_box" in entry:
                yield entry.get(RECORD_KEYS["image"], ""), entry["gt_box"]


def _corners(box: np.ndarray) -> str:
    return ",".join(f"{x:g}" for x in box)


def _file_of(row: Entry) -> str:
    return next((row[key] for key in PATH_KEYS if key in row), "a row")


def _rows(info: DatasetInfo, names: Iterable[str]) -> list[Entry]:
    """The rows of all tables that have these modalities, each once."""
    manifests = [
        {"path": source.path, "columns": {name: source.columns[name] for name in names}}
        for source in info.built.sources
    ]
    place = {key: info.cfg[key] for key in ("data_root", "data_prefix") if key in info.cfg}
    plain = {"type": "mmonepeace.PairDataset", "ann_file": manifests, "lazy_init": True, **place}
    return DATASETS.build(plain).load_data_list()


def _wordless(info: DatasetInfo, texts: Iterable[str]) -> list[str]:
    """Texts that the pipeline refuses; where there is no tokenizer yet, those that are blank."""
    try:
        tokenize = TRANSFORMS.build(info.steps("Tokenize")[0])
    except (IndexError, OSError, ValueError):  # a missing tokenizer has its own finding
        return [text for text in texts if not text.strip()]

    def is_refused(text: str) -> bool:
        try:
            tokenize({"text": text})
        except ValueError:
            return True
        return not text.strip()

    return list(filter(is_refused, texts))


def audio_reader(info: DatasetInfo) -> Callable[[str], FileInfo]:
    """What reads the audio clips of a data set as its pipeline does."""
    steps = info.steps("LoadAudio") or [{"type": "mmonepeace.LoadAudio"}]
    load = TRANSFORMS.build(steps[0])

    @reader(AudioInfo)
    def read_audio(path: str) -> dict[str, Any]:
        said = collect_warnings()
        wave = load({"audio_path": path})["inputs"]["audio"].numpy()
        silent = bool((wave == wave[:1]).all())
        return {"digest": digest_of(wave), "warnings": tuple(said), "silent": silent}

    return read_audio


def video_reader(info: DatasetInfo) -> Callable[[str], FileInfo]:
    """What reads three frames of each video of a data set."""
    steps = info.steps("LoadVideo") or [{}]
    alpha = steps[0].get("alpha", "drop")

    @reader(VideoInfo)
    def read_video(path: str) -> dict[str, Any]:
        video = open_video(path, alpha)
        last = len(video.starts_N) - 1
        frames = video.read(sorted({0, last // 2, last}))
        sizes = np.array([last, *frames[0].size])
        return {
            "digest": digest_of(np.concatenate([sizes, *(np.asarray(x).ravel() for x in frames)]))
        }

    return read_video


def check_videos(split: Split, videos: Sequence[VideoInfo]) -> list[VideoInfo]:
    """Report videos that cannot be read; the others."""
    lines = [f"{video.path}: {video.error}" for video in videos if video.error]
    split.add("video-unreadable", lines, of=len(videos))
    return [video for video in videos if not video.error]


def check_audio(split: Split, clips: Sequence[AudioInfo]) -> list[AudioInfo]:
    """Report audio clips that cannot be read; the others."""
    lines = [f"{clip.path}: {clip.error}" for clip in clips if clip.error]
    split.add("audio-unreadable", lines, of=len(clips))
    clips = [clip for clip in clips if not clip.error]
    for code, words in _AUDIO_WARNINGS.items():
        said = [(clip, text) for clip in clips for text in clip.warnings if words in text]
        split.add(code, [text for _, text in said], of=len(clips))
    told = [clip for clip in clips if any("cancel each other" in text for text in clip.warnings)]
    silent = [clip.path for clip in clips if clip.silent and clip not in told]
    split.add("audio-silent", silent, of=len(clips))
    return clips
