"""The committed parity cases, and the whole public set where it lies beside the clone."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.parity.check import find_rule, run_case

COMMITTED = ROOT / "tests/assets/parity"
PUBLIC = ROOT.parent / "shared/parity"
CHECK = ROOT / "tests/parity/check.py"


def cases(folder):
    return sorted(p.parent.name for p in folder.glob("*/case.json") if find_rule(p.parent.name))


@pytest.mark.parametrize("name", cases(COMMITTED))
def test_committed_case(name):
    status, case = run_case(COMMITTED, name)
    assert status == "passed", case.failures


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the whole parity set is not at {PUBLIC.name}")
def test_public_set():
    for name in cases(PUBLIC):
        status, case = run_case(PUBLIC, name)
        assert status == "passed", (name, case.failures)


def check(*arguments):
    command = [sys.executable, str(CHECK), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exit_codes(tmp_path):
    import shutil

    assert check(COMMITTED, "--only", "rpb_*", "--only", "abs_pos_resize").returncode == 0
    assert check(COMMITTED, "--only", "no_such_case").returncode == 2
    broken = tmp_path / "broken"
    shutil.copytree(COMMITTED, broken)
    manifest = broken / "rpb_image_2d/case.json"
    manifest.write_text(manifest.read_text().replace("index.4", "index.5", 1))
    done = check(broken, "--only", "rpb_image_2d")
    assert done.returncode == 1
    assert "failed" in done.stdout
