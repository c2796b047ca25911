import json
import pickle

import numpy as np
import pytest
import soundfile
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmonepeace.datasets import EndlessSampler, PairDataset
from mmonepeace.datasets.broken_samples import LEFT_OUT, TooManyBrokenError
from mmonepeace.datasets.resumable_sampler import EpochIndex
from mmonepeace.datasets.tokenizer import train

COUNT, BROKEN = 40, {3: "missing", 8: "image", 21: "text"}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "train.tsv"
    rows = 'a.png\tthe "quoted" dog\ta.ogg\nb.png\ta cat\t\n\tnothing\tc.ogg\n'
    path.write_text("image\tcaption\tsound\n" + rows)
    return path


def build(ann_file, **columns):
    return PairDataset(str(ann_file), columns, pipeline=[])


def test_rows_become_records_with_paths_beside_the_manifest(table):
    dataset = build(table, image="image", text="caption")
    assert len(dataset) == 2
    record = dataset.get_data_info(0)
    assert record["img_path"] == str(table.parent / "a.png")
    assert record["text"] == 'the "quoted" dog'
    assert record["sample_idx"] == 0
    assert build(table, audio="sound").get_data_info(1)["audio_path"].endswith("/c.ogg")


def test_paths_are_absolute_or_below_the_prefix(table):
    columns = {"image": "image"}
    for options, expected in (
        ({"data_prefix": {"path": "images"}}, table.parent / "images/b.png"),
        ({"data_prefix": {"path": ""}}, table.parent / "b.png"),
        ({"data_prefix": {"path": "/elsewhere"}}, "/elsewhere/b.png"),
    ):
        dataset = PairDataset("train.tsv", columns, data_root=str(table.parent), **options)
        assert dataset.get_data_info(1)["img_path"] == str(expected)
    table.write_text("image\n/somewhere/a.png\n")
    assert build(table, image="image").get_data_info(0)["img_path"] == "/somewhere/a.png"


def test_the_images_of_a_folder_are_samples_without_anything_else(tmp_path):
    for name in ("b.png", "deep/a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).touch()
    dataset = PairDataset("files", {"image": ""}, data_root=str(tmp_path))
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    assert paths == [str(tmp_path / "files" / name) for name in ("b.png", "deep/a.JPG")]
    with pytest.raises(ValueError, match="has no audio files"):
        build(tmp_path / "files", audio="")
    with pytest.raises(ValueError, match="is a folder, whose files are images or audio"):
        build(tmp_path / "files", image="", text="caption")


def test_several_manifests_follow_each_other_each_with_its_folder(table):
    other = table.parent / "more" / "val.jsonl"
    other.parent.mkdir()
    other.write_text(json.dumps({"image": "z.png", "caption": "a fish"}) + "\n")
    columns = {"image": "image", "text": "caption"}
    dataset = PairDataset(["train.tsv", "more/val.jsonl"], columns, data_root=str(table.parent))
    assert [dataset.get_data_info(i)["text"] for i in (1, 2)] == ["a cat", "a fish"]
    assert dataset.get_data_info(2)["img_path"] == str(other.parent / "z.png")


@pytest.fixture
def mixture(table):
    """A second manifest, with other columns."""
    rows = [{"sound": f"{i}.ogg", "nom": f"un chien {i}", "picture": f"{i}.png"} for i in range(6)]
    path = table.parent / "french" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table.parent


def mix(root, *entries, columns=None):
    dataset = PairDataset(list(entries), columns, data_root=str(root), pipeline=[])
    return [dataset.get_data_info(i) for i in range(len(dataset))]


FRENCH = dict(path="french/train.jsonl", columns={"image": "picture", "text": "nom"})


def test_each_manifest_may_have_its_own_columns(mixture):
    columns = {"text": "caption", "image": "image"}
    infos = mix(mixture, "train.tsv", FRENCH, columns=columns)
    assert infos == mix(mixture, dict(path="train.tsv", columns=columns), FRENCH)
    assert [info["text"] for info in infos[1:4]] == ["a cat", "un chien 0", "un chien 1"]
    assert infos[2]["img_path"] == str(mixture / "french/0.png")
    assert len(mix(mixture, *[FRENCH] * 2)) == 12


@pytest.mark.parametrize(
    ("repeat", "rows"),
    [(3, sorted([*range(6)] * 3)), (1.5, [0, 1, 1, 2, 3, 3, 4, 5, 5]), (0.5, [1, 3, 5])],
)
def test_rows_are_repeated_evenly(mixture, repeat, rows):
    infos = mix(mixture, FRENCH | {"repeat": repeat})
    assert [int(info["text"].split()[-1]) for info in infos] == rows


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"columns": {"text": "nom"}}, "ann_file has the entry"),
        (FRENCH | {"repeats": 2}, "'repeats': 2.*expected a path or a dict of path"),
        ({"path": "french/train.jsonl"}, r"french/train.jsonl has no columns.*columns=dict\("),
        (FRENCH | {"columns": {"text": "name"}}, "train.jsonl: there is no column name; .*nom"),
        (FRENCH | {"repeat": 0}, "repeat=0, expected a number above 0"),
        (FRENCH | {"repeat": "3"}, "repeat='3', expected a number above 0"),
        (FRENCH | {"repeat": 0.1}, "repeat=0.1 leaves no row"),
    ],
)
def test_mistakes_in_a_mixture_name_their_fix(mixture, entry, says):
    with pytest.raises(ValueError, match=says):
        mix(mixture, entry)


