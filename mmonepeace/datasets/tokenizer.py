"""Byte-level BPE, on the `tokenizers` library.

Text is lower-cased and gets a leading space, so that the first word is the same token as a later one;
it is then split by GPT-2's byte-pair encoding, and the end token is added. Every byte has a token:
nothing is unknown. The strings of the special tokens are ordinary text: `</s>` in a text is four
characters, as in the official code.

A vocabulary is one `tokenizer.json`: that of the released models (`build_official`) or one trained
on your own captions (`train`).
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from mmonepeace.atomic_file import atomic_file
from mmonepeace.spec import EOS_ID, MAX_TEXT_TOKENS, UNK_ID, VOCABULARY_SHA256

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # in the order of their ids
ALPHABET = pre_tokenizers.ByteLevel.alphabet()  # one printable character per byte
SPACE = "Ġ"  # the character of a space

Merges = list[tuple[str, str]]


class Tokenizer:
    """A byte-level BPE with the special ids of every ONE-PEACE vocabulary.

    Args:
        vocab: token to id; ids run from 0 without gaps, 0..3 are the special tokens, and each of
            the 256 bytes has a token.
        merges: pairs of tokens, in the order of priority.

    Raises:
        ValueError: if `vocab` is not as described, or `merges` needs a token that it lacks.
    """

    def __init__(self, vocab: dict[str, int], merges: Merges) -> None:
        _check_vocab(vocab)
        try:
            model = models.BPE(vocab=vocab, merges=merges)
        except Exception as error:  # noqa: BLE001  (the library has no narrower one)
            raise ValueError(f"the merges do not fit the vocabulary: {error}") from None
        self._bpe = tokenizers.Tokenizer(model)
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self._bpe.decoder = decoders.ByteLevel()

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Read a `tokenizer.json`, but for added tokens and post-processors.

        They would match special tokens inside a text; `encode` appends the end token itself.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a byte-level BPE with our special ids.
        """
        path = Path(path)
        fix = "Make one with mmonepeace convert-tokenizer or mmonepeace train-tokenizer."
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file. {fix}")
        try:
            return cls(*_read(json.loads(path.read_text(encoding="utf-8"))))
        except Exception as error:  # noqa: BLE001  (a damaged file has values of any type anywhere)
            reason = str(error).split("\n")[0]
            raise ValueError(f"{path} is not a tokenizer of mmonepeace: {reason} {fix}") from None

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` atomically."""
        with atomic_file(path, concurrent=True) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The content of a `tokenizer.json`."""
        return self._bpe.to_str(pretty=True)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return self._bpe.get_vocab_size()

    @cached_property
    def is_word_start(self) -> Tensor:
        """(vocab_size,) bool: whether a token begins a word, for whole-word masking.

        Special tokens and the fillers of the official dictionary count as words.
        """
        tokens = (self._bpe.id_to_token(i) or "" for i in range(self.vocab_size))
        word_start = re.compile(rf"{SPACE}|madeupword\d")
        starts = [i <= UNK_ID or bool(word_start.match(t)) for i, t in enumerate(tokens)]
        return torch.tensor(starts)

    def encode(
        self, texts: Sequence[str], max_length: int = MAX_TEXT_TOKENS, lower: bool = True
    ) -> list[list[int]]:
        """Turn each text into at most `max_length` ids and the end token, as in the official code.

        `lower`: in lower case, as everywhere but in audio question answering.

        Raises:
            TypeError: if `texts` is not a sequence of strings.
            ValueError: if a text has half of a surrogate pair, which cannot be encoded.
        """
        if isinstance(texts, str):
            raise TypeError(f"encode takes a list of strings: encode([{texts[:20]!r}]).")
        # One by one: the library's batches are hardly faster on short texts, and their threads make
        # every later fork (a data loader with workers) print a warning.
        encodings = (self._bpe.encode(_normalise(text, lower)) for text in texts)
        return [[*encoding.ids[:max_length], EOS_ID] for encoding in encodings]

    def encode_candidates(
        self, texts: Sequence[str], max_length: int = MAX_TEXT_TOKENS, lower: bool = True
    ) -> list[list[int]]:
        """As `encode`, of a question with each of its candidate answers.

        Raises:
            ValueError: also if candidates are alike because their ends are cut off.
        """
        ids = self.encode(texts, max_length, lower)
        longest = max(map(len, ids), default=0)
        if longest > max_length and len(set(map(tuple, ids))) < len(set(texts)):
            raise ValueError(
                f"the question {texts[0][:40]!r}... fills the {max_length} tokens that are kept "
                "(max_length): its candidates are cut off, and alike. Shorten it."
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, lower-case, without special tokens and the leading space.

        Bytes that are not UTF-8, such as a part of a character, become U+FFFD.
        """
        return self._bpe.decode([i for i in map(int, ids) if i > UNK_ID]).removeprefix(" ")


def clean_caption(text: str) -> str:
    """The clean-up of captions in the official data sets, in addition to that of `encode`.

    Lower-case, no leading punctuation, one space for a tab or a run of spaces, none at the ends.
    """
    text = re.sub(r"\s{2,}|\t", " ", text.lower().lstrip(",.!?*#:;~"))
    return text.rstrip("\n").strip(" ")


def build_official(
    dict_path: str | Path, bpe_path: str | Path, encoder_path: str | Path
) -> Tokenizer:
    """The tokenizer of the released models, from their three vocabulary files.

    Args:
        dict_path: `dict.txt`; line n, counted from 0, names the GPT-2 id of our id 4 + n.
        bpe_path: `vocab.bpe`, GPT-2's merges.
        encoder_path: `encoder.json`, GPT-2's token to id.

    Raises:
        ValueError: if the files do not belong together. A UserWarning if one is not official.

    Source: the official dictionary is the one of RoBERTa without its mask token.
    """
    paths = {"dictionary": dict_path, "merges": bpe_path, "encoder": encoder_path}
    contents = {kind: Path(path).read_bytes() for kind, path in paths.items()}
    for kind, content in contents.items():
        if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256[kind]:
            warnings.warn(
                f"{paths[kind]} is not the {kind} of the released models: the ids will not fit "
                "their weights. Download it again if you want to use them.",
                stacklevel=2,
            )
    try:
        gpt2_tokens = {str(i): token for token, i in json.loads(contents["encoder"]).items()}
    except ValueError as error:
        raise ValueError(f"{encoder_path} is not JSON: {error}") from None
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    lines = contents["dictionary"].decode().splitlines()
    words = [line.split()[0] for line in lines if line.strip()]
    for i, word in enumerate(words, start=len(vocab)):
        if word.isdecimal() and word not in gpt2_tokens:
            raise ValueError(f"{dict_path} names GPT-2 id {word}, which {encoder_path} lacks.")
        vocab[gpt2_tokens.get(word, word)] = i
    rules = contents["merges"].decode().splitlines()[1:]  # the first line is a version
    return Tokenizer(vocab, [_pair(rule) for rule in rules if rule])


def train(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a vocabulary of `vocab_size` ids, or fewer if the captions are few.

    The same captions, in any order, give the same one.

    Raises:
        ValueError: if there is no text, or `vocab_size` is too small for the special tokens and the
            256 bytes.
    """
    smallest = len(SPECIAL_TOKENS) + len(ALPHABET)
    if vocab_size < smallest:
        fix = f"the special tokens and the bytes take {smallest}. Choose some thousands."
        raise ValueError(f"vocab_size {vocab_size} is too small: {fix}")
    texts = [_normalise(caption) for caption in captions if caption.strip()]
    if not texts:
        raise ValueError("there are no captions to train on.")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair that occurs once is not worth a token
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(*_read(json.loads(tokenizer.to_str())))


def _normalise(text: str, lower: bool = True) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is a {type(text).__name__}, not a string: {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text {text[:40]!r} has half of a surrogate pair at character {error.start}. Fix "
            "it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
        ) from None
    return f" {text.lower() if lower else text}"


def _pair(rule: str | list[str]) -> tuple[str, str]:
    """A merge as written in files: `a b`, or in newer ones `["a", "b"]`."""
    parts = rule.split(" ") if isinstance(rule, str) else rule
    if len(parts) != 2:
        raise ValueError(f"the merge {rule!r} is not a pair of tokens.")
    return parts[0], parts[1]


def _check_vocab(vocab: dict[str, int]) -> None:
    for i, token in enumerate(SPECIAL_TOKENS):
        if vocab.get(token) != i:
            raise ValueError(f"{token} must have id {i}, it has {vocab.get(token)}.")
    if lacking := set(ALPHABET) - set(vocab):
        raise ValueError(f"{len(lacking)} of the 256 bytes have no token: it is not byte-level.")
    if set(vocab.values()) != set(range(len(vocab))):
        raise ValueError(f"the ids of its {len(vocab)} tokens do not run from 0 without gaps.")


def _read(file: Any) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges of a parsed `tokenizer.json`, if its ids depend on nothing else."""
    model = file.get("model") if isinstance(file, dict) else None
    if not isinstance(model, dict) or not {"vocab", "merges"} <= set(model):
        raise ValueError("it has no BPE model.")
    splitter = file.get("pre_tokenizer") or {}
    if (
        splitter.get("type") != "ByteLevel"
        or splitter.get("add_prefix_space")
        or not splitter.get("use_regex", True)
        or file.get("normalizer")
    ):
        raise ValueError("it does not split text as GPT-2 does (ByteLevel, no prefix space).")
    variants = ("dropout", "ignore_merges", "byte_fallback")
    variants += ("continuing_subword_prefix", "end_of_word_suffix")
    if unsupported := [name for name in variants if model.get(name)]:
        raise ValueError(f"its BPE model has {', '.join(unsupported)}, which is not supported.")
    return model["vocab"], [_pair(rule) for rule in model["merges"]]
