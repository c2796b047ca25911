"""No code from a file is run by MMEngine and its libraries, once mmonepeace is imported.

Hostile files would make a folder: it never appears.
"""

import io
import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from types import SimpleNamespace

import mmengine
import numpy as np
import pytest
import torch
import yaml
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint

import mmonepeace  # noqa: F401
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.exit_status import UserError
from tests.conftest import ROOT


class Marker:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.makedirs, (self.path,)


def write_zip(content, path):
    torch.save(content, path)


def write_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


WRITERS = [write_zip, write_legacy, write_pickle]


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.linear(inputs)


def resume(path, tmp_path):
    """`--resume` without a path: the newest file of the work directory."""
    (tmp_path / "last_checkpoint").write_text(str(path))
    runner = Runner(
        Model(), str(tmp_path), train_dataloader=dict(dataset=[0], batch_size=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        train_cfg=dict(by_epoch=False, max_iters=1), resume=True, experiment_name="x",
    )  # fmt: skip
    runner.load_or_resume()


def start(path, tmp_path):
    runner = Runner(Model(), str(tmp_path), load_from=str(path), experiment_name="y")
    runner.load_or_resume()


def download(path, tmp_path):
    mmengine_checkpoint.load_from_http(f"http://no.such/{path.name}", model_dir=str(path.parent))


def segment(path, tmp_path):
    from mmseg.apis import init_model

    head = dict(type="FCNHead", in_channels=1, channels=1, num_classes=2, num_convs=0)
    backbone = dict(type="UNet", base_channels=1, num_stages=1, strides=(1,), enc_num_convs=(1,),
                    dec_num_convs=(), downsamples=(), enc_dilations=(1,), dec_dilations=())  # fmt: skip
    config = mmengine.Config(dict(model=dict(type="EncoderDecoder", backbone=backbone,
                                             decode_head={**head, "concat_input": False},
                                             test_cfg=dict(mode="whole"))))  # fmt: skip
    init_model(config, str(path), device="cpu")


READERS = {
    "load_checkpoint": lambda path, _: load_checkpoint(Model(), str(path)),
    "CheckpointLoader": lambda path, _: CheckpointLoader.load_checkpoint(str(path)),
    "part": lambda path, _: mmengine_checkpoint._load_checkpoint_with_prefix("a", str(path)),
    "open file": lambda path, _: mmengine_checkpoint._safe_torch_load(io.BytesIO(path.read_bytes())),
    "http": download,
    "init_cfg": lambda path, _: BaseModule(dict(type="Pretrained", checkpoint=str(path))).init_weights(),
    "load_from": start,
    "resume": resume,
    "mmseg.init_model": segment,
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("reader", READERS)
def test_nothing_is_executed(reader, write, tmp_path):
    path = tmp_path / "iter_1.pth"
    write({"state_dict": {"w": torch.zeros(2)}, "meta": Marker(tmp_path / "marker")}, path)
    with pytest.raises(CheckpointError, match=r"os\.makedirs.*Nothing was executed") as error:
        READERS[reader](path, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "marker").exists()


def test_the_marker_would_appear(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "marker")))  # noqa: S301
    assert (tmp_path / "marker").exists()


class Program(torch.nn.Module):
    """Writes a file when torch loads it, before it is called."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path, self.training = state
        torch.save(torch.zeros(1), self.path)

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_programs_are_not_loaded(tmp_path):
    torch.jit.script(Program(str(tmp_path / "marker"))).save(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a TorchScript program"):
        load_checkpoint(Model(), str(tmp_path / "a.pth"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("suffix", ["pkl", "pickle"])
def test_annotations_in_pickles_are_refused(tmp_path, suffix):
    path = tmp_path / f"annotations.{suffix}"
    write_pickle(Marker(tmp_path / "marker"), path)
    with pytest.raises(UserError, match=r"Convert the file to \.json"):
        mmengine.load(path)
    with path.open("rb") as file, pytest.raises(UserError, match=r"Convert the file to \.json"):
        mmengine.load(file, file_format=suffix)
    assert not (tmp_path / "marker").exists()


def test_yaml_builds_no_objects(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"a: !!python/object/apply:os.makedirs [{tmp_path / 'marker'}]")
    with pytest.raises(
        yaml.constructor.ConstructorError, match="could not determine a constructor"
    ):
        mmengine.load(path)
    assert not (tmp_path / "marker").exists()
    path.write_text("a: [1, x]")
    assert mmengine.load(path) == {"a": [1, "x"]}


def test_images_in_pickles_are_refused(tmp_path):
    from mmseg.utils import datafrombytes

    with pytest.raises(UserError, match="refused"):
        datafrombytes(pickle.dumps(Marker(tmp_path / "marker")), "pickle")
    assert not (tmp_path / "marker").exists()


def test_configs_in_checkpoints_are_not_executed(tmp_path):
    code = f"import os\nos.makedirs({str(tmp_path / 'marker')!r})"
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {}, "meta": {"cfg": code, "config": code}}, path)
    with pytest.raises(UserError, match="Name a config: model=CONFIG"):
        BaseInferencer._init_model(SimpleNamespace(), None, str(path))
    meta = CheckpointLoader.load_checkpoint(str(path))["meta"]
    assert meta == {"cfg": code}  # `config` would be executed by Runner.resume
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_checkpoints_of_mmengine_are_read_whole(write, tmp_path):
    log = HistoryBuffer([0.5, 0.25], [1, 2])
    weights = OrderedDict(w=torch.arange(6.0).view(2, 3).t(), h=torch.ones(2).bfloat16())
    weights._metadata = {"": {"version": 2}}
    content = {
        "meta": {"epoch": 3, "seed": np.int64(7), "palette": np.array([[1, 2], [3, 4]], np.uint8)},
        "state_dict": weights,
        "message_hub": {"log_scalars": {"loss": log}, "runtime_info": {"lr": np.float64(0.5)}},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"params": [0]}]},
        "param_schedulers": [{"milestones": Counter([3, 3]), "verbose": False, "s": {1, 2}}],
    }
    write(content, tmp_path / "a.pth")
    read = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), "cpu")
    assert read["meta"]["seed"] == 7
    assert read["meta"]["palette"].tolist() == [[1, 2], [3, 4]]
    assert read["meta"]["palette"].dtype == np.uint8
    for name, value in weights.items():
        assert torch.equal(read["state_dict"][name], value)
    assert read["state_dict"]._metadata == weights._metadata
    history = read["message_hub"]["log_scalars"]["loss"]
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == log.mean()
    assert read["message_hub"]["runtime_info"] == {"lr": 0.5}
    assert read["optimizer"] == content["optimizer"]
    assert read["param_schedulers"] == content["param_schedulers"]
    (tmp_path / "a.pth").write_bytes(b"")  # what was read does not depend on the file
    assert read["state_dict"]["w"].sum() == 15


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 1), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(Model(), str(tmp_path / "a.pth"))


@pytest.mark.parametrize("first", ["mmonepeace", "mmengine.runner, mmonepeace.registry"])
def test_the_order_of_imports_does_not_matter(first, tmp_path):
    write_zip(Marker(tmp_path / "marker"), tmp_path / "a.pth")
    code = (
        f"import {first}\n"
        "from mmengine.runner import CheckpointLoader\n"
        f"CheckpointLoader.load_checkpoint({str(tmp_path / 'a.pth')!r})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert "Nothing was executed" in done.stderr
    assert not (tmp_path / "marker").exists()
