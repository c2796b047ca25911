import random
from itertools import combinations

import pytest

from mmonepeace.evaluation.vqa_answers import CONTRACTIONS, answer_accuracy, normalise_answer


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("Yes", "yes"),
        (" a  Red \n car\t", "red car"),
        ("The an A", ""),
        ("two", "2"),
        ("None of ten", "0 of 10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("DON'T", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("twas", "'twas"),
        ("well", "well"),  # not "we'll"
        ("girl's", "girl's"),  # a possessive stays
        ("2:50 p.m.", "2:50 pm"),
        ("3.5", "3.5"),
        ("no. 5.", "no 5"),
        ("100,978", "100978"),
        ("red/blue", "red blue"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),  # next to a space once: removed everywhere
        ("1,000-2,000", "10002000"),  # a comma between digits: so is all punctuation
        ("(left)", "left"),
        ("what?!", "what"),
    ],
)
def test_answers_are_normalised(answer, normalised):
    assert normalise_answer(answer) == normalised
    assert normalise_answer(normalised) == normalised


def test_contractions_lack_one_apostrophe():
    for missing, word in CONTRACTIONS.items():
        assert len(word) == len(missing) + 1
        assert missing.replace("'", "") == word.replace("'", "")
        assert normalise_answer(f"{missing} {word}") == f"{word} {word}"
    assert not {"well", "ill", "id", "were", "its", "lets", "hell", "shed"} & CONTRACTIONS.keys()


@pytest.mark.parametrize(
    ("same", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_ten_answers_by_hand(same, accuracy):
    """Two equal ones: for these two people one other, 1/3, for eight people 2/3: 0.2 * 1/3 + 0.8 * 2/3."""
    answers = ["dog"] * same + [f"other {i}" for i in range(10 - same)]
    assert answer_accuracy("dog", answers) == pytest.approx(accuracy)


def test_it_is_the_mean_over_all_subsets_of_nine():
    rng = random.Random(0)
    for _ in range(200):
        answers = rng.choices(["yes", "no", "2", "red"], (4, 3, 1, 1), k=10)
        for answer in ("yes", "2", "blue"):
            scores = [
                min(sum(other == answer for other in nine) / 3, 1)
                for nine in combinations(answers, 9)
            ]
            assert answer_accuracy(answer, answers) == pytest.approx(sum(scores) / 10)


def test_spellings_of_an_answer_are_one():
    answers = ["Two", "2", "two.", "the two", "2 ", "3", "three", "3", "3", "3"]
    assert answer_accuracy("two", answers) == 1
    assert answer_accuracy("Dont know", ["don't know"] * 3 + ["no"] * 7) == pytest.approx(0.9)
    assert answer_accuracy("two", ["two"] * 10) == 1
