import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace
from tests.conftest import ROOT, TINY

TOOL = ROOT / "tools/convert_checkpoint.py"


def official_full(model: OnePeace, prefix="encoder_wrapper.") -> dict[str, torch.Tensor]:
    """The model's weights under the names of the official full file."""
    converted = checkpoint.Conversion(dict(model.state_dict()), {"official_layout": "vision"})
    weights = {}
    for name, value in checkpoint.to_official_vision(converted).weights.items():
        weights[f"{prefix}{name.replace('encoder.', 'fusion_model.')}"] = value
    return weights


def other_branches(width: int, prefix="encoder_wrapper.") -> dict[str, torch.Tensor]:
    """What else the official full file holds, some of it."""
    weights = {}
    weights[f"{prefix}text_adapter.embed_tokens.weight"] = torch.randn(9, width)
    weights[f"{prefix}fusion_model.layers.0.text_ffn.3.bias"] = torch.randn(width)
    weights[f"{prefix}fusion_model.image_layer_norm.weight"] = torch.randn(width)
    weights[f"{prefix}fusion_model.version"] = torch.tensor([3.0])
    weights["image_proj.weight"] = torch.randn(width, width)
    weights["logit_scale"] = torch.tensor(2.6)
    return weights


@pytest.fixture
def model():
    model = OnePeace(TINY, img_size=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return model


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def run_tool(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_full_file_to_vision_and_back(model, tmp_path, suffix):
    source, ours, back = (tmp_path / n for n in ("full.pt", f"vision.{suffix}", "back.pkl"))
    full = official_full(model)
    content = {"model": full | other_branches(32), "extra_state": {"best": 1.0}}
    # Objects of classes that are not installed, as in files of fairseq.
    torch.save({"cfg": Namespace(layers=3)} | content, source)
    checkpoint.convert_file(source, ours, "vision")
    assert_same(checkpoint.read(ours)[0], dict(model.state_dict()))
    checkpoint.convert_file(ours, back, "official-vision")
    content = pickle.loads(back.read_bytes())  # noqa: S301  (our own file)
    assert content["__author__"] == "ofa"
    assert content["matching_heuristics"] is True
    expected = {
        name.removeprefix("encoder_wrapper.").replace("fusion_model.", "encoder."): value
        for name, value in full.items()
    }
    assert_same(content["model"], expected)


@pytest.mark.parametrize(
    ("layout", "num_tables"), [("segmentation", 3), ("classification", 1), ("vision", 1)]
)
def test_every_vision_layout_round_trips(tmp_path, layout, num_tables):
    own = OnePeace(TINY, img_size=64, rpb="per_block" if num_tables > 1 else "shared")
    meta = {"format": "mmonepeace", "official_layout": layout}
    official = checkpoint.to_official_vision(checkpoint.Conversion(own.state_dict(), meta)).weights
    source, ours, back = (tmp_path / n for n in ("in.pth", "ours.safetensors", "back.pth"))
    torch.save({"state_dict": official, "meta": {}}, source)
    checkpoint.convert_file(source, ours, "vision")
    assert_same(checkpoint.read(ours)[0], dict(own.state_dict()))
    checkpoint.convert_file(ours, back, "official-vision")
    assert_same(checkpoint.read(back)[0], official)


def test_segmentation_file_with_heads_gives_its_backbone(model, tmp_path):
    converted = checkpoint.Conversion(dict(model.state_dict()), {"official_layout": "segmentation"})
    official = checkpoint.to_official_vision(converted).weights
    weights = {f"backbone.{key}": value for key, value in official.items()}
    weights["backbone.spm.fc1.weight"] = torch.zeros(2, 2)
    weights["decode_head.cls_embed.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": weights, "meta": {"CLASSES": ("a", "b")}}, tmp_path / "seg.pth")
    result = checkpoint.convert_file(tmp_path / "seg.pth", None, "vision")
    assert_same(result.weights, dict(model.state_dict()))
    left_out = {key for key, name, _ in result.rows if name is None and "rp_bucket" not in key}
    assert left_out == {"backbone.spm.fc1.weight", "decode_head.cls_embed.weight"}


def test_dtypes_survive(model, tmp_path):
    torch.save(
        {"model": {k: v.bfloat16() for k, v in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    checkpoint.convert_file(tmp_path / "a.pth", tmp_path / "b.safetensors", "vision")
    weights = checkpoint.read(tmp_path / "b.safetensors")[0]
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


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
def test_hostile_files_run_nothing_and_write_nothing(model, tmp_path, container):
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
def test_files_of_other_models_are_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    done = run_tool(path, tmp_path / "out.pth", "--to", "vision")
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_dry_run_prints_the_keys_and_writes_nothing(model, tmp_path):
    path = tmp_path / "full.pt"
    torch.save({"model": official_full(model)}, path)
    done = run_tool(path, tmp_path / "out.pth", "--to", "vision", "--dry-run")
    assert done.returncode == 0
    for text in (
        "encoder_wrapper.image_adapter.pos_embed",
        "adapters.image.pos_embed",
        "index map",
    ):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_suffix_is_refused(model, tmp_path):
    path = tmp_path / "full.pt"
    torch.save({"model": official_full(model)}, path)
    done = run_tool(path, tmp_path / "out.bin", "--to", "vision")
    assert done.returncode == 2
    assert ".safetensors" in done.stderr


def test_key_table_is_its_own_inverse():
    names = [
        "image_adapter.embed_images.4.layer_norm.bias",
        "image_adapter.embed_images.weight",
        "text_adapter.embed_positions.weight",
        "audio_adapter.embed_audios.0.conv_layers.3.2.1.weight",
        "layers.11.self_attn.q_proj.bias",
        "layers.3.self_attn.c_attn",
        "layers.3.attn_ln.weight",
        "layers.7.audio_ffn.0.wi_1.weight",
        "layers.7.gamma_2",
        "image_layer_norm.weight",
        "audio_proj.bias",
        "logit_scale",
    ]
    own = [checkpoint.own_name(name) for name in names]
    assert len(set(own)) == len(names)
    assert [checkpoint._rename(name, checkpoint._TO_OFFICIAL) for name in own] == names