def test_samples_of_a_mixture_have_the_same_modalities(mixture):
    with pytest.raises(ValueError, match=r"french/train.jsonl has image, text, but train.tsv has"):
        mix(mixture, "train.tsv", FRENCH, columns={"audio": "sound", "text": "caption"})
    with pytest.raises(ValueError, match="names no manifest"):
        mix(mixture)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty images with captions; three samples are broken, each in its own way."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    lines = ["image\tcaption"]
    for i in range(COUNT):
        image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        if BROKEN.get(i) != "missing":
            image.save(folder / f"{i}.png")
        if BROKEN.get(i) == "image":
            (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:500])
        lines.append(f"{i}.png\t" + ("..." if BROKEN.get(i) == "text" else f"dog number {i} runs"))
    (folder / "train.tsv").write_text("\n".join(lines))
    train(lines, 300).save(folder / "tokenizer.json")
    return folder


def pairs(folder, stage="vl", **options):
    tokenizer = str(folder / "tokenizer.json")
    pipeline = [
        dict(type="mmonepeace.LoadImage", size=32, crop_scale=(0.5, 1.0)),
        dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
        dict(type="mmonepeace.MaskTokens", stage=stage, tokenizer=tokenizer),
        dict(type="mmonepeace.PackModalities"),
    ]
    options = dict(max_broken=0.1) | options
    columns = {"image": "image", "text": "caption"}
    return PairDataset(str(folder / "train.tsv"), columns, pipeline=pipeline, **options)


def same(a, b):
    equal = [a["inputs"][name].equal(b["inputs"][name]) for name in ("image", "text")]
    for view, keeps in a["keeps"].items():
        equal += [np.array_equal(keep, b["keeps"][view][name]) for name, keep in keeps.items()]
    return all(equal)


def test_a_sample_depends_only_on_seed_epoch_and_row(folder):
    dataset = pairs(folder)
    sample = dataset[EpochIndex(5, 2)]
    dataset[7]
    assert same(sample, dataset[EpochIndex(5, 2)])
    assert same(sample, pickle.loads(pickle.dumps(dataset))[EpochIndex(5, 2)])  # noqa: S301
    assert not same(sample, dataset[EpochIndex(5, 3)])
    assert not same(sample, pairs(folder, seed=1)[EpochIndex(5, 2)])
    assert same(dataset[5], dataset[EpochIndex(5, 0)])
    assert same(dataset[-1], dataset[COUNT - 1])
    with pytest.raises(IndexError):
        dataset[COUNT]


def test_broken_samples_are_replaced_by_the_same_ones_always(folder):
    first, second = pairs(folder), pairs(folder)
    backwards = [second[EpochIndex(i, 1)] for i in reversed(range(COUNT))][::-1]
    for i, other in enumerate(backwards):
        sample = first[EpochIndex(i, 1)]
        assert same(sample, other)
        assert (sample["data_samples"].sample_idx == i) == (i not in BROKEN)
        assert sample["data_samples"].sample_idx not in BROKEN
    assert first.broken.counts == {"missing": 1, "image": 1, "text": 1}
    assert first.broken.seen == COUNT
    assert first[3]["data_samples"].sample_idx != first[EpochIndex(3, 1)]["data_samples"].sample_idx


def test_too_many_broken_samples_end_the_run(folder):
    dataset = pairs(folder, max_broken=0.05)
    with pytest.raises(
        TooManyBrokenError, match=r"1 missing, 1 image, 1 text.*The first: 3 \(.*png"
    ):
        [dataset[i] for i in range(COUNT)]


