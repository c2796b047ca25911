import json
import resource
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError, Conversion
from tests.checkpoint import official
from tests.checkpoint.conftest import TOOL
from tests.checkpoint.official import assert_same, vision_of_full
from tests.processes import run_tool

OWN = {"format": "mmonepeace", "official_layout": "full"}


@pytest.fixture
def converted() -> Conversion:
    return checkpoint.to_own(official.full())


def test_unknown_suffix_is_refused(model, tmp_path, run_tool):
    path = tmp_path / "full.pt"
    torch.save({"model": vision_of_full(model)}, path)
    done = run_tool(path, tmp_path / "out.bin", "--to", "vision")
    assert done.returncode == 2
    assert ".safetensors" in done.stderr


@pytest.mark.parametrize("out", ["a.pth", "a.pkl"])
def test_only_safetensors_have_shards(converted, tmp_path, out):
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        checkpoint.write(tmp_path / out, converted, shard_size=10**6)


def test_the_library_reads_what_we_write(tmp_path):
    weights = {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "odd": torch.arange(3, dtype=torch.uint8),
        "é": torch.tensor([True, False]),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (
                torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
                torch.int16, torch.int8,
            )
        },
    }  # fmt: skip
    weights["tied"] = weights["transposed"]
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, Conversion(weights, OWN))
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        assert meta.pop("checksums")
        assert meta == OWN
        assert_same({key: file.get_tensor(key) for key in file.keys()}, weights)  # noqa: SIM118
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    with pytest.raises(CheckpointError, match="complex64"):
        checkpoint.write(path, Conversion({"a": torch.zeros(1, dtype=torch.complex64)}, OWN))
    assert_same(checkpoint.read(path)[0], weights)


def test_shards_have_the_tensors_of_the_single_file(converted, tmp_path):
    limit = 60_000
    checkpoint.write(tmp_path / "one.safetensors", converted, shard_size=10**9)
    checkpoint.write(tmp_path / "many.safetensors", converted, shard_size=limit)
    assert (tmp_path / "one.safetensors").is_file()
    assert not (tmp_path / "many.safetensors").exists()
    single, meta = checkpoint.read(tmp_path / "one.safetensors")
    assert_same(checkpoint.read(tmp_path / "many.safetensors")[0], single)
    assert checkpoint.read(tmp_path / "many.safetensors")[1] == meta == converted.meta
    index = json.loads((tmp_path / "many.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in single.values())
    names = sorted(p.name for p in tmp_path.glob("many-*.safetensors"))
    assert names == [
        f"many-{i:05}-of-{len(names):05}.safetensors" for i in range(1, len(names) + 1)
    ]
    assert sorted(set(index["weight_map"].values())) == names
    for name in names:
        with safe_open(tmp_path / name, "pt") as file:
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= limit or len(sizes) == 1


def test_an_old_single_file_does_not_hide_new_shards(converted, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, Conversion({"old": torch.zeros(1)}, OWN))
    checkpoint.write(path, converted, shard_size=60_000)
    assert_same(checkpoint.read(path)[0], converted.weights)
    checkpoint.convert_file(path, path, "full")  # over itself, now a single file
    assert_same(checkpoint.read(path)[0], converted.weights)
    assert path.is_file()


def test_torch_files_do_not_store_the_rest_of_a_larger_storage(tmp_path):
    flat = torch.randn(10**6)
    checkpoint.write(tmp_path / "a.pth", Conversion({"a": flat[:10]}, OWN))
    assert (tmp_path / "a.pth").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_what_was_there(converted, tmp_path, name, failure):
    shard_size = 60_000 if name == "a.safetensors" else None
    before = Conversion({"before": torch.ones(2)}, OWN)
    checkpoint.write(tmp_path / name, before)

    def progress(done: int, total: int) -> None:
        if done > total / 2:
            raise failure

    expected = KeyboardInterrupt if failure is KeyboardInterrupt else CheckpointError
    with pytest.raises(expected):
        checkpoint.write(tmp_path / name, converted, shard_size, progress)
    assert list(tmp_path.iterdir()) == [tmp_path / name]
    assert_same(checkpoint.read(tmp_path / name)[0], before.weights)


def test_shards_that_cannot_be_renamed_are_removed(converted, tmp_path, monkeypatch):
    replace = Path.replace

    def fail_at_the_index(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_index)
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.write(tmp_path / "a.safetensors", converted, shard_size=60_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
def test_a_full_disk_is_one_line_and_no_file(tmp_path, name):
    path = tmp_path / "full.pt"
    torch.save({"model": official.full()}, path)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = run_tool(TOOL, path, tmp_path / name, "--to", "full", prepare=limit, check=False)
    assert done.returncode == 2
    assert f"{name}: cannot be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_progress_ends_at_the_size_of_all_tensors(converted, tmp_path, name):
    calls = []
    checkpoint.write(tmp_path / name, converted, progress=lambda *c: calls.append(c))
    total = sum(value.nbytes for value in converted.weights.values())
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) > 10


def test_conversion_makes_no_copy_of_the_weights(tmp_path, monkeypatch):
    """Read tensors are mapped, and written from the map."""
    torch.save({"model": official.full()}, tmp_path / "full.pt")

    def refuse(*_args, **_kwargs):
        raise AssertionError("a copy was made")

    monkeypatch.setattr(torch.Tensor, "clone", refuse)
    checkpoint.convert_file(tmp_path / "full.pt", tmp_path / "own.safetensors", "full")
    checkpoint.convert_file(tmp_path / "own.safetensors", tmp_path / "back.pt", "official-full")
