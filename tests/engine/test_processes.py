import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import atexit, sys
from pathlib import Path
from torch import distributed as dist
from mmonepeace.engine.processes import exit_distributed

class Late:
    def __del__(self, path=Path(sys.argv[1]) / "taken_down"):
        path.touch()

atexit.register(lambda: print("registered for the exit"))
late = Late()
if sys.argv[2] == "several":
    dist.init_process_group("gloo", f"file://{sys.argv[1]}/store", rank=0, world_size=1)
print("said")
exit_distributed(int(sys.argv[3]))
"""


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("processes", ["one", "several"])
def test_a_tool_ends_with_its_status_and_all_that_was_said(processes, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), processes, str(code)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ["said", "registered for the exit"]
    # Nothing of Python may be taken down while threads of a group are still there.
    assert (tmp_path / "taken_down").exists() == (processes == "one")
