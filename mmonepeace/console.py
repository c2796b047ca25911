"""Text for terminals."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], align: str = "") -> str:
    """A text table without lines.

    `align` has a letter for each of the first columns, such as "rrl"; others are left-aligned.
    """
    from prettytable import PrettyTable

    drawn = PrettyTable(list(header), border=False, preserve_internal_border=False)
    drawn.left_padding_width, drawn.right_padding_width = 0, 2
    for name, side in zip(header, align.ljust(len(header), "l"), strict=True):
        drawn.align[name] = side  # type: ignore[assignment]  # a letter of "lcr"
    if sys.stdout.isatty():
        drawn.max_table_width = shutil.get_terminal_size().columns
    drawn.add_rows([[printable(str(cell)) for cell in row] for row in rows])
    return "\n".join(line.rstrip() for line in drawn.get_string().splitlines())


def printable(text: str) -> str:
    """Text for a terminal: file names may have invalid characters and control codes."""
    clean = text.encode(errors="replace").decode()
    return "".join(c if c.isprintable() or c == "\n" else " " for c in clean)


def progress_bar(*args: Any, **options: Any) -> Any:
    """tqdm's bar; where no terminal is, a line a minute. Options are those of tqdm."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        line = "{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} gone, {remaining} left\n"
        minute = dict.fromkeys(("delay", "mininterval", "maxinterval"), 60)
        options |= {**minute, "bar_format": line, "leave": False}
    return tqdm(*args, **options)
