"""Errors of building and running a config, as one line: the key that is wrong, and what to do."""

import inspect
import linecache
import logging
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import build_from_cfg

from mmonepeace.checks.config import type_name, walk_paths
from mmonepeace.checks.error_location import locate, node_at
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.signatures import signature_of, similar_types
from mmonepeace.datasets.broken_samples import TooManyBrokenError
from mmonepeace.datasets.sample_errors import SampleError
from mmonepeace.exit_status import is_users

# What constructors raise; the words of other errors are not those of settings.
_ABOUT_SETTINGS = (ValueError, TypeError, KeyError, AssertionError)
_MOST = 400  # characters of the message of an error
# Pattern in a message: what to do; {fields} are the groups of the pattern and `batch_size`.
_WIDTH = (
    "It is built for inputs of {built} channels and gets {got}: set its in_channels, or the width of "
    "the part before it."
)
_ADVICE = {
    r"Expected more than 1 value per channel": (
        "BatchNorm trains on more than one value per channel. Set train_dataloader.batch_size, which "
        "is {batch_size}, to 2 or more, or norm_cfg=dict(type='GN', num_groups=8)."
    ),
    r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<built>\d+)x": _WIDTH,
    r"to have (?P<built>\d+) channels, but got (?P<got>\d+)": _WIDTH,
    r"normalized_shape=\[(?P<built>\d+)\].*size\[.*?(?P<got>\d+)\]": _WIDTH,
    r"weight tensor should be defined": (
        "class_weight takes one value for each output of the head."
    ),
    r"Target (?P<label>-?\d+) is out of bounds": (
        "The label {label} is none of its classes: correct num_classes, or the labels."
    ),
    r"out of memory": (
        "Lower train_dataloader.batch_size, which is {batch_size}, or set model.backbone.with_cp=True "
        "or --dtype bf16."
    ),
    r"does not require grad": (
        "Nothing is trained: let frozen_stages or requires_grad leave some parameters free."
    ),
    r"(list|tuple) index out of range": (
        "It takes more inputs than it gets, or has a list that is too short: a model's in_index and "
        "strides fit the out_indices of its backbone."
    ),
    r"([Ss]izes of tensors|size of tensor|equal size|shape mismatch|could not be broadcast)": (
        "Sizes differ that have to be equal: compare those of the pipeline, of "
        "model.data_preprocessor and of the maps that it gets."
    ),
    r"values to unpack \(expected (?P<expected>\d+)": "Give it {expected} values.",
    r"only available training on gpu": "Leave it out, or train with --dtype bf16.",
}


@contextmanager
def explain(cfg: Config, log: bool = True) -> Iterator[None]:
    """Turn what building or running a config raises into one line that names the key.

    The line also says where the traceback is, if nobody foresaw the error.

    Args:
        cfg: the config, with all changes of the command line.
        log: write the traceback to the log of the run if there is one; else to a file of its own.

    Raises:
        CheckError: in place of any other error, except for those that are in plain words already.
    """
    try:
        yield
    except Exception as error:
        cause = error.__context__ if isinstance(error, TooManyBrokenError) else None
        if isinstance(cause, Exception) and not isinstance(cause, SampleError):
            # Every sample fails, for a reason that is not in the files.
            raise CheckError(describe(cfg, cause, locate(cfg, error))) from error
        if is_users(error):
            raise
        line = describe(cfg, error)
        if not _is_foreseen(error):
            line = f"{line} (traceback: {_write_traceback(error, log)})"
        raise CheckError(line) from error


