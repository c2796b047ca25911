"""What a doctor finds: findings with their fixes, histograms, and the report that has them."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from prettytable import PrettyTable

from mmonepeace.checks.catalogue import CATALOGUE, LEVELS, Level

_NAMED: dict[Level, int] = {"error": 6, "warning": 4, "note": 1}  # places that are printed
_BAR = 24  # characters of the longest bar
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: see `catalogue.CATALOGUE`.
        code: a short name that stays the same, such as "label-outside-classes".
        split: "train", "val", "test", "val and test", or "config".
        what: the finding, a sentence.
        fix: what to do, with a command or a line of a config where there is one.
        where: every place, mostly files.
        numbers: figures for programs; `count` is that of the places, `of` how many there might be.
    """

    level: Level
    code: str
    split: str
    what: str
    fix: str
    where: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """A class in a histogram: its number (None for what is no class) and how often it occurs."""

    label: int | None
    name: str
    amount: int
    images: int


@dataclass(frozen=True)
class Section:
    """What a split has.

    Attributes:
        split: its name.
        summary: one line.
        unit: of the amounts in `bins`, "pixels" or "boxes".
        bins: the classes, in their order.
    """

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
        what: str,
        where: Iterable[str] = (),
        level: Level | None = None,
        fix: str | None = None,
        **numbers: float,
    ) -> None:
        """Add a finding; the catalogue has its level and its fix where they are not given.

        Args:
            code: its name in the catalogue.
            split: see `Finding`.
            what: a sentence without its full stop.
            where: see `Finding`.
            level: see `Finding`.
            fix: see `Finding`.
            numbers: see `Finding`.
        """
        usual_level, usual_fix = CATALOGUE[code]
        places = tuple(where)
        if places:
            of = f" of {numbers['of']:,}" if "of" in numbers else ""
            what = f"{what} ({len(places):,}{of})"
            numbers["count"] = len(places)
        self.findings.append(
            Finding(
                level or usual_level, code, split, f"{what}.", fix or usual_fix, places, numbers
            )
        )

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
        parts = [_draw(section) for section in self.sections]
        for level in LEVELS:
            found = self.of(level)
            if found:
                parts.append(f"{level.upper()}S\n" + "\n".join(map(_describe, found)))
        counts = Counter(finding.level for finding in self.findings)
        parts.append(", ".join(f"{level}s: {counts[level]}" for level in LEVELS))
        return "\n\n".join(parts)


def _draw(section: Section) -> str:
    title = f"{section.split}: {section.summary}"
    if not section.bins:
        return title
    table = PrettyTable(["", "class", section.unit, "images", "share"])
    for column, side in zip(table.field_names, "rlrrl", strict=True):
        table.align[column] = side
    total = sum(row.amount for row in section.bins) or 1
    most = max(row.amount for row in section.bins) or 1
    for row in section.bins:
        is_class = row.label is not None
        bar = "█" * round(row.amount / most * _BAR) or ("▏" if row.amount else "never" * is_class)
        label = row.label if is_class else ""
        share = f"{100 * row.amount / total:6.2f} %"
        table.add_row([label, row.name, f"{row.amount:,}", f"{row.images:,}", f"{share} {bar}"])
    return f"{title}\n{table}"


def _describe(finding: Finding) -> str:
    lines = [_wrap(f"[{finding.code}] {finding.split}: {finding.what}")]
    named = _NAMED[finding.level]
    lines += [f"    {place}" for place in finding.where[:named]]  # whole, to be copied
    if len(finding.where) > named:
        lines.append(f"    ... {len(finding.where):,} in all; --json FILE names them")
    return "\n".join([*lines, _wrap(f"    fix: {finding.fix}")])


def _wrap(line: str) -> str:
    """Fold a line between words."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
