"""Mutated images, audio files, tables and shards, as one file among many good ones."""

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from mmengine.registry import init_default_scope
from PIL import Image

from benchmarks.faults.material import make_model, make_pairs, make_shard
from benchmarks.faults.mutations import mutate
from benchmarks.faults.processes import in_batches, judge, run
from benchmarks.faults.report import Result
from mmonepeace.apis import Embedder, build_index, find_files
from mmonepeace.datasets import PairDataset, ShardDataset
from mmonepeace.datasets.broken_samples import TooManyBrokenError

_GOOD = 3  # files beside a mutated one


class Case(NamedTuple):
    """A kind of file in a folder of its own, mutated by a seed."""

    kind: str
    folder: Path
    model: Path
    seed: tuple[int, ...]


def _image(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (48, 56, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
    return buffer.getvalue()


def _audio(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * rng.standard_normal((9000, 2)), 22_050, format=kind)
    return buffer.getvalue()


IMAGES = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
AUDIO = ("WAV", "FLAC", "OGG", "MP3", "AIFF")
TABLES = ("TSV", "JSONL")
KINDS = (*IMAGES, *AUDIO, *TABLES, "TAR")
SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif"}


def make_file(kind: str, folder: Path) -> bytes:
    """A healthy file of a kind; tables and shards name the files of `folder`."""
    if kind in IMAGES:
        return _image(kind)
    if kind in AUDIO:
        return _audio(kind)
    if kind == "TAR":
        return make_shard(folder / "healthy.tar", folder).read_bytes()
    rows = [{"image": f"{i}.png", "caption": f"square number {i}"} for i in range(8)]
    if kind == "JSONL":
        return "\n".join(map(json.dumps, rows)).encode()
    return "\n".join(["image\tcaption", *("\t".join(row.values()) for row in rows)]).encode()


def _embed(case: Case, path: Path) -> Iterator[Result]:
    """The index has the file, or it is named."""
    modality = "image" if case.kind in IMAGES else "audio"
    embedder = Embedder.from_checkpoint(case.model, device="cpu")
    unread: dict[str, str] = {}
    files = find_files(path.parent, modality, unread)
    built = build_index(embedder, path.parent / "out.safetensors", {modality: files})
    failed = unread | built.failed
    if len(built.index.items) + len(failed) != _GOOD + 1:
        yield _result(case, "embed", "lost in silence", False, str(failed))
    elif not failed:
        yield _result(case, "embed", "read", bool(np.isfinite(built.index.embeddings).all()))
    else:
        named = all(path.name in f"{k} {v}" for k, v in failed.items()) and len(failed) == 1
        yield _result(case, "embed", "named" if named else "not named", named, str(failed))


def _pairs(case: Case, table: Path, modality: str) -> Iterator[Result]:
    """A data set reads the sample, or replaces and counts it."""
    steps = {
        "image": [dict(type="mmonepeace.LoadImage", size=32)],
        "audio": [dict(type="mmonepeace.LoadAudio")],
    }[modality]
    columns = {modality: modality}
    data = PairDataset(str(table), columns, pipeline=steps, max_broken=0.9)
    for i in range(len(data)):
        data[i]
    broken = len(data.broken.kinds)
    outcome = "replaced" if broken else "read"
    yield _result(case, "pretrain", outcome, True)


def _result(case: Case, reader: str, outcome: str, held: bool, detail: str = "") -> Result:
    return Result(f"mutated {case.kind} by {reader}", str(case.seed), outcome, held, detail)


def _media(case: Case, data: bytes) -> Iterator[Result]:
    suffix = SUFFIX.get(case.kind, f".{case.kind.lower()}")
    modality = "image" if case.kind in IMAGES else "audio"
    folder = case.folder / "_".join(map(str, case.seed))
    folder.mkdir(parents=True)
    path = folder / f"mutated{suffix}"
    path.write_bytes(data)
    healthy = make_file(case.kind, folder)
    for i in range(_GOOD):
        (folder / f"good{i}{suffix}").write_bytes(healthy)
    table = folder / "table.tsv"
    rows = [modality, *(p.name for p in sorted(folder.glob(f"*{suffix}")))]
    table.write_text("\n".join(f"{row}\t{i}" for i, row in enumerate(rows)))
    yield from _embed(case, path)
    yield from _pairs(case, table, modality)


def _table(case: Case, data: bytes) -> Iterator[Result]:
    path = case.folder / f"{'_'.join(map(str, case.seed))}.{case.kind.lower()}"
    path.write_bytes(data)
    try:
        PairDataset(str(path), dict(image="image", text="caption"), pipeline=[]).full_init()
    except ValueError as error:
        named = path.name in str(error)
        yield _result(case, "pretrain", "refused" if named else "not named", named, str(error))
    else:
        yield _result(case, "pretrain", "read", True)


def _shard(case: Case, data: bytes) -> Iterator[Result]:
    path = case.folder / f"{'_'.join(map(str, case.seed))}.tar"
    path.write_bytes(data)
    try:
        stream = ShardDataset(str(path), ("image", "text"), batch_size=1, streams=1, max_broken=0.9)
        samples = iter(stream)
        for _ in range(2 * stream.total):
            next(samples)
    except (ValueError, TooManyBrokenError) as error:
        named = path.name in str(error)
        yield _result(case, "pretrain", "refused" if named else "not named", named, str(error))
    else:
        yield _result(case, "pretrain", "read", True)


def _try(case: Case) -> list[Result]:
    init_default_scope("mmengine")
    case.folder.mkdir(parents=True, exist_ok=True)
    healthy = make_file(case.kind, case.model.parent.parent / "pairs")
    _, data = mutate(case.seed, healthy)
    attempt: Callable[[Case, bytes], Iterator[Result]] = _media
    if case.kind in TABLES:
        attempt = _table
    elif case.kind == "TAR":
        attempt = _shard
    results: list[Result] = []
    try:
        results.extend(attempt(case, data))
    except Exception as error:  # noqa: BLE001  (whatever leaks is what is looked for)
        outcome = f"traceback {type(error).__name__}"
        results.append(_result(case, "any", outcome, False, repr(error)[:300]))
    return results


def try_inputs(root: Path, seed: int, count: int) -> Iterator[Result]:
    """Mutate files of every kind: each is read or named, and no run ends."""
    model = make_model(root / "model")
    pairs = make_pairs(root / "pairs")
    cases = [
        Case(kind, root / "mutated" / kind, model, (seed, n, i))
        for n, kind in enumerate(KINDS)
        for i in range(max(1, count * 3 // len(KINDS)))
    ]
    yield from in_batches(_try, cases)
    yield from _tools(root, pairs, model, seed)


def _tools(root: Path, pairs: Path, model: Path, seed: int) -> Iterator[Result]:
    """Folders of good and mutated files through the tools themselves."""
    for modality, kinds in {"images": IMAGES, "audios": AUDIO}.items():
        folder = root / modality
        folder.mkdir()
        for i, kind in enumerate(kinds * 4):
            healthy = make_file(kind, pairs)
            content = healthy if i % 2 else mutate((seed, 99, i), healthy)[1]
            (folder / f"{i}{SUFFIX.get(kind, '.' + kind.lower())}").write_bytes(content)
        (folder / os.fsdecode(b"name\xff.png")).write_bytes(_image("PNG"))
        (folder / ("long" * 60 + ".png")).write_bytes(_image("PNG"))
        out = root / f"{modality}.safetensors"
        for name, arguments in {
            "embed": ["embed.py", model, f"--{modality}", folder, "--out", out],
            "zero_shot": ["zero_shot.py", model, f"--{modality}", folder, "--classes", "a,b"],
        }.items():
            done = run(*arguments)
            outcome, held = judge(done, (0, 1))
            yield Result(f"mutated {modality} by {name}.py", "folder", outcome, held, done.stderr)


def example(kind: str) -> Any:
    """A healthy file of a kind that needs no others."""
    return make_file(kind, Path())
