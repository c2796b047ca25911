"""A segmentor is adapted with LoRA, resumed, evaluated, written as an adapter and merged."""

import re

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.models import OnePeace
from tests.conftest import randomise
from tests.journeys.resuming import assert_same_run, left_by_a_kill
from tests.journeys.test_segmentation import SEGMENTATION, SMALL_RECIPE, losses
from tests.processes import run_in_two, run_tool

pytest.importorskip("peft")
LORA = """
model["backbone"].update(
    lora=dict(rank=2, alpha=8.0, dropout=0.1, targets=["q", "v", "up"]), trained=["norm"]
)
optim_wrapper = dict(
    optimizer=dict(lr=3e-2), constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9),
)
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """With and without LoRA."""
    folder = tmp_path_factory.mktemp("recipe")
    plain = SMALL_RECIPE.format(base=SEGMENTATION)
    (folder / "plain.py").write_text(plain)
    (folder / "lora.py").write_text(plain + LORA)
    return folder / "lora.py", folder / "plain.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Pretrained weights."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    model = randomise(OnePeace(dict(embed_dim=32, depth=4, num_heads=2), img_size=128))
    checkpoint.write(path, checkpoint.to_own(model.state_dict(), model.metadata()))
    return path


@pytest.fixture(scope="module")
def trained(recipes, base, seg_data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run") / "work"
    arguments = ("--data-root", seg_data, "--work-dir", work_dir, "--checkpoint", base)
    return work_dir, run_tool("train.py", recipes[0], *arguments)


def test_the_base_stays_and_the_rest_learns(trained, base):
    work_dir, done = trained
    assert len(losses(done)) == 10
    state = checkpoint.read_run(work_dir / "iter_10.pth")
    now, start = state["state_dict"], checkpoint.read(base)[0]
    now = {checkpoint.base_name(name.removeprefix("backbone.")): x for name, x in now.items()}
    changed = {name for name, value in start.items() if not torch.equal(now[name], value)}
    assert changed
    assert all("norm" in name or ".stem." in name for name in changed)
    assert all(now[name].any() for name in now if ".lora_" in name)
    count = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    assert count == len(state["optimizer"]["state"])


def test_a_killed_run_ends_with_the_same_bits(trained, recipes, base, seg_data, tmp_path):
    work_dir = left_by_a_kill(tmp_path / "work", trained[0])
    run_tool(
        "train.py", recipes[0], "--data-root", seg_data, "--work-dir", work_dir, "--resume",
        "--checkpoint", base, "--cfg-options", "train_cfg.val_interval=99",
    )  # fmt: skip
    assert_same_run(work_dir, trained[0])


def test_adapted_merged_and_adapter_give_the_same_score(trained, recipes, base, seg_data, tmp_path):
    lora, plain = recipes
    work_dir = trained[0]
    convert = ("convert_checkpoint.py", work_dir / "iter_10.pth")
    run_tool(*convert, tmp_path / "merged.safetensors", "--to", "model")
    run_tool(*convert, tmp_path / "adapter", "--to", "adapter")
    run_tool(
        "convert_checkpoint.py",
        base,
        tmp_path / "both.pth",
        "--to",
        "model",
        "--adapter",
        tmp_path / "adapter",
    )
    merged, _ = checkpoint.read(tmp_path / "merged.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in merged)
    maps = []
    for number, (recipe, *given) in enumerate(
        (
            (lora, work_dir),
            (plain, work_dir),
            (plain, tmp_path / "merged.safetensors"),
            (lora, tmp_path / "merged.safetensors"),
            (plain, tmp_path / "both.pth"),
            (plain, base, "--adapter", tmp_path / "adapter"),
        )
    ):
        done = run_tool(
            "test.py", recipe, *given, "--data-root", seg_data, "--work-dir",
            tmp_path / f"w{number}",
        )  # fmt: skip
        maps.append(re.findall(r"aAcc: ([\d.]+)", done.stdout)[-1])
    assert len(set(maps)) == 1


@pytest.mark.slow
def test_two_processes_train_with_frozen_parameters(recipes, base, seg_data, tmp_path):
    done = run_in_two(
        "train.py", recipes[0], "--data-root", seg_data, "--work-dir", tmp_path, "--checkpoint",
        base, "--cfg-options", "train_cfg.max_iters=3",
        "train_cfg.val_interval=99", "train_dataloader.batch_size=2",
        "default_hooks.checkpoint.interval=3",
    )  # fmt: skip
    weights, _ = checkpoint.read(tmp_path / "iter_3.pth")
    assert all(weights[name].any() for name in weights if ".lora_B" in name), done
