"""Answers to questions about images: when two of them are the same, and their accuracy.

Source: the evaluation page of visualqa.org and the evaluation code of GT-Vision-Lab/VQA.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

NUM_ANSWERS = 10  # people who answer each question
# Replaced by a space, or removed; apostrophes (possessives) and colons (times) stay.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = {"a", "an", "the"}
# Found with one apostrophe missing. Those that would be other words, such as "well", are not here.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
    you're you've
"""
CONTRACTIONS = {
    word[: place.start()] + word[place.end() :]: word
    for word in _CONTRACTIONS.split()
    for place in re.finditer("'", word)
}


@lru_cache(2**16)
def normalise_answer(answer: str) -> str:
    """An answer in the form in which answers are compared.

    In lower case, number words up to ten as digits, without articles and periods but decimal
    points, with the apostrophes of contractions, single spaces. Punctuation becomes a space; a mark
    that is next to a space anywhere in the answer is removed, and so is all of it where a comma is
    between digits.
    """
    answer = text = re.sub(r"[\n\t]", " ", answer).strip()
    joined = re.search(r"\d,\d", answer)
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or joined else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Accuracy of an answer, from 0 to 1: 0, 0.3, 0.6, 0.9 or 1 for 0, 1, 2, 3, or more equal answers.

    The mean over the people of min(n / 3, 1), where n is the number of *other* people who gave the
    answer. All answers are compared as `normalise_answer` has them, as the page says. (The code
    does less with the true ones: punctuation alone, and nothing if all ten are equal, so that a true
    "two" is never right.)

    Args:
        answer: what is predicted.
        answers: the true ones, ten.
    """
    normalised = normalise_answer(answer)
    is_equal = [normalise_answer(other) == normalised for other in answers]
    others = (sum(is_equal) - each for each in is_equal)
    return sum(min(n / 3, 1) for n in others) / len(is_equal)
