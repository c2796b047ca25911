"""What is right without looking or listening."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence


def text_only_bound(rows: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Accuracy, in percent, of the most frequent answer for each input.

    No model that sees nothing but the input is better on these rows.

    Args:
        rows: (input, answer) of each.
    """
    answers: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for given, answer in rows:
        answers[given][answer] += 1
    right = sum(max(counts.values()) for counts in answers.values())
    return round(100 * right / len(rows), 2)
