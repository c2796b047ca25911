import csv
import json
import runpy
import sys
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.datasets.tokenizer import train
from mmonepeace.models import OnePeaceVideoClassifier
from tests import official
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(tmp_path / f"{name}.png")
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(20000), 16000)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the tool in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools/predict.py"), run_name="__main__")
        return CompletedProcess(arguments, ended.value.code or 0, *capsys.readouterr())

    return run


def model(task, folder):
    path = folder / task
    path.mkdir()
    torch.save(official.fine_tuned(task), path / "ft.pt")
    train(["what is this? a dog"] * 3, 400).save(path / "tokenizer.json")
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_boxes_of_a_phrase_in_all_images(folder, run):
    done = run(
        model("refcoco", folder), "--images", folder, "--text", "a dog",
        "--out", folder / "boxes.tsv", "--html", folder / "page/boxes.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = rows(folder / "boxes.tsv")
    assert [row["image"][-5:] for row in table] == ["a.png", "b.png"]
    assert all(0 <= float(row["x1"]) <= 90 and 0 <= float(row["y1"]) <= 60 for row in table)
    page = (folder / "page/boxes.html").read_text()
    assert page.count("<li class=") == page.count("data:image/jpeg") == 2
    assert 'href="../a.png"' in page


def test_several_questions_about_one_image(folder, run):
    done = run(
        model("vqa", folder), "--images", folder / "a.png", "--top", "2",
        "--text", "is it <b>?", "what is it", "--out", folder / "out.tsv", "--html", folder / "p.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = rows(folder / "out.tsv")
    assert [row["text"] for row in table] == ["is it <b>?", "what is it"]
    assert list(table[0])[2:] == ["answer1", "score1", "answer2", "score2"]
    assert "is it &lt;b&gt;?" in (folder / "p.html").read_text()


def test_candidates_by_hand_and_in_a_table(folder, run):
    path = model("aqa", folder)
    done = run(
        path, "--audios", folder / "a.wav", "--text", "What is it?",
        "--candidates", "Dog|Cat|Rain|Car", "--out", folder / "one.tsv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = "a.wav\tWhat is it?&&&Dog&&&Cat&&&Rain&&&Car&&&2"
    (folder / "table.tsv").write_text(f"audio\ttext\n{line}\n")
    done = run(
        path, "--table", folder / "table.tsv", "--columns", "audio=audio", "text=text",
        "--out", folder / "table_out.tsv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,), (two,) = rows(folder / "one.tsv"), rows(folder / "table_out.tsv")
    assert [*one.values()][2:] == [*two.values()][2:]
    assert two["text"] == "What is it?&&&Dog&&&Cat&&&Rain&&&Car&&&2"


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_keeps_all_of_its_columns(suffix, folder, run):
    table = folder / f"table{suffix}"
    samples = [
        {"question_id": str(i), "text": f'"{i}",\t', "photo": f"{n}.png", "q": q, "answer1": "old"}
        for i, (n, q) in enumerate([("a", "x"), ("b", ""), ("c", "y"), ("b", "z")])
    ]  # the second has no question, the third no file
    if suffix == ".jsonl":
        lines = [json.dumps({**s, "question_id": i}) for i, s in enumerate(samples)]
        table.write_text("\n".join(lines) + "\n\n")
    else:
        with table.open("w", newline="") as file:
            delimiter = "\t" if suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(samples[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(samples)
    done = run(
        model("vqa", folder), "--table", table, "--columns", "image=photo", "text=q", "--top", "1",
        "--out", folder / "out.tsv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = rows(folder / "out.tsv")
    assert list(written[0]) == ["question_id", "text", "photo", "q", "answer1", "score1"]
    for row, sample in zip(written, (samples[0], samples[3]), strict=True):
        assert row.pop("answer1") != sample.pop("answer1")
        assert 0 <= float(row.pop("score1")) <= 1
        assert row == sample


def test_the_names_of_sounds_are_classes(folder, run):
    done = run(
        model("vggsound", folder),
        "--audios",
        folder / "a.wav",
        "--top",
        2,
        "--out",
        folder / "o.tsv",
    )
    assert done.returncode == 0, done.stderr
    assert list(rows(folder / "o.tsv")[0]) == ["audio", "class1", "score1", "class2", "score2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--images", "a.png"],
            "takes image and image_2 and text; image given. Name each with --im",
        ),
        (["--images", "a.png", "--text", "same"], "image_2 and text; image and text given"),
        (["--images", "a.png", "--text", "same", "--html", "."], "is a folder"),
        (["--images", "a.png", "b.png", "--text", "1", "2", "3"], "2 of image, 3 of text"),
        (["--text", "hello"], "--images, --audios, --videos or --table"),
        (["--images", "nowhere.png", "--images-2", "a.png", "--text", "same"], "nowhere.png"),
        (["--table", "a.tsv"], "go together"),
        (["--images", "a.png", "--text", ""], "--text has an empty text"),
        (
            ["--table", "a.tsv", "--columns", "image=image", "text"],
            "--columns text: expected NAME=C",
        ),
        (["--table", "a.tsv", "--columns", "image=", "text=text"], "--columns image=: expected"),
        (
            ["--table", "a.tsv", "--columns", "image=image1", "image2=image2", "text=text"],
            "columns are for image, image2, text; choose from image, text, audio, image_2, video.",
        ),
    ],
)
def test_what_does_not_fit_ends_in_one_line(arguments, says, folder, run):
    arguments = [str(folder / a) if a.endswith((".png", ".tsv")) else a for a in arguments]
    done = run(model("nlvr2", folder), *arguments)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("vqa", ["--images", "a.png", "--text", "?", "--candidates", "a|b"], "leave --candidates out"),
        ("aqa", ["--audios", "a.wav", "--text", "?"], "4 candidates: name them with --candidates, or"),
        (
            "aqa", ["--audios", "a.wav", "--text", "?", "--candidates", "a|b|c"],
            "--candidates names 3, the model ranks 4: expected 'a|b|c|d'.",
        ),
        (
            "aqa", ["--table", "table.tsv", "--columns", "audio=audio", "text=text"],
            "write 'question&&&a&&&b&&&c&&&d&&&0'; TABLE: the column of text is 'What?&&&a&&&0'.",
        ),
    ],
)  # fmt: skip
def test_candidates_that_do_not_fit_are_told_in_words_of_options(
    task, arguments, says, folder, run
):
    table = folder / "table.tsv"
    table.write_text("audio\ttext\na.wav\tWhat?&&&a&&&0\n")
    names = (".png", ".wav", ".tsv")
    done = run(model(task, folder), *(folder / a if a.endswith(names) else a for a in arguments))
    assert done.returncode == 2
    assert says.replace("TABLE", str(table)) in done.stderr.splitlines()[-1]


def test_without_a_tokenizer_it_is_asked_for_before_anything_is_read(folder, run):
    path = model("vqa", folder)
    (path / "tokenizer.json").unlink()
    done = run(path, "--images", folder / "gone.png", "--text", "what?")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the model needs a tokenizer for texts")
    assert "--tokenizer" in done.stderr
    assert "gone.png" not in done.stderr


def test_two_images_and_a_broken_one(folder, run):
    (folder / "c.png").write_bytes(b"none")
    a, b, c = (folder / f"{name}.png" for name in "abc")
    done = run(
        model("nlvr2", folder), "--images", a, c, "--images-2", b, b,
        "--text", "both", "--html", folder / "page.html", "--png", folder / "grid.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left out:" in done.stderr
    assert (folder / "page.html").read_text().count("data:image/jpeg") == 2
    assert Image.open(folder / "grid.png").size == (286, 341)


def test_rows_of_a_table_that_lack_something_are_named(folder, run):
    path = model("vqa", folder)
    table = folder / "table.tsv"
    table.write_bytes(
        b'image\tq\r\na.png\t"is ""it"", so?"\r\n\tno file\r\nb.png\t\r\nb.png\tx\r\n'
    )
    columns = ("--columns", "image=image", "text=q")
    done = run(path, "--table", table, *columns, "--out", folder / "out.tsv")
    assert done.returncode == 0, done.stderr
    assert [row["q"] for row in rows(folder / "out.tsv")] == ['is "it", so?', "x"]
    assert f"left out: {table}: 2 rows that lack image or q." in done.stderr
    table.write_text("image\tq\n\tno file\na.png\t\n")
    done = run(path, "--table", table, *columns)
    assert done.returncode == 2
    assert "no row has image and q." in done.stderr


def test_a_picture_of_clips_is_refused_before_they_are_heard(folder, run):
    done = run(model("vggsound", folder), "--audios", folder, "--png", folder / "grid.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert "with --html" in done.stderr


def test_videos_have_classes_in_a_table_and_no_page(folder, run):
    arch = dict(embed_dim=16, depth=1, num_heads=2, ffn_dim=24)
    video = OnePeaceVideoClassifier(dict(arch=arch, img_size=32, num_frames=2), dict(num_classes=3))
    video.classes = ("up", "down", "still")
    weights = {k.removeprefix("backbone."): v for k, v in video.state_dict().items()}
    checkpoint.write(folder / "v.safetensors", checkpoint.Conversion(weights, video.metadata()))
    (folder / "clips").mkdir()
    frames = [Image.new("RGB", (40, 30), (x, 0, 0)) for x in (0, 99, 200)]
    for name in ("a.gif", "b.webp"):
        frames[0].save(folder / "clips" / name, save_all=True, append_images=frames[1:])
    options = (folder / "v.safetensors", "--videos", folder / "clips")
    done = run(*options, "--top-k", "1", "--out", folder / "o.tsv")
    assert done.returncode == 0, done.stderr
    table = rows(folder / "o.tsv")
    assert list(table[0]) == ["video", "class1", "score1"]
    assert [row["video"][-6:] for row in table] == ["/a.gif", "b.webp"]
    assert {row["class1"] for row in table} <= {"up", "down", "still"}
    done = run(*options, "--html", folder / "p.html")
    assert (done.returncode, "show no videos" in done.stderr) == (2, True)
