"""The code blocks of a documentation page: how they are found, and how they are run.

HTML comments above a block, which GitHub does not show, say how the test runs it:

    <!-- not run: REASON -->
    <!-- needs: compiled operators -->         or the name of a package
    <!-- run with: NEW instead of OLD -->      replaced in the text of the block
    <!-- run with: [COMMAND] OPTIONS -->       added to its commands, or to `mmonepeace NAME` alone
    <!-- run: exit status 2, REASON -->        what its last command returns
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.conftest import ROOT

LANGUAGES = ("python", "bash")
_COMMENT = re.compile(r"\s*<!-- (not run|needs|run with|run): (.+?) -->")
_FENCE = re.compile(r"(\s*)```(\w*)\s*")
# Commands of a block run in the order of the page; those of `python` and `mmonepeace` in a process
# forked from one that has already imported PyTorch, which takes a second instead of six.
_PRELUDE = """python() { printf '%s\\0' "$@" > "$ARGUMENTS"; }\nmmonepeace() { python mmonepeace "$@"; }\n"""
_PROCESSES = get_context("forkserver")  # tests/conftest.py says what its server imports


@dataclass
class Block:
    """A fenced block of code and the comments above it."""

    page: Path
    line: int
    language: str
    code: str
    notes: list[tuple[str, str]]

    def note(self, kind: str) -> str | None:
        """What the comments of a kind say, the first of them."""
        return next((text for name, text in self.notes if name == kind), None)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def find_blocks(page: Path) -> list[Block]:
    """The Python and bash blocks of a page, in order."""
    blocks, notes, open_block, indent = [], [], None, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence := _FENCE.fullmatch(line):
            if open_block is None:
                indent = fence[1]
                open_block, notes = Block(page, number, fence[2], "", notes), []
            else:
                if open_block.language in LANGUAGES:
                    blocks.append(open_block)
                open_block = None
        elif open_block is not None:
            open_block.code += line.removeprefix(indent) + "\n"
        elif comment := _COMMENT.fullmatch(line):
            notes.append((comment[1], comment[2]))
        elif line.strip():
            notes = []
    return blocks


class PageRunner:
    """Runs the blocks of a page in a folder; Python blocks share their names, as in a session.

    Raises:
        AssertionError: with the block and what it printed, if one fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "output.log"
        self._session: Connection | None = None

    def run(self, block: Block) -> None:
        """Run one block."""
        self.log.write_text("")
        code, options = block.code, []
        for kind, text in block.notes:
            new, instead, old = text.partition(" instead of ")
            if kind == "run with" and instead:
                assert old in code, f"{block}: no {old!r} to replace"
                code = code.replace(old, new)
            elif kind == "run with":
                options.append(shlex.split(text))
        if block.language == "python":
            failure = self._run_python(code, str(block))
            assert failure is None, f"{block}:\n{self.log.read_text()[-3000:]}\n{failure}"
            return
        expected = int(re.match(r"exit status (\d+)", block.note("run") or "exit status 0")[1])
        status = self._run_bash(code, options)
        assert status == expected, f"{block}: status {status}\n{self.log.read_text()[-3000:]}"

    def close(self) -> None:
        """End the session of the Python blocks."""
        if self._session is not None:
            self._session.send(None)

    def _run_python(self, code: str, name: str) -> str | None:
        if self._session is None:
            self._session, other = _PROCESSES.Pipe()
            _start(_session, other, self.folder, self.log)
        self._session.send((code, name))
        return self._session.recv()

    def _run_bash(self, code: str, options: list[list[str]]) -> int:
        prelude, status = _PRELUDE, 0
        for command in code.replace("\\\n", " ").splitlines():
            if re.match(r"(export )?\w+=\S+$", command):
                prelude += command + "\n"
            elif command.strip():
                assert status == 0, f"more commands after one that failed: {command}"
                status = self._run_command(prelude, command, options)
        return status

    def _run_command(self, prelude: str, command: str, options: list[list[str]]) -> int:
        arguments = self.folder / "arguments"
        with self.log.open("a") as log:
            print(f"$ {command}", file=log, flush=True)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", prelude + command],
                cwd=self.folder, env=os.environ | {"ARGUMENTS": str(arguments)}, check=False,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        if done.returncode or not arguments.exists():
            return done.returncode
        argv = arguments.read_text().split("\0")[:-1]
        arguments.unlink()
        for added in options:
            if added[:2] == argv[:2]:
                argv += added[2:]
            elif added[0] != "mmonepeace":
                argv += added
        process = _start(_program, argv, self.folder, self.log)
        process.join()
        return process.exitcode


def _start(target, *arguments):
    process = _PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def _enter(folder: Path, log: Path) -> None:
    """Make this process one that was started in a folder, with its output in a file."""
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))


def _program(argv: list[str], folder: Path, log: Path) -> None:
    """What `python FILE ARGUMENTS` or `mmonepeace ARGUMENTS` does."""
    _enter(folder, log)
    sys.argv = argv
    if argv[0] == "mmonepeace":
        runpy.run_module("mmonepeace", run_name="__main__")
    sys.path.insert(0, str(Path(argv[0]).resolve().parent))
    runpy.run_path(argv[0], run_name="__main__")


def _session(connection: Connection, folder: Path, log: Path) -> None:
    """Run what comes as an interactive session would; answer with the traceback of a failure."""
    _enter(folder, log)
    names = {"__name__": "__main__"}
    while (received := connection.recv()) is not None:
        code, name = received
        try:
            exec(compile(code, name, "exec"), names)  # noqa: S102
            connection.send(None)
        except BaseException:  # noqa: BLE001  (SystemExit too is a failure of a block)
            connection.send(traceback.format_exc())
