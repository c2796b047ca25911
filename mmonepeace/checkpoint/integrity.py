"""Is what was read what was written: checksums, kinds of tensors, finite numbers."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError
from mmonepeace.checkpoint.torch_files import crc32_of_all
from mmonepeace.checkpoint.unpickling import OtherTensor, tensors_of

CHECKSUMS = "checksums"  # key of a file's content, or of its metadata


def checksums(content: Mapping[str, Any]) -> dict[str, Any]:
    """CRC-32 of each tensor, at 2 GB/s for each processor, and a hash of everything else."""
    return {"tensors": _crcs(tensors_of(content)), "rest": hash_of_rest(content)}


def _crcs(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    crcs = crc32_of_all(tensors.values())
    return {name: f"{crc:08x}" for name, crc in zip(tensors, crcs, strict=True)}


def verify_checksums(content: Mapping[str, Any], expected: Any, prefix: str = "") -> None:
    """Compare content with the checksums that were stored with it.

    Args:
        content: what was written, without its checksums.
        expected: what `checksums` gave then.
        prefix: verify only the tensors whose full names begin with it; all else is verified too.

    Raises:
        CheckpointError: naming what differs.
    """
    advice = "the file is damaged, or was changed by other means. Use a copy, or the one before it."
    if not isinstance(expected, Mapping) or not isinstance(expected.get("tensors"), Mapping):
        raise CheckpointError(f"its checksums are unreadable: {advice}")
    if hash_of_rest(content) != expected.get("rest"):
        raise CheckpointError(f"its keys, numbers or texts do not match their checksum: {advice}")
    tensors = {k: v for k, v in tensors_of(content).items() if k.startswith(prefix)}
    stored = expected["tensors"]
    if differ := [name for name, crc in _crcs(tensors).items() if crc != stored.get(name)]:
        raise CheckpointError(f"{_names(differ)}: not the numbers that were written: {advice}")


def hash_of_rest(content: Any) -> str:
    """Hash of everything but the numbers of tensors: keys, shapes, numbers, texts."""
    digest = hashlib.sha256()
    for part in _parts(content):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}"
    elif isinstance(value, Mapping):
        yield "{"
        for key, item in sorted(value.items(), key=lambda pair: repr(pair[0])):
            yield repr(key)
            yield from _parts(item)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "[" if isinstance(value, list) else "("
        for item in value:
            yield from _parts(item)
        yield "]"
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        yield repr(value)
    else:
        yield type(value).__name__


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """A short identifier of a set of weights, independent of their order and file format."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        head = weights[name].detach().flatten()[:16].float().cpu()
        digest.update(f"{name} {tuple(weights[name].shape)}".encode())
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Refuse tensors that are not stored number by number.

    Raises:
        CheckpointError: naming the first one.
    """
    for name, value in tensors.items():
        if isinstance(value, OtherTensor):
            raise CheckpointError(
                f"{name} is {value.kind}; expected a plain one. Save it as a dense tensor."
            )
        stored = value.untyped_storage().nbytes()
        if value.nbytes > stored:
            raise CheckpointError(
                f"{name} has shape {tuple(value.shape)}, {value.nbytes:,} bytes, of which the file "
                f"holds {stored:,}: a repeated view, not a weight. Save its copy: value.clone()."
            )


def non_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite numbers.

    One pass at the speed of memory (14 GB/s): a sum can be finite only if all its terms are.
    """

    def is_finite(value: Tensor) -> bool:
        value = value.float() if value.itemsize == 1 else value  # torch sums no float8
        return bool(value.sum().isfinite() or value.isfinite().all())

    return [k for k, v in weights.items() if v.is_floating_point() and not is_finite(v)]


def refuse_non_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError that names the tensors with NaN or infinite numbers, if there are any."""
    if names := non_finite(weights):
        raise CheckpointError(
            f"{len(names)} of {len(weights)} tensors have NaN or infinite numbers: "
            f"{_names(names)}. The run that wrote it had diverged; use an earlier checkpoint."
        )


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
