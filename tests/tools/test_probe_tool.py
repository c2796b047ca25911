"""tools/probe.py, from files to the table of results."""

import csv
import runpy
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis.item_reader import ItemReader
from tests.apis.conftest import write_model
from tests.conftest import ROOT

COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 30, 20)}
TONES = {"high": 3000, "low": 200}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("probed"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of three colours and clips of two tones, as tables and as folders of classes."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for split, number in (("train", 12), ("val", 5)):
        rows = []
        for i in range(number):
            for name, colour in COLOURS.items():
                path = root / f"images/{split}/{name}/{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = rng.integers(-20, 20, (32 + i, 40, 3))
                Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)
                rows.append((path, name))
            for name, pitch in TONES.items():
                path = root / f"sounds/{split}/{name}/{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                time = np.arange(14000 + 1000 * i) / 16000
                wave = np.sin(2 * np.pi * pitch * time) + 0.1 * rng.standard_normal(len(time))
                soundfile.write(path, 0.3 * wave, 16000)
        lines = (f"{path.relative_to(root)}\t{name}\n" for path, name in rows)
        (root / f"{split}.tsv").write_text("image\tcolour\n" + "".join(lines))
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """The tool in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", ["probe.py", *map(str, arguments), "--device", "cpu"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools/probe.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def computed(monkeypatch):
    """Lists of the items that went to the model."""
    calls, batches = [], ItemReader.batches

    def noted(self, rows, *options):
        calls.append(len(rows))
        return batches(self, rows, *options)

    monkeypatch.setattr(ItemReader, "batches", noted)
    return calls


@pytest.fixture
def images(data, tmp_path):
    tables = ["--train", data / "train.tsv", "--val", data / "val.tsv", "--label", "colour"]
    return ["--modality", "image", *tables, "--out", tmp_path / "new/results.csv"]


@pytest.fixture
def clips(data, tmp_path):
    folders = ["--train", data / "sounds/train", "--val", data / "sounds/val"]
    return ["--modality", "audio", *folders, "--out", tmp_path / "new/results.csv"]


@pytest.fixture
def results(tmp_path):
    """Rows of the table of results, those of chosen settings by kind."""

    def results():
        with open(tmp_path / "new/results.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return rows, {row["kind"]: row for row in rows if row["chosen"]}

    return results


def test_all_kinds_classify_colours(run, model, images, results, tmp_path):
    plot = tmp_path / "new/confusion.png"
    kinds = ["--kind", "knn", "linear", "attentive", "--epochs", 40, "--plot", plot]
    code, out, err = run(model, *images, *kinds)
    assert code == 0, err
    rows, chosen = results()
    assert list(chosen) == ["knn", "linear", "attentive"]
    for kind, feature in (("knn", "embedding"), ("linear", "embedding"), ("attentive", "tokens")):
        row = chosen[kind]
        assert row["features"] == feature
        assert float(row["val_top1"]) == float(row["val_mean_class"]) == 100
        assert (row["val_chance"], row["train_items"], row["val_items"]) == ("33.33", "36", "15")
    assert [row["value"] for row in rows if row["kind"] == "knn"] == ["1", "5", "10", "20"]
    assert {row["converged"] for row in rows if row["kind"] == "linear"} == {"yes"}
    assert len(out.splitlines()) == 1 + len(rows) + 2
    assert Image.open(plot).width > 1000


def test_folders_of_clips_need_no_label_column(run, model, clips, results, data):
    kinds = ["--kind", "knn", "attentive", "--epochs", 40]
    code, _, err = run(model, *clips, *kinds, "--test", data / "sounds/train")
    assert code == 0, err
    _, chosen = results()
    for row in chosen.values():
        assert float(row["val_top1"]) == float(row["test_top1"]) == 100
        assert (row["classes"], row["test_items"]) == ("2", "24")


def test_a_second_probe_on_the_same_data_computes_nothing(
    run, model, images, results, tmp_path, computed
):
    cache = ["--cache", tmp_path / "cache"]
    assert run(model, *images, *cache, "--kind", "knn")[0] == 0
    assert sum(computed) == 51
    first = results()[0]
    assert run(model, *images, *cache, "--kind", "knn", "linear")[0] == 0
    assert sum(computed) == 51
    assert results()[0][: len(first)] == first
    assert run(model, *images, *cache, "--kind", "attentive", "--epochs", 1)[0] == 0
    assert sum(computed) == 102


def test_batch_size_and_order_of_the_table_change_nothing(
    run, model, data, images, results, tmp_path
):
    kinds = ["--kind", "knn", "linear", "attentive", "--epochs", 4]
    assert run(model, *images, *kinds)[0] == 0
    expected = results()[0]
    assert run(model, *images, *kinds, "--batch-size", 3)[0] == 0
    assert results()[0] == expected
    header, *lines = (data / "train.tsv").read_text().splitlines()
    (tmp_path / "shuffled.tsv").write_text("\n".join([header, *lines[::-1]]))
    images[images.index("--train") + 1] = tmp_path / "shuffled.tsv"
    assert run(model, *images, *kinds, "--root", data)[0] == 0
    assert results()[0] == expected


def test_a_vision_branch_is_probed_by_its_features(run, model, images, results, tmp_path):
    vision = tmp_path / "vision.safetensors"
    checkpoint.convert_file(model, vision, "vision")
    code, _, err = run(vision, *images, "--kind", "linear", "attentive", "--epochs", 10)
    assert code == 0, err
    rows, chosen = results()
    assert {row["features"] for row in rows} == {"cls", "tokens"}
    assert float(chosen["linear"]["val_top1"]) > 90
    assert run(vision, *images, "--kind", "knn", "--features", "mean")[0] == 0
    assert {row["features"] for row in results()[0]} == {"mean"}
    code, _, err = run(vision, *images, "--kind", "knn", "--features", "embedding")
    assert code == 2
    assert "no projections" in err


def test_what_cannot_be_read_is_named_counted_and_left_out(run, model, data, images, results, tmp_path):  # fmt: skip
    (tmp_path / "broken.png").write_bytes(b"not an image")
    rows = ["broken.png\tred", "gone.png\tblue"]
    lines = (data / "train.tsv").read_text().replace("images/", f"{data}/images/")
    (tmp_path / "train.tsv").write_text(lines + "\n".join(rows))
    images[images.index("--train") + 1] = tmp_path / "train.tsv"
    code, out, err = run(model, *images, "--kind", "knn", "linear")
    assert code == 0, err
    assert "2 files or folders could not be read and were left out" in out
    left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 2
    assert ["gone.png" in left_out[0], "broken.png" in left_out[1]] == [True, True]
    assert {row["train_items"] for row in results()[0]} == {"36"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "shape"], "no column shape; there is image, colour"),
        (["--train", "gone.tsv"], "gone.tsv"),
        (["--train", "{data}/one.tsv"], "all 2 files of train are 'red'; expected two or more"),
        (["--val", "{data}/one.tsv", "--train", "{data}/two.tsv"], "classes of val have no files"),
        (
            ["--train", "{data}/unread.tsv"],
            "train has no files that can be read. The first reason: ",
        ),
        (["--modality", "audio"], "no column audio"),
        (["--grid", "0"], "--grid takes numbers above 0"),
        (["--grid", "1", "--kind", "knn", "linear"], "for one --kind"),
        (["--grid", "2.5"], "expected integers"),
        (["--features", "tokens"], "attentive takes tokens, and no other kind does"),
        (["--features", "cls", "--kind", "attentive"], "attentive takes tokens"),
        (["--out", "{data}"], "is a folder; name a file"),
        (["--kind", "svm"], "invalid choice: 'svm'"),
    ],
)
def test_mistakes_name_their_fix(run, model, data, images, options, words):
    tables = {
        "one": ["red/0.png\tred", "red/1.png\tred"],
        "two": ["blue/0.png\tblue", "green/0.png\tgreen"],
        "unread": ["gone/0.png\tred", "gone/1.png\tgreen", "gone/2.png\tblue"],
    }
    for name, rows in tables.items():
        lines = (f"images/train/{row}\n" for row in rows)
        (data / f"{name}.tsv").write_text("image\tcolour\n" + "".join(lines))
    options = [option.format(data=data) for option in options]
    code, out, err = run(model, *images, "--kind", "knn", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_files_of_val_that_were_trained_are_counted(run, model, data, images):
    images[images.index("--val") + 1] = data / "train.tsv"
    code, _, err = run(model, *images, "--kind", "knn", "--grid", 1)
    assert code == 0, err
    assert "36 files of val are in train too: its accuracy will be too high" in err


def test_a_modality_that_the_checkpoint_lacks_is_named(run, model, clips, tmp_path):
    vision = tmp_path / "vision.safetensors"
    checkpoint.convert_file(model, vision, "vision")
    code, _, err = run(vision, *clips, "--kind", "knn")
    assert code == 2
    assert "the model has no audio branch, only ('image',)" in err


def test_folds_are_measured_by_probes_of_the_others(run, model, data, results, tmp_path):
    options = ["--modality", "image", "--train", data / "train.tsv", "--label-column", "colour"]
    plot = ["--out", tmp_path / "new/results.csv", "--plot", tmp_path / "new/confusion.png"]
    code, out, err = run(model, *options, *plot, "--kind", "linear", "knn", "--folds", 3)
    assert code == 0, err
    rows, _ = results()
    assert [row["kind"] for row in rows] == ["linear"] * 3 + ["knn"] * 3
    assert {row["fold_items"] for row in rows} == {"12"}
    assert {row["train_items"] for row in rows} == {"36"}
    assert "linear: 100.0 ± 0.0 % over 3 folds" in out
    assert Image.open(tmp_path / "new/confusion.png").width > 800


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folds", "3", "--val", "v"], "--folds alone"),
        ([], "--val (and --test), or --folds"),
        (["--folds", "1"], "at least 2"),
        (["--folds", "13"], "class 'blue' has 12 files"),
    ],
)
def test_folds_that_make_no_sense_are_refused(run, model, data, tmp_path, options, said):
    options = ["--train", data / "train.tsv", "--label-column", "colour", *options]
    code, _, err = run(
        model, "--modality", "image", *options, "--kind", "knn", "--out", tmp_path / "a.csv"
    )
    assert code == 2
    assert said in err
