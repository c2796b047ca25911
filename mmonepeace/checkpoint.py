"""Checkpoints: safe reading, official and own key names, fitting weights to a model.

Reading never runs code from a file. Writing is safetensors or a torch file; the official vision
layout is also written as the pickle its loaders expect.
"""

import io
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mmonepeace.layers.position import (
    resample_pos_embed,
    resample_rpb,
    rpb_index,
    rpb_side,
    square_side,
)

StateDict = dict[str, Tensor]


class CheckpointError(Exception):
    """A file that cannot be used, or weights that do not fit. The message is for the user."""


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file in front of what is said about it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


# --------------------------------------------------------------------------------------- reading

# Classes found in official files whose content nobody needs: replaced by inert stand-ins.
_INERT_PACKAGES = {
    "argparse", "collections", "datetime", "detectron2", "enum", "fairseq", "fvcore", "mmcv",
    "mmengine", "numpy", "omegaconf", "one_peace", "pathlib", "typing", "yacs",
}  # fmt: skip
_INERT_BUILTINS = {
    "set", "frozenset", "bytearray", "complex", "slice", "range", "list", "dict", "getattr",
}  # fmt: skip


class _Inert:
    """Takes the place of an unknown class: accepts everything, does nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...
    def __setstate__(self, _state: Any) -> None: ...
    def __setitem__(self, _key: Any, _value: Any) -> None: ...
    def append(self, _item: Any) -> None: ...
    def extend(self, _items: Any) -> None: ...


def _load_storage(data: bytes) -> Any:
    """What raw pickles call on the bytes of a tensor, restricted to weights."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that knows tensors and containers, and calls nothing else."""

    _ALLOWED: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("torch", "Size"): torch.Size,
        ("_codecs", "encode"): _Inert,  # part of a NumPy number
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return self._ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module == "torch" and name.endswith("Storage")) or (
            module == "torch.storage" and name in ("TypedStorage", "UntypedStorage")
        ):
            return getattr(torch, name, None) or getattr(torch.storage, name)
        package = module.split(".")[0]
        if package in _INERT_PACKAGES or (
            package in ("builtins", "__builtin__") and name in _INERT_BUILTINS
        ):
            return _Inert
        raise CheckpointError(
            f"refused: the file wants to call {module}.{name}, which is no part of a checkpoint. "
            "Nothing was executed."
        )


class _RestrictedPickle:
    """The face of the pickle module that `torch.load` expects."""

    Unpickler = _RestrictedUnpickler

    @staticmethod
    def load(file: Any, **_kwargs: Any) -> Any:
        return _RestrictedUnpickler(file).load()


def _read_object(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK":  # a torch file: the tensors stay on disk until they are used
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            return torch.load(
                path, map_location="cpu", weights_only=False, mmap=True,
                pickle_module=_RestrictedPickle,
            )  # fmt: skip
    with path.open("rb") as file:
        content = _RestrictedUnpickler(file).load()
    if isinstance(content, int):  # the magic number of torch files before 1.6
        return torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle
        )
    return content


