"""Processes that share the work on a folder: whether the others are still at it.

They meet in the file system only, so they may run at the same time or one after another, on one machine
or on several. Each but the first says in a file that it is at work; the first one waits for them, but
not for one that has failed or is silent.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BEAT_SECONDS = 5.0
SILENT_SECONDS = 120.0  # network file systems show new files after up to 60 s
_FAILED = "failed: "


def _file(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}"


@contextmanager
def at_work(folder: Path, rank: int) -> Iterator[None]:
    """Say in the folder that this process is at work, and why it has failed if it does."""
    folder.mkdir(parents=True, exist_ok=True)
    file, ended = _file(folder, rank), threading.Event()

    def beat() -> None:
        while True:
            with suppress(OSError):  # a full disk is said by whoever writes results
                file.write_text(str(time.time_ns()))
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        ended.set()
        thread.join()
        with suppress(OSError):
            file.write_text(f"{_FAILED}{type(error).__name__}: {error} ({time.time_ns()})")
        raise
    ended.set()
    thread.join()
    file.unlink(missing_ok=True)
    with suppress(OSError):  # it has results
        folder.rmdir()


class Others:
    """The processes that the first one waits for, by number."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._ranks = folder, range(1, count)
        self._said = {rank: self._read(rank) for rank in self._ranks}
        self._at = dict.fromkeys(self._ranks, time.monotonic())

    def look(self) -> tuple[set[int], dict[int, str]]:
        """Those that are at work, and why others will not do theirs; a process may be in neither."""
        working, lost = set(), {}
        for rank in self._ranks:
            said = self._read(rank)
            news = said != self._said[rank]
            if news:
                self._said[rank], self._at[rank] = said, time.monotonic()
            silent = time.monotonic() - self._at[rank] > SILENT_SECONDS
            if said.startswith(_FAILED):
                # What was there before may be of an earlier run, and the process about to begin.
                if news or silent:
                    lost[rank] = said.removeprefix(_FAILED).rpartition(" (")[0]
            elif silent:
                lost[rank] = (
                    f"no sign of it for {SILENT_SECONDS:.0f} s; is it running, and on the same files?"
                )
            elif said:
                working.add(rank)
        return working, lost

    def _read(self, rank: int) -> str:
        try:
            return _file(self._folder, rank).read_text()
        except OSError:
            return ""
