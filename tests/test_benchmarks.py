import importlib
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmonepeace.models import OnePeace
from tests.conftest import ROOT
from tests.processes import run_tool

BENCH = ROOT / "benchmarks/bench.py"


@pytest.mark.parametrize(
    ("chosen", "ways"),
    [
        (["tokens-257"], ["ours"]),
        (
            ["text", "tokens-257", "step-48", "--sizes", "48"],
            ["ours", "padded to the longest", "ours", "ours", "ours, activation checkpointing"],
        ),
    ],
)
def test_bench_times_every_way_of_the_workloads_and_writes_table_json_and_plot(
    chosen, ways, tmp_path
):
    table, plot = tmp_path / "rows.json", tmp_path / "curves.png"
    done = run_tool(
        BENCH, "--arch", "tiny", "--against", "none", "--rounds", "2", "--peak-side", "256",
        "--only", *chosen,
        "--json", table, "--plot", plot,
    )  # fmt: skip
    rows = json.loads(table.read_text())
    # Those in bfloat16 are measured where the machine multiplies it fast.
    assert [row["way"] for row in rows if "bf16" not in row["way"]] == ways
    for row in rows:
        assert 0 < row["share"] < 1.5
        assert row["memory"] > 0
        assert f"| {row['workload']} | {row['way']} | {row['seconds']:.3f} |" in done.stdout
    with Image.open(plot) as image:
        colours = image.convert("RGB").getcolors(image.width * image.height)
    assert len(colours) > 10  # of lines, not an empty sheet


def test_an_unknown_workload_is_refused_with_those_that_exist():
    done = run_tool(BENCH, "--only", "txet", check=False)
    assert done.returncode == 2
    assert "txet" in done.stderr
    assert "embedder-audio" in done.stderr


def test_a_plot_of_workloads_without_a_curve_is_refused_before_anything_is_timed(tmp_path):
    done = run_tool(BENCH, "--only", "text", "--plot", tmp_path / "x", check=False)
    assert done.returncode == 2
    assert "tokens-257" in done.stderr


