"""A model as a folder: weights, config.json, tokenizer and model card; written whole, read strictly.

Nothing in such a folder is executed, and no file outside it is read: config.json names no files.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmonepeace import __version__
from mmonepeace.checkpoint.conversion import read_own
from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file, prefix_errors
from mmonepeace.checkpoint.finding import index_of
from mmonepeace.checkpoint.inferred_config import infer_config
from mmonepeace.checkpoint.inferred_model import infer_model
from mmonepeace.checkpoint.integrity import fingerprint_of
from mmonepeace.checkpoint.key_mapping import Conversion, to_own
from mmonepeace.checkpoint.model_card import ModelCard, card_text
from mmonepeace.checkpoint.reading import is_safetensors
from mmonepeace.checkpoint.writing import write

MODEL_TYPE = "onepeace"
FORMAT_VERSION = 1  # of config.json; a change that older versions cannot read raises it
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json")
FILES = (*WEIGHT_FILES, CONFIG, TOKENIZER, CARD)
SHARD_SIZE = 5 * 10**9  # bytes: what hubs recommend at most
BACKBONE = "OnePeace"  # whose weights the others have, too

_MAX_CONFIG = 2**24  # bytes; the largest, with the names of 100,000 classes, has 3 MB
_OURS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|config\.json|tokenizer\.json|README\.md"
)
# Values of `preprocessing` -> their type; numbers are positive.
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("size", "sampling_rate", "max_tokens"), int),
    **dict.fromkeys(("clip_seconds", "window_seconds", "hop_seconds"), (int, float)),
    **dict.fromkeys(("keep_ratio", "fast_jpeg", "lower_case"), bool),
    **dict.fromkeys(("alpha", "resampling"), str),
    **dict.fromkeys(("mean", "std"), list),
}
_MAX_NUMBER = 1_000_000
_MISSING = object()


@dataclass(frozen=True)
class Saved:
    """What a folder holds.

    Args:
        path: its file of weights, or the index of their shards.
        converted: the weights, which stay on the disk until they are used.
        config: content of config.json.
        tokenizer: its tokenizer.json, None without.
    """

    path: Path
    converted: Conversion
    config: dict[str, Any]
    tokenizer: Path | None

    def check_weights(self, model: nn.Module) -> None:
        """Compare the weights with the parameters of the model that they are for, and with config.json.

        Raises:
            CheckpointError: in one line that names what is missing, unexpected, of another shape, or
                not what was saved with config.json.
        """
        expected = {k.removeprefix("backbone."): v.shape for k, v in model.state_dict().items()}
        stored = {name: value.shape for name, value in self.converted.weights.items()}
        left_out = [key for key, name, _ in self.converted.rows if name is None]
        faults = {
            "missing": [name for name in expected if name not in stored],
            "unexpected": [*left_out, *(name for name in stored if name not in expected)],
            "of another shape": [k for k in stored if stored[k] != expected.get(k, stored[k])],
        }
        for fault, names in faults.items():
            if names:
                raise CheckpointError(
                    f"{self.path}: {len(names)} weights are {fault}: {', '.join(names[:3])}; expected "
                    f"the {len(expected)} of {type(model).__name__}. Save the model again, or fetch the "
                    "folder again."
                )
        self._compare("", _identity(self.converted.weights))

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """Raise a CheckpointError if config.json says something else than what the model does."""
        self._compare("", facts)

    def _compare(self, where: str, actual: Mapping[str, Any]) -> None:
        stored = {key: self.config.get(key, _MISSING) for key in actual}
        with prefix_errors(self.path.with_name(CONFIG)):
            _refuse_differences(stored, actual, where)


def write_pretrained(
    folder: str | Path,
    owner: str,
    model: nn.Module,
    facts: Mapping[str, Any],
    tokenizer: str | None = None,
    card: ModelCard | None = None,
    shard_size: int = SHARD_SIZE,
) -> None:
    """Write a folder; until all of its files are complete, what was there before stays.

    Args:
        folder: a new or empty one, or one that this function wrote.
        owner: name of the class that loads it.
        model: with `metadata()`, on any device, in one dtype.
        facts: what the class knows besides: `preprocessing`, and perhaps `task` and `classes`.
        tokenizer: content of its tokenizer.json.
        card: what its author says of it.
        shard_size: bytes of a file of weights, at most.

    Raises:
        CheckpointError: if the folder has other files or cannot be written, or dtypes differ.
    """
    folder = Path(folder)
    _refuse_others_folder(folder)
    backbone: Any = getattr(model, "backbone", model)
    metadata: Any = model.metadata  # of `BackboneModel` and `OnePeace`
    meta = {**backbone.training_facts, **metadata()}
    if facts.get("classes"):
        meta["task"] = json.dumps({**json.loads(meta["task"]), "classes": facts["classes"]})
    with prefix_errors(folder):
        converted = to_own(model.state_dict(), meta)
        described = _describe(converted, owner) | _identity(converted.weights)
    config = {
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "mmonepeace_version": __version__,
        **described,
        **facts,
        "classes": described["classes"],
        "tokenizer": None if tokenizer is None else _hash(tokenizer.encode()),
    }
    # The format is what other libraries look for.
    content = Conversion(converted.weights, {**converted.meta, "format": "pt"})
    texts = {
        **({} if tokenizer is None else {folder / TOKENIZER: tokenizer}),
        folder / CARD: card_text(
            card or ModelCard(), folder.resolve().name, config, converted.meta
        ),
        folder / CONFIG: json.dumps(config, indent=2) + "\n",
    }
    before = set(folder.iterdir()) if folder.is_dir() else set()
    write(folder / WEIGHTS, content, shard_size, beside=texts)
    kept = {*texts, *_weight_files(folder)}
    for path in before - kept:
        if _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)


def read_pretrained(folder: Path, owner: str) -> Saved:
    """Read a folder that `write_pretrained` wrote, and check it.

    `owner` is the name of the class that loads it: the one that saved it, or `OnePeace`, which takes
    the backbone of any. `Saved.check_weights` and `Saved.check_facts` complete the checks.

    Raises:
        CheckpointError: in one line, if a file is missing or damaged, or config.json does not describe
            the weights.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no {CONFIG}; expected a folder that save_pretrained wrote. A checkpoint alone "
            "is what from_checkpoint takes."
        )
    with prefix_errors(path):
        config = _read_config(path)
        _check_kind(config, owner)
        _check_preprocessing(config.get("preprocessing"))
    weights = folder / WEIGHTS
    weights = weights if weights.is_file() else index_of(weights)
    if not weights.is_file():
        raise CheckpointError(f"{folder}: has no {WEIGHTS}. Save or fetch the folder again.")
    if weights.name == WEIGHTS and not is_safetensors(weights):
        raise CheckpointError(f"{weights}: is not safetensors, and nothing else is loaded.")
    converted = read_own(weights)
    with prefix_errors(weights):
        described = _describe(converted, config["class"])
    saved = Saved(weights, converted, config, _find_tokenizer(folder, config.get("tokenizer")))
    saved._compare("", described)
    return saved


