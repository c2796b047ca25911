"""Tables of pairs: rows that are left out, captions without words, sounds that cannot be read."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmengine.registry import DATASETS, TRANSFORMS

from mmonepeace.checks.decoding import Sound, digest_of, reason_of
from mmonepeace.checks.images import check_missing
from mmonepeace.checks.report import Bin, Report, Section
from mmonepeace.checks.splits import Part, Sample, Split

_FILES = {"image": "img_path", "audio": "audio_path"}  # modality -> its key in a record
_KEYS = {**_FILES, "text": "text"}


def list_samples(split: Split, report: Report) -> tuple[Bin, ...]:
    """Fill a split with the files of its tables; report rows and captions that are broken.

    The label of a sample is its modality.

    Returns:
        the histogram, if the texts are names of classes.
    """
    rows, incomplete, wordless, labels = 0, [], [], Counter[int]()
    for part in split.parts:
        names = list(part.dataset.columns)
        try:
            labels.update(r["gt_label"] for r in part.dataset.load_data_list() if "gt_label" in r)
            records = _rows(part, names)
            alone = {name: _rows(part, [name]) for name in names}
        except (OSError, ValueError) as error:
            report.add("table-unusable", split.name, f"{error}".rstrip("."))
            continue
        rows += len(records)
        for name in names:
            complete = Counter(record[_KEYS[name]] for record in records)
            lacking = Counter(record[_KEYS[name]] for record in alone[name]) - complete
            incomplete += [f"{name} {value}" for value in lacking]
        texts = {record["text"]: _file_of(record) for record in records if "text" in record}
        wordless += [f"{texts[text]}: {text!r}" for text in _wordless(part, texts)]
        for name in sorted(set(names) & set(_FILES)):
            paths = dict.fromkeys(record[_FILES[name]] for record in records)
            split.samples += [Sample(path, name, part) for path in paths]
    if incomplete:
        what = "values stand in rows that lack another column, which are left out"
        report.add("row-incomplete", split.name, what, incomplete)
    if wordless:
        what = "captions have nothing left when they are tokenised"
        report.add("caption-empty", split.name, what, wordless)
    bins = tuple(Bin(i, name, labels[i], labels[i]) for i, name in enumerate(split.classes))
    summary = f"{rows:,} rows, {len(split.samples):,} files"
    report.sections.append(Section(split.name, summary, "rows", bins))
    check_missing(split, report)
    return bins


def _file_of(record: dict[str, Any]) -> str:
    return next((record[key] for key in _FILES.values() if key in record), "a row")


def _rows(part: Part, names: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of all tables that have these modalities, each once."""
    sources = [
        {"path": source.path, "columns": {name: source.columns[name] for name in names}}
        for source in part.dataset.sources
    ]
    place = {key: part.cfg[key] for key in ("data_root", "data_prefix") if key in part.cfg}
    plain = {"type": "mmonepeace.PairDataset", "ann_file": sources, "lazy_init": True, **place}
    return DATASETS.build(plain).load_data_list()


def _wordless(part: Part, texts: Iterable[str]) -> list[str]:
    """Texts that the pipeline refuses; where there is no tokeniser yet, those that are blank."""
    try:
        tokenize = TRANSFORMS.build(part.steps("Tokenize")[0])
    except (IndexError, OSError, ValueError):  # a missing tokeniser has its check before a run
        return [text for text in texts if not text.strip()]

    def is_refused(text: str) -> bool:
        try:
            tokenize({"text": text})
        except ValueError:
            return True
        return not text.strip()

    return list(filter(is_refused, texts))


def sound_reader(part: Part) -> Callable[[str], Sound]:
    """What reads the sounds of a data set as its pipeline does."""
    steps = part.steps("LoadAudio") or [{"type": "mmonepeace.LoadAudio"}]
    load = TRANSFORMS.build(steps[0])

    def read_sound(path: str) -> Sound:
        try:
            wave = load({"audio_path": path})["inputs"]["audio"]
        except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
            return Sound(path, error=reason_of(path, error))
        return Sound(path, digest=digest_of(wave.numpy()))

    return read_sound


def check_sounds(split: Split, sounds: Sequence[Sound], report: Report) -> list[Sound]:
    """Report sounds that cannot be read; the others."""
    lines = [f"{sound.path}: {sound.error}" for sound in sounds if sound.error]
    if lines:
        what = "sounds cannot be read"
        report.add("audio-unreadable", split.name, what, lines, of=len(sounds))
    return [sound for sound in sounds if not sound.error]
