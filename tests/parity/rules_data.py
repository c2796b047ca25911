"""Parity rules of preprocessing: text, audio, images and masks."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.datasets import audio_io, image_io, masking
from mmonepeace.datasets.masking import MASK_RATIOS
from mmonepeace.datasets.tokenizer import Tokenizer, build_official, clean_caption
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from mmonepeace.spec import num_audio_frames

if TYPE_CHECKING:
    from tests.parity.case import Case

VOCABULARY = ("dict.txt", "vocab.bpe", "encoder.json")


def _official_tokenizer(case: "Case") -> Tokenizer:
    """That of the released vocabulary, which is not part of a set but in data/bpe beside it."""
    folder = case.root.resolve().parent / "data" / "bpe"
    missing = [name for name in VOCABULARY if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}. Put the vocabulary there.")
    return build_official(*(folder / name for name in VOCABULARY))


def bpe_text(case: "Case") -> None:
    """Ids of all strings, with and without the clean-up of captions, and the word starts."""
    tokenizer = _official_tokenizer(case)
    table = json.loads((case.root / case.manifest["strings_file"]).read_text())
    case.check_that(tokenizer.vocab_size == table["vocabulary_size"], "vocabulary size differs")
    limit = case.config["max_src_length"]
    for entry in table["strings"]:
        text = entry["text"]
        (ids,) = tokenizer.encode([text], limit)
        case.check_that(ids == entry["hub_ids"], f"{text!r}: hub ids differ")
        cleaned = clean_caption(text)
        (ids,) = tokenizer.encode([cleaned], limit)
        case.check_that(cleaned == entry["dataset_text"], f"{text!r}: cleaned to {cleaned!r}")
        case.check_that(ids == entry["dataset_ids"], f"{text!r}: data set ids differ")
    case.compare("is_word_start", tokenizer.is_word_start, case.outputs["is_word_start"])


def audio_preprocess(case: "Case") -> None:
    """The hub's clips one by one and batched, the data set's lengths, and the file of assets."""
    rate, seconds = case.config["sample_rate"], case.config["max_duration_s"]
    clips: dict[str, Tensor] = {}
    for name, facts in case.manifest["clips"].items():
        if "members" in facts:
            waves, pad = _audio_batch([clips[member] for member in facts["members"]])
            case.compare(f"{name}.src_audios", waves, case.outputs[f"{name}.src_audios"])
            case.compare(f"{name}.padding_mask", pad, case.outputs[f"{name}.padding_mask"])
            continue
        wave = audio_io.to_mono_16k(case.inputs[f"{name}.pcm16"].numpy(), facts["sample_rate"])
        if facts["sample_rate"] != rate:
            expected = case.outputs[f"{name}.resampled"]
            case.compare(f"{name}.resampled", torch.from_numpy(wave), expected)
        wave = audio_io.fit_length(audio_io.standardise(wave), seconds)
        clips[name] = clip = torch.from_numpy(wave)
        _, pad = _audio_batch([clip])
        case.check_that(len(wave) == facts["output_samples"], f"{name}: {len(wave)} samples")
        frames = facts["padding_mask_length"]
        case.check_that(pad.shape == (1, frames), f"{name}: mask {tuple(pad.shape)}")
        if "complete_input" in facts:  # a long clip: both ends of what is kept
            head, tail = case.outputs[f"{name}.head"], case.outputs[f"{name}.tail"]
            case.compare(f"{name}.head", clip[: len(head)], head)
            case.compare(f"{name}.tail", clip[-len(tail) :], tail)
        else:
            case.compare(f"{name}.src_audios", clip, case.outputs[f"{name}.src_audios"])
            case.compare(f"{name}.padding_mask", pad[0], case.outputs[f"{name}.padding_mask"])
    for name, facts in case.manifest["dataset_clips"].items():
        wave = audio_io.to_mono_16k(case.inputs[f"dataset_{name}"].numpy(), rate)
        wave = audio_io.fit_length(audio_io.standardise(wave), facts["max_duration"])
        case.compare(f"dataset_{name}", torch.from_numpy(wave), case.outputs[f"dataset_{name}"])
        case.check_that(num_audio_frames(len(wave)) == facts["frames"], f"dataset_{name}: frames")
    for samples, frames in case.manifest["frames_by_samples"].items():
        case.check_that(num_audio_frames(int(samples)) == frames, f"frames of {samples} samples")
    for name, facts in case.manifest["assets"].items():
        if path := _asset(case, name, facts["file_sha256"]):
            wave = audio_io.fit_length(audio_io.standardise(audio_io.load_audio(path)), seconds)
            wave = torch.from_numpy(wave)
            case.check_that(len(wave) == facts["output_samples"], f"{name}: {len(wave)} samples")
            for output, expected in case.outputs.items():
                if output == f"asset_{name}.head":
                    case.compare(output, wave[: len(expected)], expected)
                elif match := re.fullmatch(
                    rf"asset_{re.escape(name)}\.every_(\d+)th_sample", output
                ):
                    case.compare(output, wave[:: int(match[1])], expected)


def image_preprocess(case: "Case") -> None:
    """Square images, exact: the resizing is Pillow's in both."""
    preprocessor = MultimodalDataPreprocessor(case.config["mean"], case.config["std"])
    for name, facts in case.manifest["images"].items():
        source, side = name.rsplit(".", 1)
        if "file_sha256" in facts:
            given = _asset(case, source, facts["file_sha256"])
            if given is None:
                continue
        else:
            given = case.inputs[source].numpy()
        image = image_io.resize(image_io.to_rgb(given), int(side))
        batch = preprocessor({"inputs": {"image": [image_io.to_tensor(image)]}})
        image_3HW = batch["inputs"]["image"][0]
        for output, expected in case.outputs.items():
            if output == name or output.startswith(f"{name}."):
                part = image_3HW[_slice(case, output.removeprefix(name))]
                case.compare(output, part, expected, atol=1e-5)  # the manifest's "exact_when"


