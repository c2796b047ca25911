"""Damages of files: every one is refused in one line, or changes nothing that is read."""

import json
import random

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeaceRetriever
from tests.conftest import TINY, randomise


@pytest.fixture(scope="module")
def model():
    modalities = {"text": {"vocab_size": 50}, "image": {}}
    return randomise(OnePeaceRetriever(dict(arch=TINY, img_size=32, modalities=modalities)))


def write_run(model, path):
    content = {
        "meta": {"iter": 5, "cfg": "a = 1"},
        "state_dict": dict(model.state_dict()),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 0.1}]},
        "message_hub": {"log_scalars": {}, "runtime_info": {"loss": 0.5}},
    }
    checkpoint.write_run(path, content)


def write_torch(model, path):
    torch.save({"state_dict": model.state_dict()}, path)


def write_own(model, path):
    checkpoint.write(path, checkpoint.to_own(model.state_dict(), {"audio_padding": "masked"}))


def write_folder(model, path):
    path.mkdir()
    write_run(model, path / "x-0.pth")
    checkpoint.commit(path, ["x-0.pth"])


def write_shards(model, path):
    converted = checkpoint.to_own(model.state_dict())
    checkpoint.write(path, converted, shard_size=30_000)


KINDS = {
    "run.pth": write_run,
    "torch.pth": write_torch,
    "own.safetensors": write_own,
    "iter_5.pth": write_folder,
    "shards.safetensors": write_shards,
}


def embed(path):
    """What an embedder makes of a file: its weights."""
    return Embedder.from_checkpoint(path).model.state_dict()


def convert(path):
    return checkpoint.convert_file(path, None, "full").weights


def resume(path):
    checkpoint.verify_run(path)
    run = checkpoint.read_run(path)
    tensors = {**run["state_dict"], **run["optimizer"]["state"][0]}
    return tensors | {"rest": torch.tensor(hash(str((run["meta"], run["message_hub"]))))}


READERS = {"read": lambda path: checkpoint.read(path)[0], "embed": embed, "convert": convert}


def damage(content, rng):
    """Content with one of the damages that disks, networks and hands do."""
    data, at = bytearray(content), rng.randrange(len(content))
    if rng.random() < 0.5:  # the directories of archives, the headers and the pickles
        at = rng.choice([min(at, rng.randrange(3000)), max(at, len(data) - rng.randrange(1, 3000))])
    size = rng.choice([1, 8, 512])
    kind = rng.choice(["bit", "byte", "zeros", "cut", "insert", "remove"])
    if kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = rng.randrange(256)
    elif kind == "zeros":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = rng.randbytes(size)
    else:
        del data[at : at + size]
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_damages_are_refused_or_change_nothing(kind, model, tmp_path):
    path = tmp_path / kind
    KINDS[kind](model, path)
    files = sorted(path.iterdir() if path.is_dir() else tmp_path.iterdir())
    readers = READERS | ({"resume": resume} if kind in ("run.pth", "iter_5.pth") else {})
    expected = {name: reader(path) for name, reader in readers.items()}
    rng = random.Random(kind)
    messages = []
    for _ in range(40):
        file = rng.choice(files)
        content = file.read_bytes()
        file.unlink()  # those that are mapped keep their content
        file.write_bytes(damage(content, rng))
        name = rng.choice(list(readers))
        try:
            found = readers[name](path)
        except CheckpointError as error:
            messages.append(str(error))
        else:
            assert found.keys() == expected[name].keys()
            assert all(torch.equal(found[key], expected[name][key]) for key in found)
        file.unlink()
        file.write_bytes(content)
    assert len(messages) > 25
    assert all(message.startswith(str(path)) for message in messages)
    assert not any("\n" in message for message in messages)


def resave(path, change):
    """Read a file of torch, change it, write it again: its archive has the right checksums."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def set_one(content, key, value):
    content["state_dict"][key].view(-1)[3] = value


LAYER = "backbone.layers.0.norm1.weight"
CHANGES = {
    "a number": (lambda c: set_one(c, LAYER, 0.7), f"state_dict.{LAYER}: not the numbers"),
    "a tensor": (lambda c: c["state_dict"].pop(LAYER), "its keys, numbers or texts do not match"),
    "a key": (
        lambda c: c["state_dict"].update(x=c["state_dict"].pop(LAYER)),
        "its keys, numbers or texts do not match",
    ),
    "a step": (lambda c: c["meta"].update(iter=6), "its keys, numbers or texts do not match"),
    "the optimiser": (
        lambda c: c["optimizer"]["state"][0]["exp_avg"].fill_(2),
        r"optimizer\.state\.0\.exp_avg: not the numbers",
    ),
    "the checksums": (lambda c: c.update(checksums=5), "its checksums are unreadable"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_by_other_means_is_noticed(what, model, tmp_path):
    change, says = CHANGES[what]
    path = tmp_path / "run.pth"
    write_run(model, path)
    resave(path, change)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.verify_run(path)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.read_run(path)
    if what == "the optimiser":  # of which the weights do not depend
        assert LAYER in checkpoint.read(path)[0]
    else:
        with pytest.raises(CheckpointError, match=says):
            checkpoint.read(path)


def test_files_without_checksums_are_read(model, tmp_path):
    path = tmp_path / "run.pth"
    write_run(model, path)
    resave(path, lambda content: content.pop("checksums"))
    checkpoint.verify_run(path)
    assert LAYER in checkpoint.read(path)[0]


def test_checksums_of_safetensors_survive_no_change(tmp_path):
    weights = {"a": torch.arange(3.0), "empty": torch.zeros(0, 2), "b": torch.tensor([True])}
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace"}))
    assert checkpoint.read(path)[0].keys() == weights.keys()
    data = path.read_bytes()
    for old, new in (
        (b"mmonepeace", b"mmonepeacf"), (b'"empty"', b'"emptz"'), (b"checksums", b"checksumt"),
        (torch.arange(3.0).numpy().tobytes(), torch.arange(1, 4.0).numpy().tobytes()),
    ):  # fmt: skip
        path.unlink()
        path.write_bytes(data.replace(old, new))
        with pytest.raises(CheckpointError, match=str(path)):
            checkpoint.read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["metadata"].update(format="x"),
        lambda index: index["metadata"].update(checksumt=index["metadata"].pop("checksums")),
        lambda index: index.update(metadate=index.pop("metadata")),
    ],
)
def test_a_changed_index_is_noticed(change, model, tmp_path):
    write_shards(model, tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors.index.json"
    index = json.loads(path.read_bytes())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_not_finite_are_found(value, dtype):
    weights = {f"w{i}": torch.ones(1000, dtype=dtype) for i in range(5)}
    assert checkpoint.non_finite(weights) == []
    weights["large"] = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    weights["count"] = torch.tensor(3)
    assert checkpoint.non_finite(weights) == []
    for name in ("w1", "w2", "w3", "w4"):
        weights[name][-1] = value
    with pytest.raises(CheckpointError, match=r"4 of 7 .*: w1, w2, w3 and 1 more\..*earlier check"):
        checkpoint.refuse_non_finite(weights)


def test_weights_that_are_not_finite_are_not_loaded(model, tmp_path):
    weights = model.state_dict()
    weights = {**weights, LAYER: weights[LAYER] * torch.nan}
    torch.save(weights, tmp_path / "a.pth")
    says = "a.pth: 1 of .* tensors have NaN or infinite numbers: layers.0.norm1.weight"
    with pytest.raises(CheckpointError, match=says):
        Embedder.from_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=says.replace("layers", "backbone.layers")):
        checkpoint.load_model(model, tmp_path / "a.pth")