def describe(cfg: Config, error: Exception, path: str | None = None) -> str:
    """One line about an error: the key of the config where it happened, and what to do.

    Args:
        cfg: the config.
        error: what was raised.
        path: where in the config, if that is known.
    """
    if isinstance(error, StopIteration):
        return (
            f"train_dataloader.batch_size is {_batch_size(cfg)}, and no batch is full: with drop_last the "
            "data set needs as many samples. Lower it."
        )
    path, message = path or locate(cfg, error), _in_one_line(error)
    node: Any = node_at(cfg, path)
    if unknown := re.search(r"(\S+) is not in the (\S+) registry", message):
        near = similar_types(unknown[1])
        guess = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Correct it."
        return f"{_join(path, 'type')} is {unknown[1]!r}, and there is no such type. {guess}"
    if unexpected := re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected .* '(\w+)'", message):
        owner, name = unexpected.groups()
        names = _arguments_of(owner, error) or set(signature_of(node, path).arguments)
        near = get_close_matches(name, sorted(names), 3, 0.5)
        guess = (
            f"Did you mean {' or '.join(near)}?"
            if near
            else f"It takes {', '.join(sorted(names)) or 'none'}."
        )
        inside = (where for where, part in walk_paths(node, path) if name in part)
        return f"{_join(next(inside, path), name)}: {owner} has no argument {name!r}. {guess}"
    if missing := re.search(r"missing \d+ required .*argument.*?: (.*)", message):
        names = re.findall(r"'(\w+)'", missing[1])
        return f"{_join(path, names[0])} is missing; {_name_of(node)} needs {' and '.join(names)}."
    if isinstance(error, KeyError) and re.fullmatch(r"'\S+'", message):
        return _about_key(path, node, error)
    advice = _advice(cfg, message)
    where, value = None, None
    if isinstance(error, _ABOUT_SETTINGS):
        where, value = _find_setting(path, node, message)
        if where is None:
            where, value = _find_type_of(path, node, message)
    else:
        message = f"{type(error).__name__}: {message}"
    advice = advice or _numbers_of(cfg, path, message, value)
    if where is None:
        return " ".join([f"{path or 'the config'}: {message.rstrip('. ')}.", advice]).rstrip()
    for depth in range(where.count(".") + 1):  # messages begin with the key, or its last names
        if message.startswith(f"{where.split('.', depth)[-1]} "):
            message = message.removeprefix(where.split(".", depth)[-1])
            return f"{where}{message.rstrip('. ')}. {advice}".rstrip()
    shown = f"{value!r}"
    known = isinstance(value, Mapping) or len(shown) > 80
    return f"{where}{'' if known else f' is {shown}'}: {message.rstrip('. ')}. {advice}".rstrip()


def _batch_size(cfg: Config) -> Any:
    return (cfg.get("train_dataloader") or {}).get("batch_size")


def _advice(cfg: Config, message: str) -> str:
    """What to do about a message of torch or of Python."""
    for pattern, advice in _ADVICE.items():
        if found := re.search(pattern, message, re.DOTALL):
            return advice.format(batch_size=_batch_size(cfg), **found.groupdict())
    return ""


def _about_key(path: str, node: Any, error: KeyError) -> str:
    """One line about a key that was looked up in vain."""
    name = error.args[0]
    if key := next((key for key, value in (node or {}).items() if value == name), None):
        return f"{_join(path, key)} is {name!r}, and there is no such item."
    if _is_building(error):
        return f"{_join(path, name)} is missing; {_name_of(node)} needs it."
    return (
        f"{path or 'the config'}: what it is given has no {name!r}. Look at "
        "train_dataloader.dataset.pipeline, which makes what a model gets, and at the data."
    )


def _name_of(node: Any) -> str:
    return type_name(node) if isinstance(node, Mapping) and "type" in node else "it"


def _find_setting(path: str, node: Any, message: str) -> tuple[str | None, Any]:
    """(path, value) of the setting that a message is about: it has the name of its key, or its value.

    The dict with the most keys and values of the message counts, the outermost of equal ones.
    """
    best: tuple[int, str | None, Any] = (0, None, None)
    for where, part in walk_paths(node, path):
        named: list[tuple[int, str]] = []  # (position in the message, key)
        score = 0
        for key, value in part.items():
            if key == "type":
                continue
            place = re.search(rf"(?<![\w]){re.escape(str(key))}(?![\w])", message)
            place = place if len(str(key)) > 2 else None
            text = str(value)
            told = not isinstance(value, (Mapping, bool)) and re.search(
                rf"(?<![\w.]){re.escape(text)}(?!\w|\.\d)", message
            )
            is_text = isinstance(value, (str, list, tuple)) and len(text) > 2
            if place:  # words of two parts are no accident, paths even less
                is_path = where.rpartition(".")[2] + f".{key}" in message
                score += 1 + ("_" in str(key)) + 2 * bool(told) + 3 * is_path
            elif told and is_text:
                score += 1
            if place or (told and is_text):
                named.append(((place or told).start(), key))  # type: ignore[union-attr]
        if score > best[0]:
            first = min(named)[1]
            best = score, _join(where, first), part[first]
    return best[1:]


