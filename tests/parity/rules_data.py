"""Parity rules of what happens before the model: text, sound and pictures."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.datasets import audio_io, image_io
from mmonepeace.datasets.tokenizer import build_official, clean_caption
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from mmonepeace.spec import num_audio_frames

if TYPE_CHECKING:
    from tests.parity.check import Case

VOCABULARY = ("dict.txt", "vocab.bpe", "encoder.json")  # beside the set: ../data/bpe


def bpe_text(case: "Case") -> None:
    """Ids of all strings, with and without the clean-up of captions, and the word starts."""
    paths = [case.root.resolve().parent / "data" / "bpe" / name for name in VOCABULARY]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        case.check_that(False, f"the vocabulary is not there: {', '.join(missing)}")
        return
    tokenizer = build_official(*paths)
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
            for part, actual in {"head": clip[:2000], "tail": clip[-2000:]}.items():
                case.compare(f"{name}.{part}", actual, case.outputs[f"{name}.{part}"])
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
            for part, actual in {"every_16th_sample": wave[::16], "head": wave[:2000]}.items():
                case.compare(f"{name}.{part}", actual, case.outputs[f"asset_{name}.{part}"])


def image_preprocess(case: "Case") -> None:
    """Square pictures, exact: the resizing is Pillow's in both."""
    preprocessor = MultimodalDataPreprocessor(case.config["mean"], case.config["std"])
    slices = {"crop": (slice(None), slice(100, 132), slice(60, 92))}
    for step in (4, 8):
        slices[f"every_{step}th"] = (slice(None), slice(None, None, step), slice(None, None, step))
    for name, facts in case.manifest["images"].items():
        source, side = name.rsplit(".", 1)
        if "file_sha256" in facts:
            picture = _asset(case, source, facts["file_sha256"])
            if picture is None:
                continue
        else:
            picture = case.inputs[source].numpy()
        image = image_io.resize(image_io.to_rgb(picture), int(side))
        batch = preprocessor({"inputs": {"image": [image_io.to_tensor(image)]}})
        image_3HW = batch["inputs"]["image"][0]
        for output, expected in case.outputs.items():
            if output == name or output.startswith(f"{name}."):
                part = slices.get(output.removeprefix(f"{name}."), ...)
                case.compare(output, image_3HW[part], expected, atol=1e-5)


def _audio_batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Waves, and the mask of frames with the entry of CLS that the reference counts."""
    waves, pad = MultimodalDataPreprocessor()({"inputs": {"audio": clips}})["inputs"]["audio"]
    return waves, F.pad(pad, (1, 0))


def _asset(case: "Case", name: str, sha256: str) -> Path | None:
    """A file that the set names but does not hold; None where nobody put it beside the set."""
    for path in (case.folder / name, case.root / "assets" / name):
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            case.check_that(found == sha256, f"{path} is another file")
            return path
    return None
