"""The command lines of embedding: embed, search, zero_shot, heatmap, evaluate_retrieval."""

import json
import os
import re
import runpy
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mmonepeace.apis import Embedder, EmbeddingIndex, feature_cache, read_table, work_sharing
from mmonepeace.datasets import sample_errors
from mmonepeace.evaluation import RecallAtK
from tests.apis.conftest import TEXTS, write_data, write_model
from tests.conftest import ROOT
from tests.processes import Tool


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tool_model"))


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


@pytest.fixture
def run(monkeypatch, capsys):
    """A tool in this process: exit code, stdout, stderr."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def embed(run, model, data):
    """`embed.py` on the images, audio files and texts of `data`."""
    out = data / "index.safetensors"
    folders = ["--images", data / "images", "--audios", data / "audios"]
    texts = ["--texts", data / "texts.txt"]
    return lambda *options: run("embed.py", model, *folders, *texts, "--out", out, *options)


def test_embedding_lists_what_failed_and_does_nothing_twice(embed, data):
    code, out, err = embed()
    assert code == 0
    assert "4 text, 5 image, 3 audio items. 12 embedded, 0 kept, 0 no longer there" in out
    assert "2 failed" in out
    left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert ["broken.png" in left_out[0], "broken.wav" in left_out[1]] == [True, True]
    code, out, _ = embed()
    assert code == 0
    assert "0 embedded, 12 kept, 0 no longer there" in out
    (data / "images/a.png").unlink()
    assert "0 embedded, 11 kept, 1 no longer there" in embed()[1]
    code, out, _ = embed("--image-size", 32)
    assert "4 embedded, 7 kept" in out
    assert "4 old ones were of another model or other options" in out


def test_a_killed_run_is_resumed(model, tmp_path, run):
    texts, out = tmp_path / "many.txt", tmp_path / "index.safetensors"
    texts.write_text("\n".join(f"text number {i}" for i in range(1500)))
    arguments = [model, "--texts", texts, "--out", out, "--batch-size", 1]
    parts = tmp_path / "index.safetensors.parts"
    tool = Tool("embed.py", *arguments, "--device", "cpu")
    while len(list(parts.glob("*.safetensors"))) < 2 and tool.runs:
        time.sleep(0.01)
    tool.process.kill()
    assert tool.wait().returncode == -signal.SIGKILL
    assert not out.exists()
    kept = sum(len(EmbeddingIndex.load(part).items) for part in parts.glob("*.safetensors"))
    assert 1 < kept < 1500
    arguments[-1] = 64
    code, told, _ = run("embed.py", *arguments)
    assert code == 0
    assert f"{1500 - kept:,} embedded, {kept:,} kept" in told
    assert [i["text"] for i in EmbeddingIndex.load(out).items] == texts.read_text().split("\n")
    assert not parts.exists()


# ---------------------------------------------------------------------------- several processes


@pytest.fixture
def shared_work(model, data):
    """Arguments of `embed.py` for ten blocks of items, and what one process makes of them."""
    texts = "\n".join(f"rain {'and wind ' * (i % 9)}{i}" for i in range(60))
    (data / "texts.txt").write_text(texts)
    folders = (
        "--images",
        data / "images",
        "--audios",
        data / "audios",
        "--texts",
        data / "texts.txt",
    )
    arguments = ["embed.py", model, *folders, "--batch-size", 2, "--device", "cpu", "--out"]
    alone = Tool(*arguments, data / "alone.safetensors").wait()
    assert alone.returncode == 0, alone.stderr
    return arguments, (data / "alone.safetensors").read_bytes()


def torchrun(rank, size):
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}


def slurm(rank, size):
    return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size), "SLURM_LOCALID": str(rank)}


def impatient():
    work_sharing.BEAT_SECONDS, work_sharing.SILENT_SECONDS = 0.2, 3.0
    feature_cache.SHARD_SECONDS = 0


def killed():
    """After the second shard, as for want of memory."""
    impatient()
    save = EmbeddingIndex.save

    def then_end(self, path):
        save(self, path)
        if len(list(path.parent.glob(f"*-{os.getpid()}.safetensors"))) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    EmbeddingIndex.save = then_end


def broken():
    impatient()

    def fail(*_):
        raise RuntimeError("the GPU fell off")

    Embedder._forward = fail


def start(arguments, out, launcher, size, prepare=impatient, ranks=None):
    return [
        Tool(*arguments, out, environment=launcher(rank, size), prepare=prepare)
        for rank in (range(size) if ranks is None else ranks)
    ]


@pytest.mark.parametrize(("launcher", "size"), [(torchrun, 2), (slurm, 3)])
def test_processes_make_the_index_of_one(shared_work, data, launcher, size):
    arguments, alone = shared_work
    out = data / "shared.safetensors"
    first, *others = (tool.wait() for tool in start(arguments, out, launcher, size))
    assert first.returncode == 0, first.stderr
    assert "60 text, 5 image, 3 audio items. " in first.stdout
    # What the others had done when the first one started is kept.
    embedded, kept = re.search(r"(\d+) embedded, (\d+) kept", first.stdout).groups()
    assert int(embedded) + int(kept) == 68
    assert first.stderr.count("left out: ") == 2
    for other in others:
        assert (other.returncode, other.stdout, other.stderr) == (0, "", "")
    assert out.read_bytes() == alone
    assert not (data / "shared.safetensors.parts").exists()
    again = [tool.wait() for tool in start(arguments, out, launcher, size)]
    assert "0 embedded, 68 kept" in again[0].stdout
    assert not (data / "shared.safetensors.parts").exists()


def test_processes_may_run_one_after_another(shared_work, data):
    arguments, alone = shared_work
    out = data / "shared.safetensors"
    for rank in (2, 1):
        (tool,) = start(arguments, out, slurm, 3, ranks=[rank])
        assert tool.wait().returncode == 0
        assert not out.exists()
    (tool,) = start(arguments, out, slurm, 3, ranks=[0])
    done = tool.wait()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("left out: ") == 2  # found by other processes
    assert out.read_bytes() == alone


@pytest.mark.parametrize(
    ("prepare", "status", "words"),
    [
        (killed, -signal.SIGKILL, "no sign of it for 3 s"),
        (broken, 1, "RuntimeError: the GPU fell off"),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_a_process_that_ends_is_named_and_the_same_command_resumes(
    shared_work, data, prepare, status, words, size
):
    arguments, alone = shared_work
    out = data / "shared.safetensors"
    (other,) = start(arguments, out, torchrun, 2, prepare, [1])
    (first,) = start(arguments, out, torchrun, 2, ranks=[0])
    assert other.wait().returncode == status
    done = first.wait()
    assert done.returncode == 2
    *_, error = done.stderr.splitlines()
    assert error.startswith("error: 1 of 2 processes have not done their part: process 1 lacks ")
    assert words in error
    assert error.endswith(f"What is done is in {out}.parts: the same command resumes.")
    assert not out.exists()
    # As patient as usual: on a busy machine the second process begins seconds later.
    resumed = [tool.wait() for tool in start(arguments, out, torchrun, size, None)]
    assert resumed[0].returncode == 0, resumed[0].stderr
    assert " 0 kept" not in resumed[0].stdout
    assert out.read_bytes() == alone
    assert not (data / "shared.safetensors.parts").exists()


def test_a_mistake_is_said_by_the_first_process_alone(model, tmp_path):
    arguments = "embed.py", model, "--texts", tmp_path / "gone.txt", "--out"
    ends = [tool.wait() for tool in start(arguments, tmp_path / "i.safetensors", torchrun, 2)]
    assert [end.returncode for end in ends] == [2, 2]
    assert [len(end.stderr.splitlines()) for end in ends] == [1, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--texts", "gone.txt"], "gone.txt"),
        (["--images", "gone"], "gone is not a folder"),
        (["--images", "{model}"], "has no image files"),
        (["--texts", "{data}/texts.txt", "--tokenizer", "gone.json"], "gone.json: no such file"),
    ],
)
def test_mistakes_of_embedding_are_one_line(run, model, data, options, words):
    options = [o.format(data=data, model=model.parent) for o in options]
    code, out, err = run("embed.py", model, *options, "--out", data / "i.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_item_is_found_by_itself(embed, run, data):
    embed()
    index = data / "index.safetensors"
    queries = [("image", data / "images/deep/c.PNG"), ("audio", data / "audios/y.flac")]
    for modality, value in [*queries, ("text", TEXTS[1])]:
        code, out, _ = run("search.py", index, f"--{modality}", value, "--k", 3)
        header, first, *others = out.splitlines()
        assert code == 0
        assert header.split() == ["rank", "cosine", "in", "what"]
        assert first.split(maxsplit=3)[:3] == ["1", "1.0000", modality]
        assert first.endswith(os.path.basename(value))
        assert len(others) == 2


def test_parts_of_a_query_keep_their_order_and_weights(embed, run, data):
    embed()
    index, image = data / "index.safetensors", data / "images/a.png"
    query = ["--text", TEXTS[0], "--image", image, "--text", TEXTS[2]]
    _, out, _ = run("search.py", index, *query, "--weights", 0, 1, 0, "--k", 1)
    assert "1.0000  image" in out
    _, out, _ = run("search.py", index, *query, "--weights", 0, -1, 0, "--k", 12)
    assert "-1.0000  image" in out.splitlines()[-1]
    _, out, _ = run("search.py", index, *query, "--in", "audio", "--k", 50)
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["audio"] * 3
    code, _, err = run("search.py", index, *query, "--weights", 1)
    assert code == 2
    assert "1 weights for 3 parts" in err


def test_a_moved_index_draws_its_results(embed, run, data, tmp_path):
    embed()
    data.rename(tmp_path / "moved")
    page = tmp_path / "moved/found.html"
    query = ["--text", "a <b> cat", "--k", 12, "--html", page]
    code, out, _ = run("search.py", tmp_path / "moved/index.safetensors", *query)
    assert code == 0
    assert f"the results are drawn in {page}" in out
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 5
    assert html.count("<audio") == 3
    assert "no such file" not in html
    assert "a &lt;b&gt; cat" in html


def test_another_checkpoint_is_refused(embed, run, data, tmp_path):
    embed()
    other = write_model(tmp_path / "other", seed=1)
    query = ["--text", "rain", "--checkpoint", other]
    code, out, err = run("search.py", data / "index.safetensors", *query)
    assert (code, out) == (2, "")
    assert "made with another checkpoint" in err
    assert "--checkpoint" in err
    assert len(err.splitlines()) == 1


def test_zero_shot_of_a_folder(run, model, data):
    classes = ["--classes", "dog, cat,red chair", "--top", 2]
    code, out, err = run("zero_shot.py", model, "--images", data / "images", *classes)
    assert code == 0
    assert len(out.splitlines()) == 6  # a header and five that can be read
    assert "left out: " in err
    assert "broken.png" in err
    code, _, err = run("zero_shot.py", model, "--audios", data / "audios/x.wav")
    assert code == 2
    assert "--classes" in err


def test_zero_shot_of_a_table_is_measured(run, model, data):
    table, out_file = data / "val.tsv", data / "new/predictions.tsv"
    rows = [("a.png", "cat"), ("b.jpg", "dog"), ("deep/e.bmp", "cat"), ("broken.png", "dog")]
    table.write_text("image\tkind\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    columns = ["--path-column", "image", "--label-column", "kind", "--root", data / "images"]
    code, out, err = run("zero_shot.py", model, "--tsv", table, *columns, "--out", out_file)
    assert code == 0, err
    assert "3 items, 2 classes" in out
    header, *lines = [line.split("\t") for line in out_file.read_text().splitlines()]
    assert header == ["image", "label", "class1", "p1", "class2", "p2"]
    right = sum(line[1] == line[2] for line in lines)
    assert len(lines) == 3
    assert f"top-1 {right / 3:.2%}" in out
    assert "a random guess 50.00%, the most frequent class 66.67%" in out
    code, _, err = run("zero_shot.py", model, "--tsv", table, "--label-column", "gone")
    assert code == 2
    assert "no column gone; there is image, kind" in err


@pytest.fixture
def labelled(data):
    """Options of images, one of them broken, and their label maps of two classes."""
    for path in sorted((data / "images").rglob("*.*")):
        label_map = data / "labels" / path.relative_to(data / "images").with_suffix(".png")
        label_map.parent.mkdir(parents=True, exist_ok=True)
        size = (60, 40)
        if path.name != "broken.png" and path.suffix != ".txt" and path.name[0] != ".":
            size = Image.open(path).size
        labels = np.ones(size[::-1], np.uint8)
        labels[:20], labels[-1] = 0, 255
        Image.fromarray(labels).save(label_map)
    return ["--dense", "--images", data / "images", "--labels", data / "labels"]


def test_zero_shot_segmentation_is_measured(run, model, data, labelled):
    classes, out_file = ["--classes", "dog; cat,red chair"], data / "new/ious.json"
    slide = ["--values", "--short-side", 64, "--window", 48]
    code, out, err = run("zero_shot.py", model, *labelled, *classes, *slide, "--out", out_file)
    assert code == 0, err
    assert "5 images, 2 classes" in out
    assert "broken.png" in err
    stored = json.loads(out_file.read_text())
    assert (stored["values"], stored["window"], stored["images"]) == (True, 48, 5)
    assert [row["class"] for row in stored["classes"]] == ["dog", "red chair"]
    assert f"patches {stored['miou']['patches']:.2%}" in out
    assert "random labels" in out
    code, out, err = run("zero_shot.py", model, *labelled, *classes, "--out", data / "ious.tsv")
    assert code == 0, err
    assert (data / "ious.tsv").read_text().startswith("class\tpixels\tiou_patches\tiou_CLS\n")


def test_faults_of_zero_shot_segmentation_are_one_line(run, model, data, labelled):
    def fails(*options, words):
        code, _, err = run("zero_shot.py", model, *options)
        assert code == 2
        lines = [line for line in err.splitlines() if "segment: " not in line]
        assert len(lines) == 1 or lines[0].startswith("usage: ")
        assert words in lines[-1]

    names = ["--classes", "dog,cat"]
    fails(*labelled, "--classes", "dog", words="'dog' is the only class")
    fails(*labelled, *names, "--reduce-zero-label", "--stride", 8, words="stride is 8")
    fails(*labelled[:3], *names, words="--images, --labels")
    fails(*labelled[1:], *names, words="only with --dense: --labels")
    Image.fromarray(np.full((40, 60), 2, np.uint8)).save(data / "labels/a.png")
    fails(*labelled, *names, words="a.png has label 2, but 2 classes are named")
    (data / "labels/a.png").unlink()
    fails(*labelled, *names, words="1 of 6 images have no label map")


def test_heat_maps_are_drawn(run, model, data):
    queries = ["--text", "a dog", "--audio", data / "audios/x.wav", "--image-size", 64]
    out = data / "new/maps.png"
    code, told, err = run("heatmap.py", model, data / "images/b.jpg", *queries, "--out", out)
    assert code == 0, err
    assert [line.split()[0] for line in told.splitlines()[1:3]] == ["a", "x.wav"]
    assert Image.open(out).width > 1000
    code, _, err = run("heatmap.py", model, data / "images/broken.png", *queries)
    assert code == 2
    assert "broken.png" in err


@pytest.fixture
def triples(data):
    """A table with an empty cell of each kind, equal texts, and files that cannot be read."""
    rows = [
        ("a.png", "a cat", "x.wav"), ("b.jpg", "a dog", ""), ("deep/c.PNG", "a cat", "y.flac"),
        ("", "rain", "z.ogg"), ("broken.png", "a bird", "gone.wav"), ("a.png", "", ""),
    ]  # fmt: skip
    folders = ("images/", "", "audios/")
    lines = (
        "\t".join(folder * bool(v) + v for folder, v in zip(folders, row, strict=True))
        for row in rows
    )
    (data / "val.tsv").write_text("\n".join(["picture\tcaption\tsound", *lines, ""]))
    return data / "val.tsv"


TRIPLE = ["--columns", "image=picture", "text=caption", "audio=sound"]


def test_retrieval_between_three_modalities_is_measured_and_drawn(run, model, triples):
    out, gallery = triples.parent / "new/metrics.json", triples.parent / "new/gallery.png"
    options = ["--k", 1, 2, "--out", out, "--gallery", gallery, "--queries", 2, "--results", 3]
    directions = ["--directions", "text_to_image", "audio_to_text"]
    code, told, err = run(
        "evaluate_retrieval.py", model, "--table", triples, *TRIPLE, *options, *directions
    )
    assert code == 0, err
    header, *lines = told.splitlines()
    assert header.split() == ["direction", "queries", "items", "R@1", "chance@1", "R@2", "chance@2"]
    cells = {" ".join(line.split()[:3]): line.split()[3:] for line in lines[:6]}
    assert len(cells) == 6
    # Two images are of "a cat": it matches two of three images, "a dog" one.
    assert cells["text to image"][:2] == ["2", "3"]
    assert cells["text to image"][3::2] == ["50.00", "83.33"]
    assert cells["image to text"][:2] == ["3", "2"]
    assert cells["audio to image"][:2] == ["2", "2"]
    left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert ["broken.png" in left_out[0], "gone.wav" in left_out[1], len(left_out)] == [1, 1, 2]
    numbers = json.loads(out.read_text())
    assert numbers["left_out"] == 2
    assert numbers["sizes"]["text_to_image"] == {"queries": 2, "items": 3}
    assert float(cells["text to image"][2]) == round(numbers["metrics"]["text_to_image_R@1"], 2)
    assert Image.open(gallery).height > 2 * 2 * 1.5 * 100


def test_the_tool_measures_what_the_metric_does(run, model, triples, tmp_path):
    embedder = Embedder.from_checkpoint(model, device="cpu", output="torch")
    pairs = [("a.png", "a cat"), ("b.jpg", "a dog"), ("deep/c.PNG", "a cat")]
    images = [str(triples.parent / "images" / name) for name, _ in pairs]
    x = embedder.encode_image(images), embedder.encode_text([text for _, text in pairs])
    samples = [
        {"img_path": path, "text": text, "embeddings": {"image": x[0][i], "text": x[1][i]}}
        for i, (path, (_, text)) in enumerate(zip(images, pairs, strict=True))
    ]
    metric = RecallAtK(topk=(1, 2))
    metric.process(None, samples)
    out = tmp_path / "metrics.json"
    code, *_ = run(
        "evaluate_retrieval.py", model, "--table", triples, *TRIPLE[:3], "--k", 1, 2, "--out", out
    )
    assert code == 0
    got = {f"retrieval/{k}": v for k, v in json.loads(out.read_text())["metrics"].items()}
    assert got == pytest.approx(metric.evaluate(3))


def test_by_the_official_rule_each_caption_is_a_query(run, model, triples, tmp_path):
    out = tmp_path / "metrics.json"
    columns = TRIPLE[:3]
    options = "--rule", "official", "--k", 1, 2, "--out", out, "--gallery", tmp_path / "g.png"
    code, told, err = run("evaluate_retrieval.py", model, "--table", triples, *columns, *options)
    assert code == 0, err
    numbers = json.loads(out.read_text())
    assert numbers["rule"] == "official"
    assert numbers["sizes"]["text_to_image"] == {"queries": 3, "items": 3}
    # "a cat", the caption of two images, is two queries with one of three images each.
    assert numbers["metrics"]["text_to_image_R@1_chance"] == pytest.approx(100 / 3)
    recalls = [v for k, v in numbers["metrics"].items() if "_to_" in k and "chance" not in k]
    assert numbers["metrics"]["r_mean"] == pytest.approx(sum(recalls) / 4)
    assert f"all {numbers['metrics']['r_mean']:.2f}" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rule", "ours"], "invalid choice: 'ours'"),
        (["--columns", "text=caption"], "two or more of MODALITY=COLUMN"),
        (["--columns", "text=caption", "text=picture"], "two or more of MODALITY=COLUMN"),
        (["--columns", "text=caption", "image"], "such as text=caption"),
        (["--columns", "text=caption", "image=gone"], "there is no column gone; there is picture"),
        ([*TRIPLE[:3], "--root", "/nowhere"], "none of 4 image items can be read"),
        (
            [*TRIPLE[:3], "--directions", "text", "--gallery", "g.png"],
            "choose from image_to_text",
        ),
        ([*TRIPLE[:3], "--tokenizer", "gone.json"], "gone.json"),
    ],
)
def test_mistakes_of_measuring_name_their_fix(run, model, triples, options, words):
    code, _, err = run("evaluate_retrieval.py", model, "--table", triples, *options)
    assert code == 2
    assert words in err


def test_file_names_that_are_not_utf8_come_back_from_every_file(run, model, data):
    odd = data / "images" / os.fsdecode(b'caf\xe9 "b"\t.png')
    (data / "images/a.png").rename(odd)
    index, page = data / "i.safetensors", data / os.fsdecode(b"\xe9.html")
    code, _, err = run("embed.py", model, "--images", data / "images", "--out", index)
    assert code == 0, err
    read = EmbeddingIndex.load(index)
    assert str(odd) in [os.path.normpath(read.content(item)) for item in read.items]
    code, out, err = run("search.py", index, "--image", odd, "--k", 1, "--html", page)
    assert (code, "caf?" in out) == (0, True), err
    assert "images/caf%E9%20" in page.read_text()

    options = "--classes", "dog,cat", "--out", data / "p.tsv"
    code, _, err = run("zero_shot.py", model, "--images", data / "images", *options)
    assert code == 0, err
    modality, paths, _ = read_table(data / "p.tsv", "image", "class1")
    assert modality == "image"
    assert str(odd) in paths

    rows = {"image": str(odd), "caption": "a"}, {"image": "x" * 300 + ".png", "caption": "b"}
    table = data / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    columns = "--columns", "image=image", "text=caption", "--gallery", data / "g.png"
    code, out, err = run("evaluate_retrieval.py", model, "--table", table, *columns)
    assert code == 0, err
    assert f"left out: {data / ('x' * 300)}.png: no such file" in err
    code, out, err = run("heatmap.py", model, odd, "--text", "a", "--out", data / "h.png")
    assert code == 0, err


def test_metadata_of_an_index_may_be_any_bytes(tmp_path):
    meta = {"a": os.fsdecode(b"caf\xe9"), "b": '"quoted"', "c": "plain", "d": ""}
    EmbeddingIndex(np.ones((1, 2)), [{"modality": "text", "text": "a"}], meta).save(tmp_path / "i")
    assert EmbeddingIndex.load(tmp_path / "i").meta == meta


@pytest.mark.parametrize(
    "items",
    [[], {}, [1], [{"text": "a"}], [{"modality": "video", "path": "a"}], [{"modality": "text"}]],
)
def test_an_index_with_damaged_items_is_named(run, items, tmp_path):
    EmbeddingIndex(np.ones((len(items), 2)), items).save(tmp_path / "i.safetensors")
    code, _, err = run("search.py", tmp_path / "i.safetensors", "--text", "a")
    assert code == 2
    assert "i.safetensors" in err or "the index does not say its dtype" in err


def test_pictures_in_their_transparency_alone_need_a_background(run, model, data, monkeypatch):
    monkeypatch.setattr(sample_errors, "_said", set())
    for i in range(3):
        picture = np.zeros((40, 40, 4), np.uint8)
        picture[8 * i : 8 * i + 16, :, 3] = 255
        Image.fromarray(picture).save(data / f"images/logo{i}.png")
    index = data / "i.safetensors"

    def logos(*options):
        options = "--images", data / "images", "--out", index, *options
        code, out, err = run("embed.py", model, *options)
        assert code == 0, err
        read = EmbeddingIndex.load(index)
        rows = [i for i, item in enumerate(read.items) if "logo" in item["path"]]
        return read.embeddings[rows], out, read.meta

    with pytest.warns(UserWarning, match="drawn in its transparency alone"):
        black, _, meta = logos()
    assert np.allclose(black[0], black)
    assert meta["alpha"] == ""
    white, out, meta = logos("--alpha", "white")
    assert not np.allclose(white[0], white[1:], atol=1e-3)
    assert meta["alpha"] == "white"
    assert "8 old ones were of another model or other options" in out
    assert run("search.py", index, "--image", data / "images/logo1.png", "--k", 1)[1].count(
        "1.0000"
    )
    code, _, err = run(
        "embed.py", model, "--images", data / "images", "--out", index, "--alpha", "whit"
    )
    assert (code, "expected 'drop', or a colour" in err) == (2, True)