def _slice(case: "Case", name: str) -> Any:
    """The part of an image that an output stores: all, ".every_Nth", or the case's ".crop"."""
    if match := re.fullmatch(r"\.every_(\d+)th", name):
        step = slice(None, None, int(match[1]))
        return slice(None), step, step
    if name == ".crop":
        crop = re.search(r"'crop' is \[:,(\d+):(\d+),(\d+):(\d+)\]", case.manifest["what"])
        top, bottom, left, right = map(int, crop.groups())
        return slice(None), slice(top, bottom), slice(left, right)
    if name:
        raise ValueError(f"{name} is not a known part of an image")
    return ...


def mask_statistics(case: "Case") -> None:
    """Counts of masks, and how often and in what runs tokens are hidden.

    What never varies is exact; means and frequencies are within four standard errors of both
    samples.
    """
    tables = json.loads((case.folder / "statistics.json").read_text())
    is_word_start = _official_tokenizer(case).is_word_start.numpy()
    rng = np.random.default_rng(0)
    for number, facts in enumerate(tables.get("image_text", [])):
        starts = is_word_start[facts["token_ids"][:-1]]
        _image_text_masks(_Draws(case, f"image_text.{number}", facts["draws"]), facts, starts, rng)
    for facts in tables.get("audio", []):
        name = f"audio.{facts['frames']}.{facts['mask_prob']}"
        _span_masks(_Draws(case, name, facts["draws"]), facts, rng)
    captions = [facts for kind in ("image_text", "audio_text") for facts in tables.get(kind, [])]
    tokens = {f["caption"]: f["token_ids"][:-1] for f in captions if "token_ids" in f}
    for number, facts in enumerate(tables.get("audio_text", [])):
        starts = is_word_start[tokens[facts["caption"]]]
        _audio_text_masks(_Draws(case, f"audio_text.{number}", facts["draws"]), facts, starts, rng)


