"""What checks report: findings with their fixes, and histograms of the classes."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from prettytable import PrettyTable

from mmonepeace.checks.catalogue import CATALOGUE, LEVELS, NOT_FOUND, TOLD, Level
from mmonepeace.exit_status import UserError

_NAMED: dict[Level, int] = {"error": 6, "warning": 4, "note": 1}  # places that are printed
_BAR = 24  # characters of the longest bar
_LISTED = 400  # classes of a table in the terminal
_WIDTH = 100


class CheckError(UserError):
    """A run that cannot succeed. The message is for the user and names the fix."""


@dataclass(frozen=True)
class Finding:
    """One fault that was found.

    Attributes:
        level: see `catalogue.Fault`.
        code: a short name that stays the same, such as "label-outside-classes".
        split: "train", "val", "test", "val and test", or "config".
        what: the finding, a sentence.
        fix: what to do, with a command or a line of a config where there is one.
        where: every place, mostly files.
        numbers: for programs; `count` is the number of places, `of` how many there could be.
    """

    level: Level
    code: str
    split: str
    what: str
    fix: str
    where: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"[{self.code}] {self.split}: {self.what}"]
        named = _NAMED[self.level]
        lines += [f"    {place}" for place in self.where[:named]]
        if len(self.where) > named:
            lines.append(f"    ... {len(self.where):,} in all; mmonepeace doctor --json names them")
        return "\n".join([*lines, f"    fix: {self.fix}"])

    def briefly(self) -> str:
        """What is wrong, where, and the fix: in one line, unless it is about several files."""
        if self.where and (self.split != "config" or len(self.where) > _NAMED[self.level]):
            return str(self)
        what = self.what.removesuffix(f" ({len(self.where)}).").removesuffix(".")
        where = f": {', '.join(self.where)}" if self.where else ""
        return f"[{self.code}] {self.split}: {what}{where}. fix: {self.fix}"


@dataclass(frozen=True)
class Bin:
    """A class in a histogram: its index (None if it is not a class) and how often it occurs."""

    label: int | None
    name: str
    amount: int
    images: int


@dataclass(frozen=True)
class Section:
    """What a split contains: a line about it, and its classes; `unit` is that of their amounts."""

    split: str
    summary: str
    unit: str = ""
    bins: tuple[Bin, ...] = ()


class Report:
    """Findings and histograms, in the order in which they were made."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.findings: list[Finding] = []

    def add(
        self,
        code: str,
        split: str,
        where: Iterable[str] | None = None,
        *,
        level: Level | None = None,
        fix: str | None = None,
        **details: Any,
    ) -> None:
        """Add a finding, once. An empty `where` adds nothing.

        Args:
            code: its name in the catalogue.
            split: see `Finding`.
            where: see `Finding`; None for a fault that is in no place of its own.
            level: in place of the catalogue's.
            fix: in place of the catalogue's.
            details: fields of the catalogue's texts; and for programs `of`, the number of places
                that there could be, and `share`, the fraction of pixels or boxes.
        """
        places = None if where is None else tuple(where)
        if places == ():
            return
        fault = CATALOGUE[code]
        what, fix = fault.what.format(**details), fix or fault.fix.format(**details)
        numbers: dict[str, float] = {key: details[key] for key in ("share", "of") if key in details}
        if places:
            numbers["count"] = len(places)
            total = f" of {numbers['of']:,}" if "of" in numbers else ""
            what = f"{what} ({len(places):,}{total})"
        finding = Finding(level or fault.level, code, split, f"{what}.", fix, places or (), numbers)
        if finding not in self.findings:
            self.findings.append(finding)

    def raise_stops(self, advice: str = "") -> None:
        """Refuse a run that cannot succeed.

        Args:
            advice: what to add where data or weights were not found.

        Raises:
            CheckError: naming all errors, if one of them stops a run.
        """
        errors = self.of("error")
        if any(CATALOGUE[error.code].stops for error in errors):
            lines = [error.briefly() for error in errors]  # the others may be the cause
            if advice and any(error.code in NOT_FOUND for error in errors):
                lines.append(advice)
            raise CheckError("\n".join(lines))

    def told_before_a_run(self) -> list[Finding]:
        """The findings that do not stop a run, and that it is told of."""
        return [finding for finding in self.findings if finding.code in TOLD]

    def has(self, *codes: str) -> bool:
        """Whether there is a finding with one of these codes."""
        return any(finding.code in codes for finding in self.findings)

    def of(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    def to_dict(self) -> dict[str, Any]:
        """For a .json file."""
        return {
            "counts": {level: len(self.of(level)) for level in LEVELS},
            "findings": [asdict(f) for level in LEVELS for f in self.of(level)],
            "splits": [asdict(section) for section in self.sections],
        }

    def __str__(self) -> str:
        paragraphs = [_draw(section) for section in self.sections]
        for level in LEVELS:
            lines = [line for finding in self.of(level) for line in str(finding).splitlines()]
            if lines:
                paragraphs.append("\n".join([f"{level.upper()}S", *map(_fold, lines)]))
        counts = Counter(finding.level for finding in self.findings)
        paragraphs.append(", ".join(f"{level}s: {counts[level]}" for level in LEVELS))
        return "\n\n".join(paragraphs)


def _draw(section: Section) -> str:
    title = f"{section.split}: {section.summary}"
    if not section.bins:
        return title
    files = "files" if section.unit == "rows" else "images"
    table = PrettyTable(["", "class", section.unit, files, "fraction"])
    for column, side in zip(table.field_names, "rlrrl", strict=True):
        table.align[column] = side  # type: ignore[assignment]  # a letter of "lcr"
    total = sum(row.amount for row in section.bins) or 1
    most = max(row.amount for row in section.bins) or 1
    for row in section.bins[:_LISTED]:
        is_class = row.label is not None
        bar = "█" * round(row.amount / most * _BAR) or ("▏" if row.amount else "never" * is_class)
        label = row.label if is_class else ""
        percentage = f"{100 * row.amount / total:6.2f} %"
        table.add_row(
            [label, row.name, f"{row.amount:,}", f"{row.images:,}", f"{percentage} {bar}"]
        )
    more = len(section.bins) - _LISTED
    rest = (
        f"\n... and {more:,} more classes; mmonepeace doctor --json names them" if more > 0 else ""
    )
    return f"{title}\n{table}{rest}"


def _fold(line: str) -> str:
    """Fold a line between words, but not a line with a path, so that it can be copied."""
    if line.startswith("    ") and not line.startswith("    fix:"):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
