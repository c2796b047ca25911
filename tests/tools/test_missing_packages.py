"""Tools started with a Python that has no packages name it and the fix, in one line."""

import subprocess
import sys
import venv

import pytest

from mmonepeace.missing_packages import explain_missing_packages
from tests.conftest import ROOT

# Imported by the converters, no programs themselves.
# The others are what tools import.
TOOLS = [p for p in sorted((ROOT / "tools").rglob("*.py")) if "__main__" in p.read_text()]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """The interpreter of an environment with nothing but the standard library."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin/python"


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_another_python_is_told_which_one_to_use(bare_python, tool, tmp_path):
    done = subprocess.run(
        [bare_python, "-B", tool, "--help"],
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