def read(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """Read the weights of a checkpoint without running code from it.

    Args:
        path: safetensors, a torch file (also with a fairseq, mmcv or detectron2 configuration
            inside), or the raw pickle of the official vision branch.

    Returns:
        state dict on the CPU as named in the file, and its metadata (empty if none).

    Raises:
        CheckpointError: with one line naming the file, if it is missing, truncated, hostile, or
            holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            content, meta = _read_object(path), {}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001  (a broken file can fail in any way)
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read, it is truncated or no checkpoint ({reason})."
        ) from None
    if isinstance(content, Mapping):
        stored = content.get("meta")
        meta = dict(stored) if isinstance(stored, Mapping) else meta
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state dict.")
    weights = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f"{path}: holds no tensors, so it is no checkpoint of a model.")
    return weights, meta


# ------------------------------------------------------------------------------------- key names

# Official name (without its prefix) <-> own name. The first row that matches decides, in both
# directions. m: modality, i: block, j: table, p: weight or bias. Source: the official modules.
_KEY_TABLE = (
    ("{m}_adapter.cls_embedding", "adapters.{m}.cls_token"),
    ("{m}_adapter.rel_pos_table_list.{j}.weight", "adapters.{m}.rpb.tables.{j}"),
    ("{m}_adapter.layernorm_embedding.{p}", "adapters.{m}.embed_norm.{p}"),
    ("{m}_adapter.type_embedding", "adapters.{m}.type_embed"),
    ("image_adapter.type_embedding_2", "adapters.image.type_embed_2"),
    ("image_adapter.pos_embed", "adapters.image.pos_embed"),
    ("text_adapter.embed_positions.weight", "adapters.text.pos_embed"),
    ("audio_adapter.embed_positions.weight", "adapters.audio.pos_embed"),
    ("image_adapter.embed_images.1.layer_norm.{p}", "adapters.image.stem.1.{p}"),
    ("image_adapter.embed_images.4.layer_norm.{p}", "adapters.image.stem.4.{p}"),
    ("image_adapter.embed_images.{j}.{p}", "adapters.image.stem.{j}.{p}"),
    ("image_adapter.embed_images.{p}", "adapters.image.stem.{p}"),
    ("{m}_adapter.{rest}", "adapters.{m}.{rest}"),
    ("layers.{i}.self_attn_layer_norm.{p}", "layers.{i}.norm1.{p}"),
    ("layers.{i}.final_layer_norm.{p}", "layers.{i}.norm2.{p}"),
    ("layers.{i}.self_attn.ln.{p}", "layers.{i}.attn.norm.{p}"),
    ("layers.{i}.self_attn.c_attn", "layers.{i}.attn.head_scale"),
    ("layers.{i}.attn_ln.{p}", "layers.{i}.post_attn_norm.{p}"),
    ("layers.{i}.self_attn.{rest}", "layers.{i}.attn.{rest}"),
    ("layers.{i}.{m}_ffn.0.wi_0.{p}", "layers.{i}.ffn.{m}.gate.{p}"),
    ("layers.{i}.{m}_ffn.0.wi_1.{p}", "layers.{i}.ffn.{m}.up.{p}"),
    ("layers.{i}.{m}_ffn.2.{p}", "layers.{i}.ffn.{m}.norm.{p}"),
    ("layers.{i}.{m}_ffn.3.{p}", "layers.{i}.ffn.{m}.down.{p}"),
    ("layers.{i}.{gamma}", "layers.{i}.{gamma}"),
    ("{m}_layer_norm.{p}", "norms.{m}.{p}"),
    ("{m}_proj.{p}", "projections.{m}.{p}"),
    ("logit_scale", "logit_scale"),
)
# Forms of other official files that mean the same as a row above.
_ALIASES = (
    ("{m}_adapter.rel_pos_table.weight", "{m}_adapter.rel_pos_table_list.0.weight"),
    ("layers.{i}.rel_pos_table.weight", "image_adapter.rel_pos_table_list.{i}.weight"),
    ("layers.{i}.layer_norms.0.{p}", "layers.{i}.self_attn_layer_norm.{p}"),
    ("layers.{i}.layer_norms.1.{p}", "layers.{i}.final_layer_norm.{p}"),
)
_FIELDS = {
    "m": "text|image|audio",
    "i": r"\d+",
    "j": r"\d+",
    "p": "weight|bias",
    "gamma": "gamma_[12]",
    "rest": ".+",
}


def _compile(rows: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    def to_regex(template: str) -> re.Pattern[str]:
        return re.compile(
            re.sub(r"\\\{(\w+)\\\}", lambda f: f"(?P<{f[1]}>{_FIELDS[f[1]]})", re.escape(template))
        )

    return [(to_regex(source), target) for source, target in rows]


_FROM_OFFICIAL = _compile(_KEY_TABLE)
_TO_OFFICIAL = _compile((own, official) for official, own in _KEY_TABLE)
_FROM_ALIAS = _compile(_ALIASES)
_OFFICIAL_PREFIX = re.compile(
    r"(module\.)?(backbone\.(net\.)?)?((encoder_wrapper\.)?(fusion_model|encoder)\.(?=layers\.|\w+_layer_norm\.)"
    r"|encoder_wrapper\.)?"
)
# Deterministic index maps and a version number: recomputed, never trusted.
RECOMPUTED = "index map, recomputed"
_BUFFER = re.compile(r"(.*\.)?(rp_bucket(_window)?|position_idx|version)")


def _rename(key: str, rows: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rows:
        if match := pattern.fullmatch(key):
            return target.format(**match.groupdict())
    return None


def own_name(official: str) -> str | None:
    """Our name of an official parameter, from any of the official layouts; None if unknown."""
    if _BUFFER.fullmatch(official):
        return None
    key = _OFFICIAL_PREFIX.sub("", official, count=1)
    return _rename(_rename(key, _FROM_ALIAS) or key, _FROM_OFFICIAL)


def is_vision(name: str) -> bool:
    """Whether an own name belongs to the exported vision branch (no final norm, no projection)."""
    if name.startswith("layers."):
        return ".ffn." not in name or ".ffn.image." in name
    return name.startswith("adapters.image.")


@dataclass
class Conversion:
    """A state dict with what became of each key.

    Attributes:
        weights: converted tensors.
        meta: metadata to store with them.
        rows: (key in the file, new key or None, why it was left out).
    """

    weights: StateDict
    meta: dict[str, str]
    rows: list[tuple[str, str | None, str]] = field(default_factory=list)


def to_own(weights: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> Conversion:
    """Rename the weights of an official or own checkpoint, every modality, to our names.

    Raises:
        CheckpointError: if nothing in it belongs to a ONE-PEACE encoder, or parts are missing.
    """
    own = any(re.match(r"(backbone\.)?adapters\.\w+\.", key) for key in weights)
    layout = (meta or {}).get("official_layout", "vision") if own else _layout(weights)
    result = Conversion({}, {"format": "mmonepeace", "official_layout": layout})
    for key, value in weights.items():
        if own:
            name = key.removeprefix("backbone.")
            name = name if re.match("adapters|layers|norms|projections|logit_scale", name) else None
        else:
            name = own_name(key)
        reason = RECOMPUTED if _BUFFER.fullmatch(key) else "no part of the encoder"
        result.rows.append((key, name, "" if name else reason))
        if name:
            result.weights[name] = value
    blocks = {int(k.split(".")[1]) for k in result.weights if k.startswith("layers.")}
    adapters = {k.split(".")[1] for k in result.weights if k.startswith("adapters.")}
    if not blocks or not adapters:
        example = next(iter(weights))
        raise CheckpointError(
            f"this is the checkpoint of another model: its keys look like {example!r}, ONE-PEACE "
            "has image_adapter.*, and encoder.layers.* or fusion_model.layers.*."
        )
    if blocks != set(range(len(blocks))):
        raise CheckpointError(
            f"blocks {sorted(set(range(max(blocks) + 1)) - blocks)} are missing from the file."
        )
    return result


def _layout(weights: Mapping[str, Tensor]) -> str:
    """Name of the official layout, so that the way back finds the same keys."""
    keys = " ".join(weights)
    if "encoder_wrapper." in keys:
        return "full"
    if re.search(r"layers\.\d+\.rel_pos_table\.", keys):
        return "segmentation"
    return "classification" if "image_adapter.rel_pos_table." in keys else "vision"


def select_vision(converted: Conversion) -> Conversion:
    """The vision branch of a converted checkpoint.

    Raises:
        CheckpointError: if the checkpoint has no vision branch.
    """
    rows = [
        (key, name if name and is_vision(name) else None, why or ("" if is_vision(name) else "no part of the vision branch"))
        for key, name, why in converted.rows
    ]  # fmt: skip
    weights = {key: value for key, value in converted.weights.items() if is_vision(key)}
    if not any(".ffn." in key for key in weights) or "adapters.image.pos_embed" not in weights:
        raise CheckpointError("the file holds no vision branch (image adapter and image FFNs).")
    return Conversion(weights, converted.meta, rows)


def to_official_vision(converted: Conversion) -> Conversion:
    """Our vision branch in the layout it came from, with the index maps the official code loads.

    A full checkpoint becomes the exported vision layout.
    """
    layout = converted.meta["official_layout"]
    result = Conversion({}, {"official_layout": layout})
    for key, value in converted.weights.items():
        name = _rename(key, _TO_OFFICIAL)
        assert name is not None, key
        table = re.fullmatch(r"image_adapter\.rel_pos_table_list\.(\d+)\.weight", name)
        if table and layout == "segmentation":
            name = f"layers.{table[1]}.rel_pos_table.weight"
        elif table and layout == "classification":
            name = "image_adapter.rel_pos_table.weight"
        name = f"encoder.{name}" if name.startswith("layers.") else name
        result.rows.append((key, name, ""))
        result.weights[name] = value
    tables = [v for k, v in converted.weights.items() if ".rpb.tables." in k]
    side = rpb_side(len(tables[0]))
    index = rpb_index((side, side)).long()
    if layout == "segmentation":
        buffers = {f"encoder.layers.{i}.rp_bucket": index for i in range(len(tables))}
    else:
        positions = len(result.weights["image_adapter.pos_embed"])
        buffers = {
            "image_adapter.rp_bucket": index,
            "image_adapter.position_idx": torch.arange(positions),
        }
    result.rows += [("(computed)", name, "") for name in buffers]
    result.weights.update(buffers)
    return result


def write(path: str | Path, converted: Conversion) -> None:
    """Write weights: `.safetensors`, `.pth` or `.pt` (torch file), `.pkl` (official pickle).

    The file appears whole or not at all.

    Raises:
        CheckpointError: for another suffix.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    weights = {key: value.contiguous() for key, value in converted.weights.items()}
    own = converted.meta.get("format") == "mmonepeace"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            seen: set[int] = set()  # the format refuses tensors that share memory
            for name, value in weights.items():
                pointer = value.untyped_storage().data_ptr()
                if pointer in seen:
                    weights[name] = value.clone()
                seen.add(pointer)
            save_file(weights, temporary, metadata=converted.meta)
        elif path.suffix in (".pth", ".pt"):
            key = (
                "state_dict"
                if own or converted.meta["official_layout"] == "segmentation"
                else "model"
            )
            torch.save({key: weights, "meta": converted.meta}, temporary)
        elif path.suffix == ".pkl" and not own:
            with temporary.open("wb") as file:
                pickle.dump(
                    {"model": weights, "__author__": "ofa", "matching_heuristics": True}, file
                )
        else:
            raise CheckpointError(
                f"{path}: cannot write {path.suffix or 'a file without suffix'}. Use .safetensors "
                "or .pth (also .pkl for --to official-vision)."
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_own(path: str | Path) -> Conversion:
    """Read a checkpoint of any layout under our names.

    Raises:
        CheckpointError: naming the file, see `read` and `to_own`.
    """
    weights, meta = read(path)
    with _naming(path):
        return to_own(weights, meta)


def convert_file(
    source: str | Path, out: str | Path | None, target: Literal["vision", "official-vision"]
) -> Conversion:
    """Convert a checkpoint file.

    Args:
        source: any file that `read` takes.
        out: file to write, see `write`; None converts without writing.
        target: "vision", our layout, or "official-vision", the layout of the official code.

    Returns:
        the conversion, for its table of keys.

    Raises:
        CheckpointError: if the source cannot be used or the target not be written.
    """
    converted = read_own(source)
    with _naming(source):
        converted = select_vision(converted)
    if target == "official-vision":
        converted = to_official_vision(converted)
    if out is not None:
        write(out, converted)
    return converted


# ------------------------------------------------------------------------------ fitting to a model


@dataclass
class LoadReport:
    """What loading did, for one table.

    Attributes:
        missing: parameters of the model that the file lacks.
        unused: keys of the file that the model lacks.
        changed: key -> what was done to it (resampled, copied).
    """

    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [
            *(("missing", key, "in the model, not in the file") for key in self.missing),
            *(("unused", key, "in the file, not in the model") for key in self.unused),
            *(("reshaped", key, what) for key, what in self.changed.items()),
        ]
        if not rows:
            return "every weight was loaded as it is."
        return key_table(("", "key", "note"), rows)


def key_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Text table of keys; rows that differ only in numbers become one, with their count."""
    from prettytable import PrettyTable

    counts = Counter(tuple(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", str(c)) for c in r) for r in rows)
    table = PrettyTable([*header, "tensors"])
    table.align = "l"
    for row, count in counts.items():
        table.add_row([*row, count])
    return table.get_string()


def fit_state_dict(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[StateDict, LoadReport]:
    """Adapt own-named weights to a model: decouple the RPB, resample tables and positions.

    Args:
        weights: own names, as `to_own` gives them.
        target: the model's state dict; only names and shapes are read.

    Returns:
        the weights under the model's names, and a report.

    Raises:
        CheckpointError: if a shape differs in a way that no resampling mends.
    """
    report = LoadReport()
    fitted = dict(weights)
    for name in target:
        # One table per block wanted, one shared table stored: copy it.
        match = re.fullmatch(r"(adapters\.\w+\.rpb\.tables\.)(\d+)", name)
        if match and name not in weights and f"{match[1]}1" not in weights:
            source = f"{match[1]}0"
            if source in weights:
                fitted[name] = weights[source].clone()
                report.changed[name] = "shared table copied to each block"
    if "adapters.image.rpb.tables.1" in weights and "adapters.image.rpb.tables.1" not in target:
        raise CheckpointError(
            "the file has one relative position table per block, the model one for all blocks. "
            "Build the model with rpb='per_block'."
        )
    for name, wanted in target.items():
        value = fitted.get(name)
        if value is None:
            report.missing.append(name)
            continue
        if value.shape == wanted.shape:
            continue
        old = tuple(value.shape)
        if name.endswith("image.pos_embed") and value.shape[1:] == wanted.shape[1:]:
            side = square_side(len(wanted) - 1, "the position table of the model")
            fitted[name] = resample_pos_embed(value, (side, side))
        elif ".image.rpb.tables." in name and value.shape[1:] == wanted.shape[1:]:
            side = rpb_side(len(wanted))
            exact = resample_rpb(value.double(), rpb_side(len(value)), (side, side))
            fitted[name] = exact.to(value.dtype)
        else:
            raise CheckpointError(
                f"{name}: the file has shape {old}, the model {tuple(wanted.shape)}. Build the "
                "model with the arch of the checkpoint."
            )
        note = f"resampled {old[0]} -> {len(wanted)} rows"
        report.changed[name] = ", ".join(filter(None, [report.changed.get(name), note]))
    report.unused = [name for name in fitted if name not in target]
    for name in report.unused:
        del fitted[name]
    return fitted, report


def load_model(model: torch.nn.Module, path: str | Path) -> LoadReport:
    """Load a whole model, such as a segmentor, strictly; its backbone may resample.

    Args:
        model: built from the config the checkpoint was trained with.
        path: see `read`.

    Returns:
        what was unused.

    Raises:
        CheckpointError: if the file cannot be used, lacks a parameter, or has another shape.
    """
    weights, _ = read(path)
    target = model.state_dict()
    resampled = re.compile(r"(^|\.)adapters\.\w+\.(rpb\.tables\.\d+|pos_embed)$")
    report = LoadReport(
        missing=[k for k in target if k not in weights and not resampled.search(k)],
        unused=[k for k in weights if k not in target],
        changed={
            key: f"{tuple(value.shape)} in the file, {tuple(target[key].shape)} in the model"
            for key, value in weights.items()
            if key in target and value.shape != target[key].shape and not resampled.search(key)
        },
    )
    if report.missing or report.changed:
        raise CheckpointError(
            f"{path} does not fit the model of the config:\n{report}\nUse the config it was "
            "trained with (the work directory keeps a copy), with the same number of classes."
        )
    model.load_state_dict(weights, strict=False)
    return report
