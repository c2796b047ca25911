"""No tool runs code from a checkpoint, on whatever path it comes: one line, exit code 2.

The hostile file would make a folder: it never appears.
"""

import logging
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, SEGMENTATION

FILE, RUN = "FILE", "WORK_DIR"
SEGMENT = ["RECIPE", "--data-root", "DATA"]
PRETRAIN = ["configs/tiny/onepeace-tiny_vl_emoji-64.py", "--work-dir", "NEW"]
PARTS = {  # of a model -> config that has it start from the file
    "head": "model = dict(decode_head=dict(init_cfg=dict(type='Pretrained', checkpoint='FILE')))",
    "backbone": "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='FILE')))",
    "model": "model = dict(init_cfg=dict(type='Pretrained', checkpoint='FILE'))",
}
START = {
    "load_from": ["--cfg-options", "load_from=FILE"],
    "resume": ["--resume", FILE],
    "resume newest": ["--resume", "--work-dir", RUN],
}
COMMANDS = {
    **{f"train {name}": ["train.py", *SEGMENT, "--work-dir", "NEW", *o] for name, o in START.items()},
    "train checkpoint": ["train.py", *SEGMENT, "--work-dir", "NEW", "--checkpoint", FILE],
    **{f"train {part}": ["train.py", f"{part}.py", *SEGMENT[1:], "--work-dir", "NEW"] for part in PARTS},
    **{f"pretrain {name}": ["pretrain.py", *PRETRAIN, *START[name]] for name in ("load_from", "resume")},
    "pretrain stage-one": [
        "pretrain.py", "configs/tiny/onepeace-tiny_al_mixed.py", "--work-dir", "NEW",
        "--stage-one", FILE,
    ],
    "test": ["test.py", *SEGMENT, "--work-dir", "NEW", FILE],
    "show_predictions": ["show_predictions.py", *SEGMENT, FILE],
    "convert": ["convert_checkpoint.py", FILE, "NEW.safetensors", "--to", "full"],
    "embed": ["embed.py", FILE, "--images", "DATA", "--out", "NEW.safetensors"],
    "zero_shot": ["zero_shot.py", FILE, "--images", "DATA", "--classes", "a,b"],
    "heatmap": ["heatmap.py", FILE, "DATA/img_dir/val/0.png", "--text", "a"],
    "probe": [
        "probe.py", FILE, "--modality", "image", "--train", "DATA/img_dir", "--val",
        "DATA/img_dir", "--kind", "knn", "--out", "NEW.csv",
    ],
    "evaluate_retrieval": ["evaluate_retrieval.py", FILE, "--table", "TABLE", "--columns", "image=image",
                           "text=caption"],
}  # fmt: skip
DRY = {
    f"{name} dry": [*command, "--dry-run"]
    for name, command in COMMANDS.items()
    if name.startswith(("train", "pretrain")) and name != "train resume newest"
}


class Marker:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.makedirs, (self.path,)


@pytest.mark.parametrize("name", COMMANDS | DRY)
def test_nothing_is_executed(name, tmp_path, seg_data, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    path, marker = tmp_path / "run/iter_3.pth", tmp_path / "marker"
    content = {"state_dict": {"w": torch.zeros(2)}, "optimizer": {}, "meta": Marker(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=len(name) % 2 == 0)
    (tmp_path / "run/last_checkpoint").write_text(str(path))
    (tmp_path / "table.tsv").write_text(f"image\tcaption\n{seg_data}/img_dir/val/0.png\ta\n")
    words = {"FILE": path, "DATA": seg_data, "NEW": tmp_path / "new", "WORK_DIR": tmp_path / "run",
             "TABLE": tmp_path / "table.tsv", "RECIPE": SEGMENTATION}  # fmt: skip
    command = (COMMANDS | DRY)[name]
    arguments = []
    for part in command[1:]:
        for word, value in words.items():
            part = part.replace(word, str(value))
        arguments.append(str(ROOT / part) if part.startswith("configs/") else part)
    if (part := command[1].removesuffix(".py")) in PARTS:
        arguments[0] = str(tmp_path / command[1])
        base = f"_base_ = [{str(SEGMENTATION)!r}]\n"
        Path(arguments[0]).write_text(base + PARTS[part].replace("FILE", str(path)))
    monkeypatch.setattr(logging, "raiseExceptions", False)  # capsys closes what logs are written to
    monkeypatch.setattr(sys, "argv", [command[0], *arguments])
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / command[0]), run_name="__main__")
    out, err = capsys.readouterr()
    assert not marker.exists()
    assert end.value.code == 2, (out, err)
    assert "Traceback" not in err
    assert "refused: the file calls os.makedirs" in err
    assert "Nothing was executed" in err
