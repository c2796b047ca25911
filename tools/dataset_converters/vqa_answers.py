"""The answers of VQA v2: how they are normalised, which of them are classes, how sure they are.

The list of 3,129 comes from the preprocessing of bottom-up attention, which later models share:
`multiple_choice_answer` of train2014 and val2014 together is normalised, and what at least nine
questions have becomes a class. The ten answers of a question are compared with the classes as they
are, not normalised.

Source: https://visualqa.org/evaluation.html (rules of the evaluation), Teney et al. 2018 (soft scores).
"""

import re
from collections import Counter
from collections.abc import Iterable

MIN_QUESTIONS = 9
# Confidence of an answer that 1, 2, 3, or more of the ten people gave.
_CONFIDENCES = ("0.3", "0.6", "0.9", "1.0")

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS_REMOVED = 32  # the official code passes a flag of `re` where the count belongs
_NUMBERS = dict(
    none="0", zero="0", one="1", two="2", three="3", four="4", five="5", six="6", seven="7",
    eight="8", nine="9", ten="10",
)  # fmt: skip
_ARTICLES = ("a", "an", "the")
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
# A word that lacks one of its apostrophes -> the word. The official table has one mistake.
_REPAIRED = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTIONS.split()
    for i, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalise(answer: str) -> str:
    """An answer without punctuation and articles, numbers as digits, apostrophes restored."""
    result = answer
    for mark in _PUNCTUATION:
        at_edge = f"{mark} " in answer or f" {mark}" in answer or _COMMA_IN_NUMBER.search(answer)
        result = result.replace(mark, "" if at_edge else " ")
    result = _FULL_STOP.sub("", result, count=_FULL_STOPS_REMOVED)
    words = (_NUMBERS.get(word, word) for word in result.lower().split())
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def derive_answers(most_common: Iterable[str]) -> list[str]:
    """The classes: answers of at least `MIN_QUESTIONS` questions, the most frequent first.

    Those that are equally frequent are in alphabetical order; the official order is that of a
    dictionary of Python 2 and cannot be derived.

    Args:
        most_common: `multiple_choice_answer` of each question of train2014 and val2014.
    """
    counts = Counter(map(normalise, most_common))
    kept = [answer for answer, count in counts.items() if count >= MIN_QUESTIONS]
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


def confidences(answers: Iterable[str]) -> dict[str, str]:
    """Answer -> its confidence, from the answers of all people, in order of appearance."""
    counts = Counter(answers)
    return {answer: _CONFIDENCES[min(count, 4) - 1] for answer, count in counts.items()}
