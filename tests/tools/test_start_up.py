"""Help and errors of the command line come before the imports that take seconds."""

import re
import subprocess
import sys
from typing import get_args

import pytest

from mmonepeace import __version__, apis, choices
from mmonepeace.__main__ import main as command
from mmonepeace.commands import COMMANDS
from tests.conftest import ROOT

SCRIPTS = [p for p in sorted((ROOT / "tools").rglob("*.py")) if "__main__" in p.read_text()]
MM = {"mmengine", "mmcv", "mmseg", "mmdet", "mmpretrain"}
HEAVY = MM | {"torch", "matplotlib", "cv2", "scipy", "tokenizers", "tensorboard"}
# One interpreter for all of them.
HELP = f"""
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    for argument, status in ("--help", 0), ("--no-such-option", 2):
        sys.argv, sys.path[0] = [path, argument], path.rpartition("/")[0]
        if is_command := not path.endswith(".py"):
            sys.argv, sys.path[0] = ["mmonepeace", path, argument], {str(ROOT)!r}
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                if is_command:
                    runpy.run_module("mmonepeace", run_name="__main__")
                runpy.run_path(path, run_name="__main__")
            except SystemExit as end:
                assert end.code == status, (path, said.getvalue())
        assert said.getvalue().startswith("usage: "), (path, said.getvalue())
    if heavy := {HEAVY!r} & set(sys.modules):
        sys.exit(f"{{path}} imports {{heavy}}")
"""
API = f"""
import sys
from mmonepeace.apis import Embedder, EmbeddingIndex, Predictor, ZeroShotClassifier, combine
print(sorted({MM!r} & set(sys.modules)))
"""


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_and_wrong_options_import_nothing_heavy():
    done = run(HELP, *SCRIPTS, *COMMANDS)
    assert done.returncode == 0, done.stderr


def test_each_command_is_a_module_and_has_a_script():
    modules = {p.stem for p in (ROOT / "mmonepeace/commands").glob("*.py")} - {
        "__init__",
        "options",
    }
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    scripts = {
        re.search(r'run_command\("(.+)"\)', p.read_text())[1] for p in ROOT.glob("tools/*.py")
    }
    assert scripts == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 0, "usage: mmonepeace COMMAND"),
        (["--help"], 0, "  zero-shot "),
        (["--version"], 0, __version__),
        (["embd"], 2, "there is no command 'embd'. Did you mean embed?"),
        (["what"], 2, "mmonepeace --help lists them"),
        (["train", "--help"], 0, "usage: mmonepeace train "),
    ],
)
def test_the_command(arguments, status, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mmonepeace", *arguments])
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == status
    printed = capsys.readouterr()
    assert said in (printed.err if status else printed.out)


def test_the_api_imports_no_mm_library():
    done = run(API)
    assert done.stdout == "[]\n", done.stderr


def test_names_of_a_package_are_its_public_ones():
    assert dir(apis) == sorted(apis.__all__)
    assert all(getattr(apis, name) for name in apis.__all__)
    assert not hasattr(apis, "Embeder")


def test_what_can_be_chosen_is_what_there_is():
    assert set(get_args(choices.Dtype)) == apis.loading.DTYPES.keys()
    assert set(get_args(choices.Probe)) == apis.probe.KINDS.keys()
