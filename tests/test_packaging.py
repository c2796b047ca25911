"""The built wheel carries the package and what mim looks for, and imports alone."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import yaml

import mmonepeace
from mmonepeace.commands.download import FILES
from tests.conftest import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def build_wheel(tmp_path: Path) -> Path:
    source = tmp_path / "source"  # a build leaves folders behind
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "model-index.yml"):
        shutil.copy(ROOT / name, source)
    for name in ("mmonepeace", "configs", "tools"):
        shutil.copytree(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", str(source),
         "-w", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(tmp_path.glob("mmonepeace-*.whl"))


def test_wheel_holds_package_configs_and_tools_and_works(tmp_path):
    wheel = build_wheel(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "mmonepeace").rglob("*.py")]
    for name in (
        *modules,
        "mmonepeace/py.typed",
        "mmonepeace/visualization/gallery.html",
        "mmonepeace/page/page.html",
        "mmonepeace/visualization/gallery.css",
        "mmonepeace/.mim/configs/onepeace_upernet_ade20k.py",
        "mmonepeace/.mim/configs/_base_/models/onepeace_upernet.py",
        "mmonepeace/.mim/configs/metafile.yml",
        "mmonepeace/.mim/model-index.yml",
        "mmonepeace/.mim/tools/train.py",
        "mmonepeace/.mim/tools/dist_train.sh",
    ):
        assert name in names
    assert not [name for name in names if name.startswith("tests")]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mmonepeace; "
        "from mmengine.registry import MODELS; "
        "print(MODELS.build(dict(type='mmonepeace.OnePeace', arch='tiny')) and mmonepeace.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(wheel)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(wheel) in done.stdout


def test_the_installed_command_knows_the_recipes(tmp_path):
    """Of a wheel, in an environment of its own that has the libraries of this one."""
    wheel = build_wheel(tmp_path)
    venv.create(tmp_path / "venv", symlinks=True)
    [packages] = tmp_path.glob("venv/lib/python3*/site-packages")
    libraries = next(x for x in map(Path, sys.path) if (x / "torch").is_dir())
    # Without its .pth files, one of which may name this clone.
    (packages / "libraries.pth").write_text(f"{libraries}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv/bin/python")]
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", str(wheel)], check=True, capture_output=True
    )
    done = subprocess.run(
        [tmp_path / "venv/bin/mmonepeace", "train", "onepeace-tiny_upernet_emoji-128", "--dry-run"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "data/emoji_scenes" in done.stderr


def test_the_index_of_models_names_recipes_and_official_files():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    [path] = index["Import"]
    models = yaml.safe_load((ROOT / path).read_text())["Models"]
    urls = {file.url for file in FILES}
    for model in models:
        assert (ROOT / model["Config"]).stem == model["Name"]
        assert (ROOT / model["Config"]).is_file()
        assert model["Weights"] in urls


def test_versions_that_are_written_twice_agree():
    locked = dict(
        line.split("==") for line in (ROOT / "requirements/lock-full.txt").read_text().split()
    )
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert f"rev: v{locked['ruff']} " in hooks
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {mmonepeace.__version__}" in citation
    heading = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", CHANGELOG, re.MULTILINE)
    assert heading[1] == mmonepeace.__version__


def dry_run(folder: Path, *arguments: str) -> str:
    """What make would run, with the files that a build of an image has by then."""
    command = [
        "make",
        "-n",
        f"XDG_CACHE_HOME={folder}/cache",
        f"PYTHON={sys.executable}",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_an_image_is_built_from_the_lock_files(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    targets = re.findall(
        r"^RUN .*\bmake (packages|env)\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert targets == ["packages", "env"] * 2
    locks = "requirements/lock-base.txt", "requirements/lock-full.txt"
    assert all(f"-r {path}" in dry_run(tmp_path, "packages") for path in locks)


def test_an_environment_for_cpus_has_torch_from_its_index_and_no_cuda(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    steps = dry_run(tmp_path, "packages", "TORCH_INDEX=https://torch.example/cpu").splitlines()
    python = next(line.split()[0] for line in steps if " -m pip install" in line)
    assert re.search(r"/venv-\w+(-3\.12)?-cpu/bin/python$", python)
    pip = tmp_path / python.removeprefix(f"{tmp_path}/")
    pip.parent.mkdir(parents=True)
    # In place of pip: says what it was asked for.
    pip.write_text('#!/bin/sh\nfor x; do case $x in -|/dev/*) cat $x;; *) echo "$x";; esac; done\n')
    pip.chmod(0o755)
    done = [
        subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stderr.split()
        for line in steps
        if " -m pip install --no-deps --progress" in line
    ]
    assert len(done) == 4
    base, rest = set(done[0]), set(done[1])
    assert {"https://torch.example/cpu", "torch==2.13.0"} <= base
    assert "https://torch.example/cpu" not in rest
    assert not [
        x for x in rest | set(done[3]) if x.startswith(("nvidia", "cuda", "triton", "torch"))
    ]
    assert any(x.startswith("torchvision==") for x in done[2])
    assert any(x.startswith("numpy==") for x in rest)
