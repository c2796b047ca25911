"""Seeded damage to the bytes of a file: what disks, networks and killed programs do to it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Rng = np.random.Generator
Case = TypeVar("Case")


def draw(cases: Sequence[Case], seed: int, scale: float) -> list[Case]:
    """A fraction of some cases, at least one, in their order; all of them from a scale of 1 on."""
    count = min(max(1, round(scale * len(cases))), len(cases))
    chosen = np.random.default_rng(seed).choice(len(cases), count, replace=False)
    return [cases[i] for i in sorted(chosen)]


def _place(rng: Rng, data: bytes) -> int:
    """A position; every other one is near an end, where the headers and indices are."""
    if rng.random() < 0.5:
        return int(rng.integers(len(data)))
    near = int(rng.integers(min(len(data), 512)))
    return near if rng.random() < 0.5 else len(data) - 1 - near


def flip_bit(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def cut(rng: Rng, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def zero(rng: Rng, data: bytes) -> bytes:
    at, size = _place(rng, data), int(rng.integers(1, 4096))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def fill(rng: Rng, data: bytes) -> bytes:
    at, size = _place(rng, data), int(rng.choice([1, 2, 4, 8]))
    return data[:at] + b"\xff" * len(data[at : at + size]) + data[at + size :]


def scramble(rng: Rng, data: bytes) -> bytes:
    at, size = _place(rng, data), int(rng.integers(1, 64))
    return data[:at] + rng.bytes(len(data[at : at + size])) + data[at + size :]


def insert(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]


def delete(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def repeat(rng: Rng, data: bytes) -> bytes:
    at, size = _place(rng, data), int(rng.integers(1, 2048))
    return data[: at + size] + data[at:]


def change_letter(rng: Rng, data: bytes) -> bytes:
    """In a word, such as the name of a parameter."""
    letters = [i for i, byte in enumerate(data[: 1 << 20]) if 97 <= byte <= 122]
    if not letters:
        return flip_bit(rng, data)
    at = int(rng.choice(letters))
    return data[:at] + bytes([97 + (data[at] - 96) % 26]) + data[at + 1 :]


MUTATIONS: tuple[Callable[[Rng, bytes], bytes], ...] = (
    flip_bit, cut, zero, fill, scramble, insert, delete, repeat, change_letter,
)  # fmt: skip


def mutate(seed: tuple[int, ...], data: bytes) -> tuple[str, bytes]:
    """(name of the damage, damaged bytes), which differ from `data`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        damaged = mutation(rng, data)
        if damaged != data:
            return mutation.__name__, damaged
