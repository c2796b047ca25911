import json
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from tests.checkpoint.official import assert_same, vision_of_full


def test_legacy_torch_files_are_read(model, tmp_path):
    path = tmp_path / "legacy.pth"
    content = {"model": model.state_dict(), "args": Namespace(a=1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert_same(checkpoint.read(path)[0], dict(model.state_dict()))


class Bomb:
    """Creates a file when unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class Shell:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


class Nested:
    """Hides a bomb in the bytes that a raw pickle hands to torch."""

    def __init__(self, inner: bytes) -> None:
        self.inner = inner

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.inner,)


@pytest.mark.parametrize("container", ["pkl", "zip", "legacy", "nested"])
def test_hostile_files_run_nothing_and_write_nothing(model, tmp_path, run_tool, container):
    marker, path, out = tmp_path / "marker", tmp_path / f"evil.{container}", tmp_path / "out.pth"
    content = {"model": dict(model.state_dict()), "extra": Shell(marker)}
    if container == "pkl":
        path.write_bytes(pickle.dumps(content))
    elif container == "nested":
        inner = tmp_path / "inner"
        torch.save(Shell(marker), inner, _use_new_zipfile_serialization=False)
        path.write_bytes(pickle.dumps({"model": Nested(inner.read_bytes())}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    done = run_tool(path, out, "--to", "vision")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not marker.exists()
    assert not out.exists()


def test_inert_classes_cannot_be_made_to_act(tmp_path):
    marker = tmp_path / "marker"
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": torch.zeros(1)}, "extra": Bomb(marker)}))
    checkpoint_error = None
    try:
        checkpoint.read(path)
    except CheckpointError as error:
        checkpoint_error = error
    assert checkpoint_error is None or "refused" in str(checkpoint_error)
    assert not marker.exists()


def test_truncated_files_are_named(model, tmp_path):
    for name, writer in (
        ("a.pth", lambda path: torch.save({"model": dict(model.state_dict())}, path)),
        ("a.pkl", lambda path: path.write_bytes(pickle.dumps({"model": dict(model.state_dict())}))),
        (
            "a.safetensors",
            lambda path: checkpoint.write(
                path, checkpoint.Conversion(dict(model.state_dict()), {"format": "mmonepeace"})
            ),
        ),
    ):
        path = tmp_path / name
        writer(path)
        data = path.read_bytes()
        for size in (0, 1, 12, len(data) // 2, len(data) - 7):
            path.write_bytes(data[:size])
            with pytest.raises(CheckpointError, match=name):
                checkpoint.read(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"conv1.weight": torch.zeros(2)}},
        {"model": {"encoder.layers.0.attn.weight": torch.zeros(2)}},
        {"epoch": 3},
        [1, 2],
        torch.zeros(3),
    ],
)
def test_files_of_other_models_are_refused(tmp_path, run_tool, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    done = run_tool(path, tmp_path / "out.pth", "--to", "vision")
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def shards(model, tmp_path) -> Path:
    """The index of a checkpoint in shards."""
    converted = checkpoint.Conversion(dict(model.state_dict()), {"format": "mmonepeace"})
    checkpoint.write(tmp_path / "a.safetensors", converted, shard_size=30_000)
    return tmp_path / "a.safetensors.index.json"


def test_shards_are_read_by_either_name(model, shards):
    for path in (shards, shards.with_suffix("").with_suffix("")):
        weights, meta = checkpoint.read(path)
        assert_same(weights, dict(model.state_dict()))
        assert meta == {"format": "mmonepeace"}


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", "x\\a.safetensors", 7, None],
)
def test_shards_cannot_be_elsewhere(shards, name):
    index = json.loads(shards.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    shards.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=shards.name):
        checkpoint.read(shards)


def test_damaged_shards_are_named(shards):
    first = next(shards.parent.glob("*-00001-of-*"))
    data = first.read_bytes()
    first.write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match=r"index\.json: "):
        checkpoint.read(shards)
    first.unlink()
    with pytest.raises(CheckpointError, match=f"{first.name} is missing"):
        checkpoint.read(shards)
    for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}', "[" * 10**5):
        shards.write_text(text)
        with pytest.raises(CheckpointError, match=r"index\.json: "):
            checkpoint.read(shards)


def test_an_index_that_names_a_tensor_the_shard_lacks_is_refused(shards):
    index = json.loads(shards.read_text())
    index["weight_map"]["no.such"] = next(iter(index["weight_map"].values()))
    shards.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="do not match their checksum"):
        checkpoint.read(shards)
    del index["metadata"]["checksums"]  # other programs write none
    shards.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no\.such is not in a-"):
        checkpoint.read(shards)


def test_the_configuration_of_fairseq_is_kept_if_it_is_plain(model, tmp_path):
    content = {"args": None, "model": vision_of_full(model)}
    for cfg, kept in (({"task": {"max": 15, "x": None}}, True), ({"a": Namespace(b=1)}, False)):
        torch.save({**content, "cfg": cfg}, tmp_path / "a.pt")
        meta = checkpoint.read(tmp_path / "a.pt")[1]
        assert meta == ({"official_cfg": json.dumps(cfg)} if kept else {})


@pytest.mark.parametrize("kind", ["safetensors", "shards", "zip", "legacy", "wrapped"])
def test_names_are_those_of_reading_without_verifying_numbers(kind, model, tmp_path):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if kind in ("safetensors", "shards"):
        path = tmp_path / "model.safetensors"
        size = 20_000 if kind == "shards" else 10**9
        checkpoint.write(path, checkpoint.Conversion(weights, {}), size)
        path = checkpoint.find(path)
    else:
        path = tmp_path / "model.pth"
        prefix = "module." if kind == "wrapped" else ""
        content = {"state_dict": {f"{prefix}{name}": value for name, value in weights.items()}}
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    assert checkpoint.names_of(path) == list(checkpoint.read(path)[0])
    if kind == "legacy":
        return  # has no checksums
    data = next(tmp_path.glob("*.safetensors"), path)
    content = bytearray(data.read_bytes())
    numbers = max(weights.values(), key=torch.numel).numpy().tobytes()
    content[content.index(numbers) if kind in ("zip", "wrapped") else -1] ^= 1
    data.write_bytes(content)
    assert set(checkpoint.names_of(path)) == set(weights)
    with pytest.raises(CheckpointError, match=r"checksum|not the numbers"):
        checkpoint.read(path)