def _find_type_of(path: str, node: Any, message: str) -> tuple[str | None, Any]:
    """(path, value) of the one setting of the type that a message of Python complains of."""
    told = re.search(r"'(\w+)' object|of type '(\w+)'|not '?(\w+)'?$", message)
    if not told or not isinstance(node, Mapping):
        return None, None
    name = next(filter(None, told.groups()))
    of_type = [k for k, v in node.items() if k != "type" and type(v).__name__ == name]
    return (_join(path, of_type[0]), node[of_type[0]]) if len(of_type) == 1 else (None, None)


def _numbers_of(cfg: Config, path: str, message: str, known: Any) -> str:
    """The settings around a part whose values are numbers that a message has, but for `known`."""
    listed = known if isinstance(known, (list, tuple)) else [known]
    numbers = set(re.findall(r"(?<![\w.])\d{2,}(?!\w|\.\d)", message))
    numbers -= set(map(str, listed))
    names = path.split(".")
    found = []
    for depth in range(len(names), 0, -1):
        above = ".".join(names[:depth])
        node = node_at(cfg, above)
        for key, value in node.items() if isinstance(node, Mapping) else ():
            listed = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(v, int) and str(v) in numbers for v in listed):
                found.append(f"{above}.{key} is {value}")
    return f"Of its settings, {' and '.join(found[:2])}." if found else ""


def _is_building(error: BaseException) -> bool:
    """Whether a constructor raised an error, or what calls it."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return last.f_code.co_name in ("__init__", build_from_cfg.__name__)


def _arguments_of(name: str, error: BaseException) -> set[str]:
    """Arguments of the function or class that could not be called, if the caller's variables have it."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    for value in (*last.f_locals.values(), *last.f_globals.values()):
        if callable(value) and getattr(value, "__name__", "") == name:
            with suppress(TypeError, ValueError):
                return set(inspect.signature(value).parameters) - {"self", "kwargs", "args"}
    return set()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in_one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, AssertionError) and not text:
        text = f"not true: {_assertion(error)}"
    if "Original Traceback" in text:  # of a worker: the last line is the error
        text = text.strip().splitlines()[-1]
    text = " ".join(text.split()) or type(error).__name__
    if isinstance(error, KeyError) and " " not in text:
        text = repr(text)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def _assertion(error: BaseException) -> str:
    """The source of the assertion that failed."""
    last: Any = traceback.extract_tb(error.__traceback__)[-1]
    lines = range(last.lineno, last.end_lineno + 1)
    source = " ".join(linecache.getline(last.filename, number).strip() for number in lines)
    return source.removeprefix("assert ")


def _is_foreseen(error: BaseException) -> bool:
    """Whether an error is about a setting: of our own code, or of a constructor."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    ours = f"{last.f_globals.get('__name__')}".startswith("mmonepeace.")
    return isinstance(error, _ABOUT_SETTINGS) and (ours or _is_building(error))


def _write_traceback(error: Exception, log: bool) -> str:
    """Where the traceback is: in the log of the run, or in a new file."""
    text = "".join(traceback.format_exception(error))
    for handler in MMLogger.get_current_instance().handlers if log else ():
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.makeLogRecord({"msg": text, "levelno": 40, "levelname": "ERROR"}))
            return handler.baseFilename
    with tempfile.NamedTemporaryFile(
        "w", prefix="mmonepeace_", suffix=".txt", delete=False
    ) as file:
        file.write(text)
    return file.name
