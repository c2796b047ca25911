import subprocess
import sys

import pytest

from tests.conftest import ROOT

# One interpreter, which needs seconds to import, forks into one for each case: each of them ends
# as an interpreter does.
PROGRAM = """
import atexit, os, sys
from pathlib import Path
from torch import distributed as dist
from mmonepeace.engine.processes import exit_distributed

class Late:
    def __del__(self, touch=Path.touch):
        touch(self.path)

for name in sys.argv[2:]:
    processes, code = name.split("-")
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        (folder / "status").write_text(str(os.waitstatus_to_exitcode(status)))
        continue
    os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT), 1)
    atexit.register(lambda: print("registered for the exit"))
    late = Late()
    late.path = folder / "taken_down"
    if processes == "several":
        dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
    print("said")
    exit_distributed(int(code))
"""
CASES = [f"{processes}-{code}" for processes in ("one", "several") for code in (0, 2)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended")
    command = [sys.executable, "-c", PROGRAM, str(folder), *CASES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_tool_ends_with_its_status_and_all_that_was_said(ended, case):
    processes, code = case.split("-")
    assert (ended / case / "status").read_text() == code
    said = (ended / case / "said").read_text()
    assert said.splitlines() == ["said", "registered for the exit"]
    # Nothing of Python may be taken down while threads of a group are still there.
    assert (ended / case / "taken_down").exists() == (processes == "one")
