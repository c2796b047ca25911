"""The answers of VQA v2: which of them are classes, and how sure they are.

The list of 3,129 comes from the preprocessing of bottom-up attention, which later models share:
`multiple_choice_answer` of train2014 and val2014 together is normalised as for the metric, and what at least nine
questions have becomes a class. The ten answers of a question are compared with the classes as they
are, not normalised.

Source: Teney et al. 2018 (soft scores).
"""

from collections import Counter
from collections.abc import Iterable

from mmonepeace.evaluation.vqa_answers import normalise_answer

MIN_QUESTIONS = 9
# Confidence of an answer that 1, 2, 3, or more of the ten people gave.
_CONFIDENCES = ("0.3", "0.6", "0.9", "1.0")


def derive_answers(most_common: Iterable[str]) -> list[str]:
    """The classes: answers of at least `MIN_QUESTIONS` questions, the most frequent first.

    Those that are equally frequent are in alphabetical order; the official order is that of a
    dictionary of Python 2 and cannot be derived.

    Args:
        most_common: `multiple_choice_answer` of each question of train2014 and val2014.
    """
    counts = Counter(map(normalise_answer, most_common))
    kept = [answer for answer, count in counts.items() if count >= MIN_QUESTIONS]
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


def confidences(answers: Iterable[str]) -> dict[str, str]:
    """Answer -> its confidence, from the answers of all people, in order of appearance."""
    counts = Counter(answers)
    return {answer: _CONFIDENCES[min(count, 4) - 1] for answer, count in counts.items()}