def test_broken_samples_are_replaced_in_test_mode_too(folder):
    dataset = pairs(folder, test_mode=True)
    sample = dataset[3]["data_samples"]
    assert sample.sample_idx not in BROKEN
    assert sample.get(LEFT_OUT)
    assert not dataset[sample.sample_idx]["data_samples"].get(LEFT_OUT)
    assert not pairs(folder)[3]["data_samples"].get(LEFT_OUT)
    assert dataset.broken.counts == {"missing": 1}
    assert dataset.name(3).endswith("3.png)")
    assert dataset.leaves_out


def failing(faults):
    """A transform that fails for some samples, as none of ours would."""

    def fail(record):
        if record["sample_idx"] in faults:
            raise faults[record["sample_idx"]]
        return record["sample_idx"]

    return fail


def test_whatever_a_pipeline_raises_is_a_broken_sample(folder):
    faults = {
        2: MemoryError(),
        4: ZeroDivisionError("by zero"),
        6: KeyError("img"),
        8: RecursionError(),
    }
    dataset = PairDataset(
        str(folder / "train.tsv"), {"text": "caption"}, pipeline=[failing(faults)], max_broken=0.2
    )
    assert not {dataset[i] for i in range(COUNT)} & set(faults)
    assert dataset.broken.counts == {"other": 4}


def test_a_pipeline_that_never_works_ends_the_run_at_once(folder):
    faults = {i: KeyError("img") for i in range(COUNT)}
    dataset = PairDataset(
        str(folder / "train.tsv"), {"text": "caption"}, pipeline=[failing(faults)], max_broken=0.9
    )
    with pytest.raises(
        TooManyBrokenError,
        match=r"all of the first 10 samples fail: KeyError: 'img'.*Correct the pipeline",
    ):
        dataset[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_end_of_a_run_is_one_line_whichever_process_reads(folder, workers):
    loader = DataLoader(
        pairs(folder, max_broken=0.01), 8, num_workers=workers, collate_fn=pseudo_collate
    )
    with pytest.raises(TooManyBrokenError) as caught:
        list(loader)
    assert str(caught.value).startswith("2 of ")
    assert "\n" not in str(caught.value)


def test_a_subset_counts_from_zero(folder):
    dataset = pairs(folder)
    dataset[3]
    part = dataset.get_subset(range(4, 24))
    [part[i] for i in range(20)]
    assert part.broken.counts == {"image": 1, "text": 1}
    assert dataset.broken.counts == {"missing": 1}
    dataset.get_subset_(4)
    assert dataset.broken.counts == {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_change_nothing_and_their_counts_arrive(folder, method):
    def epoch(workers):
        dataset = pairs(folder)
        sampler = EndlessSampler(dataset, seed=1)
        options = dict(multiprocessing_context=method) if workers else {}
        loader = DataLoader(
            dataset, 8, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate, **options
        )
        samples = []
        for batch, _ in zip(loader, range(COUNT // 8), strict=False):
            ids = [sample.sample_idx for sample in batch["data_samples"]]
            images = [image.sum().item() for image in batch["inputs"]["image"]]
            keeps = [keep.tolist() for keep in batch["keeps"]["alone"]["image"]]
            samples += zip(ids, images, keeps, strict=True)
        return samples, dataset.broken.counts

    expected = epoch(0)
    assert expected[1] == {"missing": 1, "image": 1, "text": 1}
    assert epoch(2 if method == "fork" else 1) == expected


def test_audio_and_texts_make_samples_of_stage_two(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.uniform(-0.5, 0.5, 20_000), 16_000)
    (tmp_path / "train.jsonl").write_text('{"audio": "a.wav", "text": "it rains", "id": 1}\n')
    tokenizer = train(["it rains"], 300)
    pipeline = [
        dict(type="mmonepeace.LoadAudio"),
        dict(type="mmonepeace.Tokenize", tokenizer=tokenizer),
        dict(type="mmonepeace.MaskTokens", stage="al", tokenizer=tokenizer),
        dict(type="mmonepeace.PackModalities"),
    ]
    columns = {"audio": "audio", "text": "text"}
    sample = PairDataset(str(tmp_path / "train.jsonl"), columns, pipeline=pipeline)[0]
    assert {view: set(keeps) for view, keeps in sample["keeps"].items()} == {
        "alone": {"audio"},
        "joint": {"text", "audio"},
    }
