"""Tools started with a Python that has no packages name it and the fix, in one line."""

import subprocess
import sys
import venv

import pytest

from mmonepeace.missing_packages import explain_missing_packages
from tests.conftest import ROOT

# Tools show their help without packages, and need them for these commands. FILE is there.
COMMANDS = {
    "convert_checkpoint": "FILE out.pth --to full",
    "convert_index": "FILE out.parquet",
    "convert_tokenizer": "--dict FILE --bpe FILE --encoder FILE out.json",
    "demo": "--port 0",
    "distill": "FILE",
    "doctor": "FILE",
    "estimate": "FILE",
    "embed": "FILE --texts FILE --out out.safetensors",
    "evaluate_retrieval": "FILE --table FILE --columns image=a text=b",
    "export": "FILE out.onnx --to onnx",
    "heatmap": "FILE FILE --text sky",
    "predict": "FILE --images FILE",
    "pretrain": "FILE",
    "probe": "FILE --modality image --train FILE --val FILE --kind knn --out out.csv",
    "search": "FILE --text sky",
    "show_predictions": "FILE FILE",
    "test": "FILE FILE",
    "train": "FILE --cfg-options a=1",
    "train_tokenizer": "FILE out.json --vocab-size 9",
    "zero_shot": "FILE --images FILE --classes a,b",
}
# The converters are files that import each other, and need packages for their help, too.
CONVERTERS = [
    path
    for path in sorted((ROOT / "tools/dataset_converters").glob("*.py"))
    if "__main__" in path.read_text()
]
COMMANDS = {ROOT / f"tools/{name}.py": text.split() for name, text in COMMANDS.items()}
COMMANDS |= {path: ["--help"] for path in CONVERTERS}


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """The interpreter of an environment with nothing but the standard library."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin/python"


def test_each_tool_has_a_command_or_needs_no_packages():
    tools = set((ROOT / "tools").glob("*.py")) - COMMANDS.keys()
    assert tools == {ROOT / "tools/download.py"}  # whose progress bar is one of a package


@pytest.mark.parametrize("tool", COMMANDS, ids=lambda path: path.stem)
def test_another_python_is_told_which_one_to_use(bare_python, tool, tmp_path):
    (tmp_path / "FILE").write_text("a\n")
    done = subprocess.run(
        [bare_python, "-B", tool, *COMMANDS[tool]],
        cwd=tmp_path, env={}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"error: {bare_python} has no package" in done.stderr
    assert f"PY=$(make -s python), then $PY {tool}" in done.stderr


def test_a_missing_module_of_the_project_is_a_bug_and_raises():
    with pytest.raises(ModuleNotFoundError), explain_missing_packages():
        import mmonepeace.not_there  # noqa: F401


def test_names_imported_inside_are_there_afterwards():
    with explain_missing_packages():
        import json as imported
    assert imported is sys.modules["json"]


def test_a_signal_while_importing_is_a_line(capsys):
    with pytest.raises(SystemExit) as error, explain_missing_packages():
        raise KeyboardInterrupt
    assert error.value.code == 130
    assert capsys.readouterr().err == "\nSIGINT: stopped before anything was done.\n"