def _ratios(case: "Case", facts: Mapping[str, Any]) -> dict[str, float]:
    """Mask ratios under the reference's names: of the entry, of the case, or those we release."""
    vl, al = MASK_RATIOS["vl"], MASK_RATIOS["al"]
    released = {
        "text_mask_ratio": vl["text"],
        "image_mask_ratio": vl["image"],
        "vl_text_mask_ratio": vl["joint_text"],
        "vl_image_mask_ratio": vl["joint_image"],
        "audio_mask_ratio": al["audio"],
        "al_text_mask_ratio": al["joint_text"],
        "al_audio_mask_ratio": al["joint_audio"],
    }
    return {**released, **case.config, **facts.get("config", {})}


class _Draws:
    """Our draws, as many as the reference made."""

    def __init__(self, case: "Case", name: str, count: int) -> None:
        self.case, self.name, self.count = case, name, count

    def compare(self, name: str, values: Any, expected: dict[str, float]) -> None:
        """A value of each draw, against mean and deviation."""
        values = np.asarray(values, dtype=float)
        if expected["std"] == 0:
            right = (values == expected["mean"]).all()
            self.case.check_that(bool(right), f"{self.name} {name}: {values.min()}..{values.max()}")
            return
        error = math.sqrt((values.var() + expected["std"] ** 2) / len(values))
        self.close(name, values.mean(), expected["mean"], error)

    def frequencies(self, name: str, own: Any, expected: Any, count: float) -> None:
        """Fractions of `count` observations each."""
        own, expected = np.asarray(own, dtype=float), np.asarray(expected, dtype=float)
        pooled = (own + expected) / 2 + 1 / count  # a frequency of 0 varies too
        error = np.sqrt(2 * pooled * (1 - pooled).clip(0) / count)
        self.close(name, own, expected, error)

    def ratios(self, name: str, above: np.ndarray, below: np.ndarray, expected: Any) -> None:
        """Ratios of sums over draws, where numerator and denominator of a draw are correlated."""
        below = below.reshape(-1, *[1] * (above.ndim - 1))
        own = above.sum(0) / below.sum()
        rest = (above - own * below).var(0) + 1 / self.count  # rare values vary too
        self.close(name, own, expected, np.sqrt(2 * rest / self.count) / below.mean())

    def close(self, name: str, own: Any, expected: Any, error: Any) -> None:
        off = np.abs(np.asarray(own) - expected)
        right = (off <= 4 * np.asarray(error) + 1e-9).all()
        self.case.check_that(bool(right), f"{self.name} {name}: {own}, expected {expected}")


def _hidden(length: int, keep: np.ndarray) -> np.ndarray:
    """(length,) bool from positions kept."""
    hidden = np.ones(length, dtype=bool)
    hidden[keep] = False
    return hidden


def _image_text_masks(
    draws: _Draws, facts: dict[str, Any], starts: np.ndarray, rng: np.random.Generator
) -> None:
    tokens, patches = len(starts), facts["num_patches"]
    ratios = _ratios(draws.case, facts)
    text_ratios = ratios["text_mask_ratio"], ratios["vl_text_mask_ratio"]
    image_ratios = ratios["image_mask_ratio"], ratios["vl_image_mask_ratio"]
    words = np.cumsum(starts)
    counts: dict[str, list[float]] = defaultdict(list)
    totals = {"text": np.zeros(tokens), "image": np.zeros(patches)}
    for _ in range(draws.count):
        pairs = {
            "text": masking.keep_tokens(rng, starts, *text_ratios),
            "image": masking.keep_patches(rng, patches, *image_ratios),
        }
        hidden = {}
        for name, length in (("text", tokens + 2), ("image", patches + 1)):
            for prefix, keep in zip(("", "vl_"), pairs[name], strict=True):
                hidden[prefix + name] = _hidden(length, keep)
                counts[f"{prefix}{name}_kept"].append(len(keep))
                counts[f"{prefix}{name}_masked"].append(length - len(keep))
        text, joint = hidden["text"], hidden["vl_text"]
        counts["text_overlap"].append((text & joint).sum())
        counts["image_kept_overlap"].append((~hidden["image"] & ~hidden["vl_image"])[1:].sum())
        inside = {word: text[1:-1][words == word] for word in set(words)}
        counts["text_mask_is_whole_word"].append(all(len(set(w)) == 1 for w in inside.values()))
        ends = (text[[0, -1]], joint[[0, -1]], hidden["image"][:1], hidden["vl_image"][:1])
        counts["eos_or_cls_masked"].append(np.concatenate(ends).any())
        totals["text"] += text[1:-1]
        totals["image"] += hidden["image"][1:]
    for name, expected in facts["stats"].items():
        draws.compare(name, counts[name], expected)
    expected = facts["text_mask_frequency_per_token"]
    draws.frequencies("text", totals["text"] / draws.count, expected, draws.count)
    expected = np.full(patches, facts["stats"]["image_masked"]["mean"] / patches)
    draws.frequencies("image", totals["image"] / draws.count, expected, draws.count)


