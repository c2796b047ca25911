"""Results of the campaign: what was tried, what held, and the table of both."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from mmonepeace.console import printable, table

_LINES = 4  # of what was seen, printed for a failure
_SHOWN = 40  # failures that the table is followed by


@dataclass(frozen=True)
class Result:
    """One fault that was tried.

    Attributes:
        group: what it is counted under, such as "kills: train.py".
        case: what repeats it.
        outcome: in a word or two, such as "bit-equal", "refused" or "traceback".
        held: whether that is what should happen.
        detail: what was seen, for failures.
    """

    group: str
    case: str
    outcome: str
    held: bool
    detail: str = ""


@dataclass
class Report:
    """All results, printed as they come."""

    results: list[Result] = field(default_factory=list)
    started: float = field(default_factory=monotonic)

    def add(self, results: Iterable[Result]) -> None:
        """Add results as they are made, and print what did not hold."""
        for result in results:
            self.results.append(result)
            if not result.held:
                print(printable(f"  FAILED {result.group} {result.case}: {result.outcome}"))
                for line in result.detail.splitlines()[-_LINES:]:
                    print(printable(f"    {line[:160]}"))
            sys.stdout.flush()

    @property
    def failed(self) -> list[Result]:
        """What did not hold."""
        return [result for result in self.results if not result.held]

    def __str__(self) -> str:
        rows = []
        for group in dict.fromkeys(result.group for result in self.results):
            some = [result for result in self.results if result.group == group]
            outcomes = dict.fromkeys(result.outcome for result in some)
            counts = (f"{sum(r.outcome == o for r in some)} {o}" for o in outcomes)
            rows.append((group, len(some), sum(r.held for r in some), ", ".join(counts)))
        lines = [table(("faults", "tried", "held", "outcomes"), rows, "lrr")]
        lines += [f"FAILED {r.group} {r.case}: {r.outcome}" for r in self.failed[:_SHOWN]]
        minutes = (monotonic() - self.started) / 60
        held = len(self.results) - len(self.failed)
        lines.append(f"{held} of {len(self.results)} held; {minutes:.1f} minutes")
        return "\n".join(lines)
