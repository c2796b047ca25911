import runpy
import sys
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
import torch

from mmonepeace.models import OnePeace
from tests.conftest import ROOT, TINY

TOOL = ROOT / "tools/convert_checkpoint.py"


@pytest.fixture
def model() -> OnePeace:
    """A vision model with weights that differ from every initial value."""
    model = OnePeace(TINY, img_size=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return model


@pytest.fixture
def run_tool(capsys, monkeypatch) -> Callable[..., CompletedProcess]:
    """Runs the command line tool, in this process: starting another takes two seconds."""

    def run(*arguments) -> CompletedProcess:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name="__main__")
        return CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run
