import json
import pickle
import random
import sys
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex

from mmonepeace.datasets.tokenizer import (
    ALPHABET,
    SPECIAL_TOKENS,
    Tokenizer,
    build_official,
    clean_caption,
    train,
)
from mmonepeace.spec import EOS_ID, VOCAB_SIZE
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared"
OFFICIAL = [SHARED / "data/bpe" / name for name in ("dict.txt", "vocab.bpe", "encoder.json")]
TABLE = SHARED / "parity/bpe_text/strings.json"

CAPTIONS = [
    "A dog runs on the beach.",
    "the dog sleeps; it's 3 o'clock",
    "A photo of a cat and a dog",
    "Ein schöner Hund läuft am Strand",
    "the cats' photo of the dogs",
] * 2


@pytest.fixture(scope="module")
def trained():
    return train(CAPTIONS, 320)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small triple in the official layout: 256 bytes, a few merges, ids shuffled by the dict."""
    folder = tmp_path_factory.mktemp("vocabulary")
    merges = [("Ġ", "d"), ("o", "g"), ("Ġd", "og"), ("Ġ", "a"), ("c", "a"), ("Ġ", "ca"), ("t", "t")]
    tokens = [*sorted(ALPHABET), *("".join(pair) for pair in merges), "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    rules = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "vocab.bpe").write_text(f"#version: 0.2\n{rules}", encoding="utf-8")
    order = list(range(len(tokens)))
    random.Random(0).shuffle(order)
    lines = [f"{i} {1000 - n}" for n, i in enumerate(order)] + ["madeupword0000 0"]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    return [folder / name for name in ("dict.txt", "vocab.bpe", "encoder.json")]


@pytest.fixture(scope="module")
def small(files):
    with pytest.warns(UserWarning, match="not the .* of the released models"):
        return build_official(*files)


class SlowReference:
    """GPT-2's algorithm by the book, with its own table of bytes, and the dictionary's numbering."""

    SPLIT = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )

    def __init__(self, dict_path, bpe_path, encoder_path):
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        self.byte_to_char = {b: chr(b) for b in printable}
        self.byte_to_char |= {b: chr(256 + n) for n, b in enumerate(others)}
        rules = bpe_path.read_text(encoding="utf-8").split("\n")[1:-1]
        self.rank = {tuple(rule.split()): n for n, rule in enumerate(rules)}
        self.encoder = json.loads(encoder_path.read_text(encoding="utf-8"))
        words = [line.split()[0] for line in dict_path.read_text().splitlines()]
        self.own_id = {word: 4 + n for n, word in enumerate(words)}

    @cache  # noqa: B019  (lives as long as the module's fixtures)
    def pieces(self, word):
        parts = [self.byte_to_char[b] for b in word.encode()]
        while True:
            best = min(pairwise(parts), key=lambda pair: self.rank.get(pair, 10**9), default=None)
            if best not in self.rank:
                return parts
            merged, i = [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == best else 1
                merged.append("".join(parts[i : i + step]))
                i += step
            parts = merged

    def encode(self, text, max_length=70):
        words = self.SPLIT.findall(" " + text.lower())
        ids = [self.own_id[str(self.encoder[p])] for word in words for p in self.pieces(word)]
        return [*ids[:max_length], EOS_ID]


def random_texts(count):
    """Words, digits, blanks of all kinds, apostrophes and anything that Unicode assigns."""
    rng = random.Random(0)
    assigned = [
        chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)) not in ("Cn", "Cs")
    ]
    usual = list("aacdogt 's're 12.,! \n\t\u00a0\u2003\u0085İßΣςéâ狗🐕\u200d\u0301")
    return [
        "".join(
            rng.choice(usual if rng.random() < 0.7 else assigned) for _ in range(rng.randint(0, 60))
        )
        for _ in range(count)
    ]


def test_ids_equal_those_of_a_slow_reference(files, small):
    reference = SlowReference(*files)
    texts = random_texts(2000)
    assert small.encode(texts) == [reference.encode(text) for text in texts]


@pytest.mark.skipif(not OFFICIAL[0].is_file(), reason="the official vocabulary is not there")
def test_official_ids_equal_those_of_a_slow_reference():
    reference, texts = SlowReference(*OFFICIAL), random_texts(300)
    assert build_official(*OFFICIAL).encode(texts) == [reference.encode(text) for text in texts]


@pytest.mark.skipif(
    not (OFFICIAL[0].is_file() and TABLE.is_file()), reason="the official vocabulary is not there"
)
def test_official_ids_of_the_reference_strings(recwarn):
    official = build_official(*OFFICIAL)
    assert not recwarn
    assert official.vocab_size == VOCAB_SIZE
    assert int(official.is_word_start.sum()) == 33142
    entries = json.loads(TABLE.read_text())["strings"]
    texts = [entry["text"] for entry in entries]
    assert official.encode(texts) == [entry["hub_ids"] for entry in entries]
    cleaned = [clean_caption(text) for text in texts]
    assert cleaned == [entry["dataset_text"] for entry in entries]
    assert official.encode(cleaned) == [entry["dataset_ids"] for entry in entries]


def test_decoding_gives_the_text_back(trained):
    texts = ["", " ", "  two  spaces ", "It's 3 o'clock!", "狗🐕 e\u0301", "a\0b\r\n", "\ufffd"]
    for text, ids in zip(texts, trained.encode(texts, max_length=200), strict=True):
        assert trained.decode(ids) == text.lower()
    assert trained.decode([0, 1, *trained.encode(["dog"])[0], 1]) == "dog"


def test_a_cut_inside_a_character_decodes_to_a_replacement(trained):
    assert trained.decode(trained.encode(["狗"], max_length=2)[0]) == "\ufffd"


def test_first_and_later_words_are_the_same_token(trained):
    first, later = trained.encode(["dog", "a dog"])
    assert first[-2:] == later[-2:]


def test_length_counts_tokens_without_the_end(trained):
    long = "dog 狗 " * 100_000
    (ids,) = trained.encode([long])
    assert len(ids) == 71
    assert ids[-1] == EOS_ID
    assert EOS_ID not in ids[:-1]
    assert trained.encode([long], max_length=5)[0][:5] == ids[:5]
    assert trained.encode(["", "dog"], max_length=0) == [[EOS_ID], [EOS_ID]]


@pytest.mark.parametrize("text", [*SPECIAL_TOKENS, "a </s> b<pad>", "<|endoftext|>"])
def test_special_tokens_in_a_text_are_plain_text(text, small, trained):
    for tokenizer in (small, trained):
        (ids,) = tokenizer.encode([text])
        assert min(ids[:-1]) > 3
        assert tokenizer.decode(ids) == text


def test_added_tokens_of_a_file_are_not_matched(trained, tmp_path):
    trained.save(tmp_path / "plain.json")
    content = json.loads((tmp_path / "plain.json").read_text())
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    content["added_tokens"] = [
        {"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)
    ]
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "added.json").write_text(json.dumps(content))
    texts = ["</s> dog", *CAPTIONS]
    assert Tokenizer.from_file(tmp_path / "added.json").encode(texts) == trained.encode(texts)


def test_word_starts_are_specials_fillers_and_tokens_with_a_space(small):
    starts = small.is_word_start.nonzero()[:, 0].tolist()
    tokens = [*SPECIAL_TOKENS, "madeupword0000", "Ġ", "Ġd", "Ġdog", "Ġa", "Ġca"]
    assert starts == sorted(map(small._bpe.token_to_id, tokens))
    assert len(small.is_word_start) == small.vocab_size


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("!?#*A Dog,\tand  a \n\nCat. \n", "a dog, and a cat."),
        (" .kept", ".kept"),
        ("one\nline", "one\nline"),
        ("", ""),
        ("~~~", ""),
    ],
)
def test_clean_caption(text, cleaned):
    assert clean_caption(text) == cleaned


def test_training_is_deterministic_and_bounded(trained):
    again = train(iter(CAPTIONS[::-1]), 320)
    assert again._bpe.to_str() == trained._bpe.to_str()
    assert trained.vocab_size == 320
    assert train(["no pair twice"], 1000).vocab_size == 260
    assert len(trained.encode(["the dog"])[0]) < len(train(CAPTIONS, 260).encode(["the dog"])[0])


@pytest.mark.parametrize(
    ("captions", "size", "message"),
    [(CAPTIONS, 259, "take 260"), ([], 300, "no captions"), ([" ", "\n"], 300, "no captions")],
)
def test_training_names_what_is_missing(captions, size, message):
    with pytest.raises(ValueError, match=message):
        train(captions, size)


def test_texts_that_are_none(trained):
    with pytest.raises(ValueError, match="half of a surrogate pair at character 4"):
        trained.encode(["fine", "dog \ud83d"])
    with pytest.raises(TypeError, match="not a string: None"):
        trained.encode([None])
    with pytest.raises(TypeError, match="list of strings"):
        trained.encode("dog")


def test_files_and_pickles_keep_everything(small, tmp_path):
    small.save(tmp_path / "t.json")
    pickled = pickle.loads(pickle.dumps(small))  # noqa: S301  (our own)
    for copy in (Tokenizer.from_file(tmp_path / "t.json"), pickled):
        assert copy.encode(CAPTIONS) == small.encode(CAPTIONS)
        assert copy.is_word_start.equal(small.is_word_start)
        assert copy.decode(copy.encode(["dog"])[0]) == "dog"


def test_an_interrupted_save_leaves_the_old_file(small, tmp_path, monkeypatch):
    target = tmp_path / "t.json"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        small.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert target.read_text() == "old"


def edited(trained, path, edit):
    content = json.loads(trained._bpe.to_str())
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.clear(), "no BPE model"),
        (lambda c: c["model"]["vocab"].update({"</s>": 3, "<unk>": 2}), "</s> must have id 2"),
        (lambda c: c["model"]["vocab"].pop("Ġ"), "1 of the 256 bytes"),
        (lambda c: c["model"]["vocab"].update({"new": 5000}), "without gaps"),
        (lambda c: c["model"].update(merges=[["Q", "Z"]]), "merges do not fit"),
        (lambda c: c["model"].update(merges=["a b c"]), "not a pair"),
        (lambda c: c["model"].update(ignore_merges=True), "ignore_merges"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "split text"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "split text"),
    ],
)
def test_a_foreign_file_is_refused_by_name(edit, message, trained, tmp_path):
    path = edited(trained, tmp_path / "foreign.json", edit)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_file(path)
    assert str(path) in str(caught.value)


def test_no_file_and_no_json_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        Tokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ValueError, match=r"text\.json is not a tokenizer of mmonepeace"):
        Tokenizer.from_file(tmp_path / "text.json")


def test_official_files_that_do_not_belong_together(files, tmp_path):
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text(files[0].read_text() + "99999 1\n")
    with (
        pytest.warns(UserWarning, match=r"dict\.txt is not the dictionary"),
        pytest.raises(ValueError, match="names GPT-2 id 99999"),
    ):
        build_official(dictionary, *files[1:])
    with (
        pytest.warns(UserWarning, match="released models"),
        pytest.raises(ValueError, match=r"vocab\.bpe is not JSON"),
    ):
        build_official(files[0], files[2], files[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.update(pre_tokenizer=1.5),
        lambda file: file["model"].update(vocab=[[]]),
        lambda file: file["model"].update(merges=[5]),
        lambda file: file["model"].update(merges=5),
        lambda file: file["model"]["vocab"].update(x=[]),
        lambda file: file["model"]["vocab"].update(x=None),
    ],
)
def test_values_of_another_type_are_one_line(change, trained, tmp_path):
    path = edited(trained, tmp_path / "damaged.json", change)
    with pytest.raises(ValueError, match=r"damaged\.json is not a tokenizer of mm") as caught:
        Tokenizer.from_file(path)
    assert "\n" not in str(caught.value)