def _describe(converted: Conversion, owner: str) -> dict[str, Any]:
    """What config.json says of the weights, read off themselves."""
    weights, meta = converted.weights, converted.meta
    dtypes = {
        str(v.dtype).removeprefix("torch.") for v in weights.values() if v.is_floating_point()
    }
    if len(dtypes) != 1:
        raise CheckpointError(
            f"the weights are {' and '.join(sorted(dtypes))}; expected one dtype. Cast the model "
            "before it is saved: .to(torch.float32)."
        )
    if owner == BACKBONE:
        model: dict[str, Any] = {"type": BACKBONE, "backbone": infer_config(weights, meta)}
    else:
        model = infer_model(weights, meta)
    classes = model.pop("classes", None)
    backbone = model.pop("backbone")
    modalities = backbone.pop("modalities")
    projections = sorted({k.split(".")[1] for k in weights if k.startswith("projections.")})
    described = {
        "class": owner,
        "dtype": dtypes.pop(),
        "architecture": {**backbone.pop("arch"), **backbone},
        "modalities": modalities,
        "model": {**model, "projections": projections},
        "classes": classes,
    }
    return json.loads(json.dumps(described))  # lists for tuples, as a file has them


def _identity(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What tells these weights from others of the same shapes."""
    count = sum(value.numel() for value in weights.values())
    return {"parameters": count, "fingerprint": fingerprint_of(weights)}


def _read_config(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG:
        raise CheckpointError(f"is larger than {_MAX_CONFIG:,} bytes: not a config of a model.")
    with explain_broken_file("the config of a model"):
        config = json.loads(path.read_bytes())
    if not isinstance(config, dict):
        raise CheckpointError(f"is a {type(config).__name__}, expected an object of JSON.")
    return config


def _check_kind(config: Mapping[str, Any], owner: str) -> None:
    """Raise a CheckpointError for another kind of model, a newer format, or another class."""
    if (kind := config.get("model_type")) != MODEL_TYPE:
        raise CheckpointError(
            f"model_type is {kind!r:.80}, expected {MODEL_TYPE!r}: a model of another library."
        )
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"format_version is {version!r:.80}, expected {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"format_version is {version}, expected {FORMAT_VERSION} at most: written by mmonepeace "
            f"{config.get('mmonepeace_version')!r:.40}, this is {__version__}. Update mmonepeace."
        )
    known = ("Embedder", "Predictor", BACKBONE)
    if (saved_by := config.get("class")) not in known:
        raise CheckpointError(f"class is {saved_by!r:.80}, expected one of {', '.join(known)}.")
    if owner not in (saved_by, BACKBONE):
        raise CheckpointError(
            f"class is {saved_by!r}, expected {owner!r}. Load it with {saved_by}.from_pretrained."
        )


def _check_preprocessing(inputs: Any) -> None:
    """Raise a CheckpointError for values of another type, or out of range."""
    if not isinstance(inputs, dict) or not all(isinstance(x, dict) for x in inputs.values()):
        raise CheckpointError(
            f"preprocessing is {inputs!r:.80}, expected an object for each modality."
        )
    for modality, facts in inputs.items():
        for key, value in facts.items():
            expected = _TYPES.get(key)
            numbers = value if isinstance(value, list) else [value]
            right = expected is not None and isinstance(value, expected)
            if expected is not bool and isinstance(value, bool):
                right = False
            if expected not in (bool, str):
                right = right and all(_is_positive(x) for x in numbers)
            if not right or (expected is list and len(numbers) != 3):
                raise CheckpointError(
                    f"preprocessing.{modality}.{key} is {value!r:.80}, expected what save_pretrained "
                    "wrote. Restore the file."
                )


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 < value <= _MAX_NUMBER


def _refuse_differences(stored: Any, actual: Any, where: str) -> None:
    """Raise a CheckpointError that names the first value that config.json has differently."""
    if isinstance(stored, Mapping) and isinstance(actual, Mapping):
        for key in (*actual, *(key for key in stored if key not in actual)):
            name = f"{where}.{key}" if where else key
            _refuse_differences(stored.get(key, _MISSING), actual.get(key, _MISSING), name)
        return
    if stored is _MISSING or actual is _MISSING or type(stored) is not type(actual):
        numbers = all(type(x) in (int, float) for x in (stored, actual))
        same = numbers and stored == actual
    else:
        same = stored == actual
    if not same:
        given, found = ("missing" if x is _MISSING else f"{x!r:.80}" for x in (stored, actual))
        raise CheckpointError(
            f"{where} is {given}, that of the model is {found}. Restore the file that save_pretrained "
            "wrote with these weights, or save the model again."
        )


def _find_tokenizer(folder: Path, expected: Any) -> Path | None:
    """The tokenizer that was saved, if there was one, and no other."""
    path = folder / TOKENIZER
    found = _hash(path.read_bytes()) if path.is_file() else None
    if found != expected:
        given, saved = (
            "there is none" if x is None else f"it is {x!r:.40}" for x in (found, expected)
        )
        raise CheckpointError(
            f"{path}: {given}, in {CONFIG} {saved}. Restore the {TOKENIZER} that the model was saved "
            "with; another one is passed as tokenizer=PATH to from_checkpoint."
        )
    return path if found else None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _refuse_others_folder(folder: Path) -> None:
    if not folder.exists():
        return
    advice = "Name a new or empty folder, or one that save_pretrained wrote."
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file. {advice}")
    left_over = re.compile(r"\..+\.part")  # by a killed process
    others = [path.name for path in folder.iterdir() if not left_over.fullmatch(path.name)]
    if others:
        # Killed between two renames, a save leaves its config under the temporary name.
        config = next(
            (p for p in (folder / CONFIG, folder / f".{CONFIG}.part") if p.exists()), folder
        )
        try:
            _check_kind(_read_config(config), BACKBONE)
        except (CheckpointError, OSError):
            raise CheckpointError(
                f"{folder}: has files that save_pretrained did not write, such as "
                f"{min(others)!r}. {advice}"
            ) from None


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files that the weights of a folder are in."""
    weights, index = folder / WEIGHTS, index_of(folder / WEIGHTS)
    if weights.is_file():
        yield weights
    elif index.is_file():
        yield index
        names = json.loads(index.read_bytes())["weight_map"].values()
        yield from (folder / name for name in set(names))