def _span_masks(draws: _Draws, facts: dict[str, Any], rng: np.random.Generator) -> None:
    frames, options = facts["frames"], (facts["mask_length"], facts["mask_prob_adjust"])
    keeps = [
        masking.keep_frames(rng, frames, facts["mask_prob"], *options) for _ in range(draws.count)
    ]
    hidden = np.array([_hidden(frames + 1, keep)[1:] for keep in keeps])
    draws.compare("masked", hidden.sum(1), facts["masked"])
    draws.case.check_that({len(k) for k in keeps} == {facts["kept_with_cls"]}, draws.name)
    edges = np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (draw, begin), (_, end) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    # The key ends with the longest length counted; its entry holds all longer runs too.
    (key,) = (name for name in facts if name.startswith("run_length_fraction_up_to_"))
    longest, expected = int(key.rsplit("_", 1)[1]), facts[key]
    runs = np.zeros((draws.count, longest + 1))
    np.add.at(runs, (draw, np.minimum(end - begin, longest)), 1)
    runs = runs[:, : len(expected)]
    number = np.bincount(draw, minlength=draws.count)
    draws.ratios("runs", runs, number, expected)
    draws.ratios("run length", hidden.sum(1), number, facts["run_length"]["mean"])
    frequency = hidden.mean(0)
    for name, part in (("first5", frequency[:5]), ("last5", frequency[-5:])):
        draws.frequencies(name, part, facts[f"mask_frequency_{name}"], draws.count)
    draws.frequencies("middle", frequency[frames // 2], facts["mask_frequency_middle"], draws.count)


def _audio_text_masks(
    draws: _Draws, facts: dict[str, Any], starts: np.ndarray, rng: np.random.Generator
) -> None:
    ratios, frames = _ratios(draws.case, facts), facts["frames"]
    hidden: dict[str, list[int]] = {
        f"{name}_masked": [] for name in ("al_text", "al_audio", "audio")
    }
    for _ in range(draws.count):
        kept = masking.keep_words(rng, starts, ratios["al_text_mask_ratio"])
        hidden["al_text_masked"].append(len(starts) + 2 - len(kept))
        for name in ("al_audio", "audio"):
            # Spans do not change the count.
            kept = masking.keep_frames(rng, frames, ratios[f"{name}_mask_ratio"])
            hidden[f"{name}_masked"].append(frames + 1 - len(kept))
    for name, expected in facts["stats"].items():
        draws.compare(name, hidden[name], expected)


def _audio_batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Waves, and the mask of frames with the entry of CLS that the reference counts."""
    waves, pad, _ = MultimodalDataPreprocessor()({"inputs": {"audio": clips}})["inputs"]["audio"]
    return waves, F.pad(pad, (1, 0))


def _asset(case: "Case", name: str, sha256: str) -> Path | None:
    """A file that the set names but does not contain; None where it is not there either."""
    for path in (case.folder / name, case.root / "assets" / name):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            case.check_that(digest == sha256, f"{path} is another file")
            return path
    return None
