"""Distillation from the command line, on a tiny model and tiny data."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import apis, checkpoint
from mmonepeace.apis import feature_cache
from mmonepeace.commands import distill as distill_command
from mmonepeace.models import OnePeace
from mmonepeace.models.teachers import OnePeaceTeacher
from tests.conftest import ROOT, randomise
from tests.journeys.resuming import assert_same_run, left_by_a_kill
from tests.journeys.test_pretraining import logged, parameters
from tests.processes import run_in_two

RECIPE = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_distill_emoji-64.py"]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=32, depth=3, num_heads=2, ffn_dim=48), drop_path_rate=0.5
    ),
    teacher=dict(checkpoint="{teacher}", backbone=None),
)
train_dataloader = dict(batch_size=4, dataset=dict(max_broken=0.4))
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))
train_cfg = dict(max_iters=10)
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """So small a model gains nothing from more; and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of several sizes in a folder and in a table, a teacher, a recipe."""
    root = tmp_path_factory.mktemp("distillation")
    rng = np.random.default_rng(0)
    (root / "images/deep").mkdir(parents=True)
    lines = ["image"]
    for i in range(8):
        pixels = rng.integers(0, 255, (40 + 9 * i, 90 - 5 * i, 3)).astype(np.uint8)
        name = f"images/{'deep/' if i % 2 else ''}{i}.png"
        Image.fromarray(pixels).save(root / name)
        lines.append(name)
    (root / "train.tsv").write_text("\n".join(lines) + "\n")
    for number in (0, 1):
        torch.manual_seed(number)
        arch = dict(embed_dim=48, depth=2, num_heads=2, ffn_dim=64)
        teacher = randomise(OnePeace(arch, img_size=96, final_norm=True, layer_scale_init=1.0))
        weights = {f"backbone.{k}": v for k, v in teacher.state_dict().items()}
        torch.save({"state_dict": weights, "meta": {}}, root / f"teacher{number}.pth")
    (root / "recipe.py").write_text(RECIPE.format(root=ROOT, teacher=root / "teacher0.pth"))
    return root


@pytest.fixture(scope="module")
def distil(data):
    """Run the command in this process: options -> exit status."""

    def run(*options, recipe="recipe.py"):
        arguments = ["distill.py", data / recipe, "--data-root", data, *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*map(str, arguments)])
            return distill_command.main()

    return run


@pytest.fixture
def taught(monkeypatch):
    """Number of images of each call of a teacher."""
    counts = []
    features = OnePeaceTeacher.features

    def counted(self, name, value):
        counts.append(len(value))
        return features(self, name, value)

    monkeypatch.setattr(OnePeaceTeacher, "features", counted)
    return counts


@pytest.fixture(scope="module")
def finished(distil, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("finished")
    assert distil("--work-dir", work_dir) == 0
    return work_dir


def test_the_student_learns_and_its_checkpoint_is_a_backbone(finished, data):
    steps = logged(finished)
    assert steps[10]["cosine_image_dense"] > steps[1]["cosine_image_dense"]
    assert steps[10]["loss"] < steps[1]["loss"]
    saved = finished / "iter_10.pth"
    assert not [name for name in parameters(saved) if "teacher" in name]
    student = OnePeace(
        dict(embed_dim=32, depth=3, num_heads=2, ffn_dim=48, stem="overlapping"),
        img_size=128,
        rpb="per_block",
        stem_maps=True,
    )
    report = student.load_checkpoint(str(saved))
    assert report.missing == []
    embedder = apis.Embedder.from_checkpoint(finished, device="cpu", projections=False)
    (x_D,) = embedder.encode_features("image", [data / "images/0.png"], "cls")
    assert x_D.shape == (32,)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(finished, distil, tmp_path):
    work_dir = left_by_a_kill(tmp_path / "killed", finished)
    assert distil("--work-dir", work_dir, "--resume") == 0
    assert_same_run(work_dir, finished)


def test_images_of_a_folder_are_data(distil, tmp_path, capsys):
    options = ["train_dataloader.dataset.ann_file=images", "train_cfg.max_iters=1"]
    options += ["train_dataloader.dataset.columns.image=", "param_scheduler.0.end=1"]
    assert distil("--work-dir", tmp_path, "--cfg-options", *options) == 0
    assert (tmp_path / "iter_1.pth").exists()
    capsys.readouterr()
    options[0] = "train_dataloader.dataset.ann_file=nothing"
    assert distil("--work-dir", tmp_path / "b", "--cfg-options", *options) == 2
    assert "nothing" in capsys.readouterr().err


def test_cached_features_teach_as_computed_ones_do(distil, tmp_path, taught, capsys):
    assert distil("--features", tmp_path / "f", "--views", 2, "--features-only") == 0
    assert "16 views were computed" in capsys.readouterr().out
    assert sum(taught) == 16
    cached = ["--features", tmp_path / "f", "--views", 2]
    assert distil(*cached, "--work-dir", tmp_path / "cached") == 0
    assert "0 views were computed" in capsys.readouterr().out
    assert sum(taught) == 16  # training reads them
    steps = ["train_dataloader.dataset.pipeline.0.cache=False"]
    assert distil("--work-dir", tmp_path / "computed", "--cfg-options", *steps) == 0
    got, expected = logged(tmp_path / "cached"), logged(tmp_path / "computed")
    for step in range(1, 5):  # two epochs of two steps: the first two views
        assert got[step]["loss"] == pytest.approx(expected[step]["loss"], abs=2e-3)
    for name in ("a", "b"):  # a run that resumes reads the same views
        shutil.copytree(tmp_path / "cached", tmp_path / name)
    (tmp_path / "a/iter_10.pth").unlink()
    assert distil(*cached, "--work-dir", tmp_path / "a", "--resume") == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_cache_that_was_stopped_is_completed(distil, tmp_path, taught, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_SECONDS", 0)
    store = feature_cache.FeatureCache._store

    def store_or_die(self, computed):
        store(self, computed)
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache.FeatureCache, "_store", store_or_die)
    with pytest.raises(SystemExit):
        distil("--features", tmp_path, "--features-only")
    assert taught == [4]
    monkeypatch.setattr(feature_cache.FeatureCache, "_store", store)
    assert distil("--features", tmp_path, "--features-only") == 0
    assert taught == [4, 4]


def test_features_of_another_teacher_are_refused(distil, data, tmp_path, capsys):
    features = ["--features", tmp_path, "--features-only"]
    assert distil(*features) == 0
    assert distil(*features, "--checkpoint", data / "teacher1.pth") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} has features of weights" in error
    assert "Name another folder: --features DIR" in error
    assert distil(*features, "--cfg-options", "train_dataloader.dataset.pipeline.0.size=32") == 2
    assert "has features of pipeline" in capsys.readouterr().err


def test_features_train_where_the_teacher_is_not(distil, data, tmp_path, capsys):
    backbone = "dict(type='mmonepeace.OnePeace',arch=dict(_delete_=True,embed_dim=48,depth=2,num_heads=2,ffn_dim=64),img_size=96,final_norm=True)"
    text = (data / "recipe.py").read_text().replace("backbone=None", f"backbone={backbone}")
    (data / "known.py").write_text(text)
    known = ["--data-root", data, "--features", tmp_path / "f"]
    assert distil(*known, "--features-only", recipe="known.py") == 0
    text = text.replace("teacher0.pth", "elsewhere.pth").replace("max_iters=10", "max_iters=4")
    (data / "known.py").write_text(text)
    assert distil("--work-dir", tmp_path / "a", *known, recipe="known.py") == 0
    capsys.readouterr()
    others = ["--work-dir", tmp_path / "b", "--features", tmp_path / "g"]
    assert distil(*others, recipe="known.py") == 2
    assert "has no features, and the teacher does not exist" in capsys.readouterr().err
    assert not (tmp_path / "g/teacher.json").exists()


def test_features_are_of_images_that_nothing_changes_later(distil, data, tmp_path, capsys):
    text = (data / "recipe.py").read_text()
    text += "preprocessor = dict(type='mmonepeace.MultimodalDataPreprocessor')\n"
    text += "model['data_preprocessor'] = dict(preprocessor, augmentation=dict(flip=0.5))\n"
    (data / "flipped.py").write_text(text)
    assert distil("--features", tmp_path, recipe="flipped.py") == 2
    assert "augmentation changes images" in capsys.readouterr().err


def test_a_broken_image_is_left_out_of_the_cache(distil, data, tmp_path, taught, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(data / "images", copy / "images")
    shutil.copy(data / "train.tsv", copy)
    (copy / "images/2.png").write_bytes(b"nothing")
    (copy / "images/4.png").unlink()
    options = ["--data-root", copy, "--features", tmp_path / "f"]
    assert distil(*options, "--features-only") == 0
    assert "6 views were computed" in capsys.readouterr().out
    taught.clear()
    assert distil(*options, "--work-dir", tmp_path / "run") == 0
    assert taught == []
    facts = json.loads((tmp_path / "f/teacher.json").read_text())
    assert facts["format"] == "mmonepeace-teacher-features"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--timm", "vit_tin_patch16_224"], "Did you mean vit_tiny_patch16_224"),
        (["--checkpoint", "/nowhere.pth"], "/nowhere.pth"),
        (["--cfg-options", "model.techer.checkpoint=/nowhere.pth"], "model.techer"),
        (["--cfg-options", "model.dense_weight=-1"], "dense_weight"),
    ],
)
def test_a_wrong_teacher_is_one_line(distil, tmp_path, capsys, options, said):
    assert distil("--work-dir", tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error


def test_a_recipe_of_something_else_is_refused(data, tmp_path, monkeypatch, capsys):
    path = str(ROOT / "configs/tiny/onepeace-tiny_vl_emoji-64.py")
    monkeypatch.setattr(sys, "argv", ["distill.py", path])
    assert distill_command.main() == 2
    assert "has no model.teacher" in capsys.readouterr().err


def test_a_dry_run_keeps_nothing(distil, tmp_path, capsys):
    assert distil("--work-dir", tmp_path / "run", "--dry-run", "--features", tmp_path / "f") == 0
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "f").exists()


def test_the_checkpoint_says_what_the_student_is(finished):
    _, meta = checkpoint.read(finished / "iter_10.pth")
    assert meta["format"] == "mmonepeace"
    assert "task" not in meta


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_does(distil, data, tmp_path, strategy):
    text = (data / "recipe.py").read_text().replace("drop_path_rate=0.5", "drop_path_rate=0.0")
    text = text.replace("max_iters=10", "max_iters=2")
    (data / "one.py").write_text(text)
    (data / "two.py").write_text(text.replace("batch_size=4", "batch_size=2"))
    assert distil("--work-dir", tmp_path / "one", recipe="one.py") == 0
    run_in_two(
        "distill.py", data / "two.py", "--data-root", data, "--work-dir", tmp_path / "two",
        "--strategy", strategy,
    )  # fmt: skip
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    for step in (1, 2):
        assert two[step]["loss"] == pytest.approx(one[step]["loss"], rel=1e-4)
    expected, got = (parameters(tmp_path / name / "iter_2.pth") for name in ("one", "two"))
    assert list(got) == list(expected)