@pytest.mark.parametrize("size", [64, 512])
def test_operations_counted_from_a_run_are_those_of_the_formula(size, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    runs = importlib.import_module("runs")
    model = OnePeace("tiny", img_size=size)
    images, tokens = torch.zeros(2, 3, size, size), (size // 16) ** 2 + 1
    arch, one = model.arch, runs.dense_operations(model, ("layers",))
    built = runs.vit_run(
        model, lambda x: model.embed({"image": x}), images, arch.depth, arch.embed_dim, train=False
    )
    stem = runs.operations_of(lambda: model.embed({"image": images}))
    attention = 4 * arch.depth * arch.embed_dim * tokens**2
    assert built.operations == stem + 2 * (tokens * one + attention)
    # Attention by blocks pads keys to full cache lines.
    assert runs.operations_of(built.run) == pytest.approx(built.operations, rel=0.01)


def test_large_indexes_are_searched_and_results_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("search_scale")
    monkeypatch.setattr(scale, "in_own_process", lambda function, *arguments: function(*arguments))
    options = "--counts", "300", "5000", "--width", "16", "--folder", str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search_scale.py", *options])
    monkeypatch.setitem(sys.modules, "faiss", None)
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ")[:2] for line in lines if line.startswith("| ")]
    exact = [["| 300", "ours"], ["| 300", "whole"], ["| 5,000", "ours"], ["| 5,000", "whole"]]
    assert rows[1:] == exact
    assert len(list(tmp_path.iterdir())) == 2


def test_recipes_are_measured_on_the_split_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    recipes = importlib.import_module("recipes")
    for name, recipe in recipes.RECIPES.items():
        cfg = Config.fromfile(ROOT / f"configs/tiny/{recipe.config}.py")
        before = [cfg.test_dataloader.to_dict(), Config(dict(e=cfg.test_evaluator)).to_dict()]
        after = recipes.renamed(before, "held")
        assert "val" in re.split(r"[\W_]+", str(before)), name
        words = re.split(r"[\W_]+", str(after))
        assert "held" in words, name
        assert "val" not in words, name


def test_rows_that_are_held_out_are_not_trained_on(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    recipes = importlib.import_module("recipes")
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir(), out.mkdir()
    lines = ["audio\tlabel\tspeaker", "a.flac\tone\tanna", "b.flac\ttwo\tben", "c.flac\ttwo\tanna"]
    (data / "train.tsv").write_text("\n".join(lines) + "\n")
    recipe = recipes.RECIPES["fsdd"]._replace(held_out=("speaker", "anna"))
    recipes.without_rows(recipe, data, out)
    assert (out / "train.tsv").read_text() == f"{lines[0]}\n{data}/b.flac\ttwo\tben\n"
    assert (out / "val.tsv").read_text().count("anna") == 2
    with pytest.raises(SystemExit, match="where speaker is 'carl'"):
        recipes.without_rows(recipe._replace(held_out=("speaker", "carl")), data, out)
    (data / "val.tsv").write_text("\n".join([lines[0], "d.flac\tone\tben"]) + "\n")
    recipes.without_rows(recipe._replace(tables=("train.tsv", "val.tsv")), data, out)
    assert (out / "train.tsv").read_text().splitlines()[1:] == [
        f"{data}/b.flac\ttwo\tben",
        f"{data}/d.flac\tone\tben",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("emoji-scenes", "| emoji-scenes | mIoU 30.0 ± 14.1 (45) | 0.50 (1) | 5.0 |"),
        ("emoji-scenes-mask2former", "| emoji-scenes-mask2former | mIoU 30.0 ± 14.1 | 0.50 (1) | 5.0 |"),
    ],
)  # fmt: skip
def test_a_recipe_without_a_target_has_no_brackets(name, says, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    recipes = importlib.import_module("recipes")
    runs = [
        dict(seconds=seconds, scores={"mIoU": miou}) for seconds, miou in ((200, 20), (400, 40))
    ]
    assert recipes.row(name, runs, unit=600).startswith(says)


def test_recipes_without_data_are_refused_before_anything_is_timed(tmp_path):
    done = run_tool(
        ROOT / "benchmarks/recipes.py", "--data-root", tmp_path, "--only", "bccd", check=False
    )
    assert done.returncode == 2
    assert f"no data for bccd: expected {tmp_path}/bccd" in done.stderr


def test_what_a_recipe_starts_from_is_trained_first_and_needs_its_data_too(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    recipes = importlib.import_module("recipes")
    trained = []

    def train(command, **_):
        trained.append(command[-1])
        folder = tmp_path / f"{command[-1]}-val-3"
        (folder / "result.json").write_text('{"seconds": 1, "scores": {}}')
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(recipes.subprocess, "run", train)
    args = SimpleNamespace(data_root=tmp_path, work_dir=tmp_path, split="val", steps=None)
    for _ in range(2):  # what has been measured is not repeated
        recipes.run("labelmefacade-pretrained", 3, args)
    assert trained == ["emoji", "labelmefacade-pretrained"]

    (tmp_path / "labelmefacade").mkdir()
    done = run_tool(
        ROOT / "benchmarks/recipes.py",
        *("--data-root", tmp_path, "--only", "labelmefacade-pretrained"),
        check=False,
    )
    assert done.returncode == 2
    assert f"no data for emoji: expected {tmp_path}/emoji" in done.stderr


def test_a_roofline_counts_the_operations_of_the_blocks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    roofline, runs = map(importlib.import_module, ("roofline", "runs"))
    with torch.device("meta"):
        model = OnePeace("tiny", img_size=64)
        tokens = model.embed({"image": torch.empty(2, 3, 64, 96)})
        counted = runs.operations_of(model.layers, tokens, [model.arch.depth - 1])
    # What resamples the table for this grid is counted too.
    assert sum(roofline.operations(model.arch, 25, 2)) == pytest.approx(counted, rel=1e-4)
    steps = roofline.step(model.arch, 896, 1, roofline.GPUS["H100"])
    kept = {name: found[2] for name, found in steps.items()}
    assert kept["recomputed"] == kept["looked up"] == 0 < kept["stored"]


def test_the_script_for_gpus_prints_a_row_for_each_way(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    monkeypatch.setitem(gpu.kernels._BACKENDS, "eager", None)  # restores it afterwards
    monkeypatch.delitem(gpu.OURS, "ours, compiled")  # a minute on a CPU
    command = ["gpu.py", "--device", "cpu", "--archs", "tiny", "--sizes", "64"]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    rows = [
        line.split(" | ")[3:5] for line in capsys.readouterr().out.splitlines() if "tiny" in line
    ]
    expected = [("step", "plain"), ("step", "ours"), ("step", "ours, checkpointed")]
    expected += [("forward", "plain"), ("forward", "ours")]
    assert [tuple(row) for row in rows[-5:]] == expected


def test_what_a_sample_and_a_step_wait_for_is_measured_of_each_pipeline(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    data_time = importlib.import_module("data_time")
    monkeypatch.setattr(data_time, "WIDTH", 2000)
    monkeypatch.setattr(data_time, "HEIGHT", 1000)
    monkeypatch.setattr(data_time, "_WORKERS", (0,))
    options = "--images", "2", "--rounds", "1", "--batches", "1", "--steps", "0.01"
    monkeypatch.setattr(sys, "argv", ["data_time.py", *options, "--folder", str(tmp_path)])
    data_time.main()
    text = capsys.readouterr().out
    for transform in ("LoadImageFromFile", "mmonepeace.LoadImageFromFile", "PackSegInputs"):
        assert re.search(rf"^\| {re.escape(transform)} \| 0\.\d+ \|", text, re.MULTILINE)
    assert len(re.findall(r"^\| (recipe|largest_scale) \| 0 \| \d", text, re.MULTILINE)) == 2
    assert not list(tmp_path.iterdir())
