"""Estimates of training steps equal real ones, and follow options as they should."""

import resource
import sys
from functools import cache

import pytest
import torch
from mmengine.registry import init_default_scope
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mmonepeace import checks
from mmonepeace.checks.building import build_on_meta
from mmonepeace.checks.fake_gpu import backward
from mmonepeace.checks.known_numbers import KnownNumbers
from mmonepeace.checks.live_memory import LiveMemory
from mmonepeace.checks.step_estimate import estimate_step, measure_step
from mmonepeace.checks.synthetic_batch import synthetic_batch
from mmonepeace.commands import estimate as command
from mmonepeace.models import OnePeace
from mmonepeace.registry import MODELS

CLASSIFIER = "onepeace-tiny_vqa_emoji-64"
MASK2FORMER = "onepeace-tiny_vit-adapter_mask2former_emoji-128"
PRETRAINER = "onepeace-tiny_vl_emoji-64"
DISTILLER = "onepeace-tiny_distill_emoji-64"
ARCH = dict(embed_dim=64, depth=2, num_heads=4, ffn_dim=128)


def recipe(name=CLASSIFIER, lora=None, **backbone):
    cfg = checks.read_config(name)
    if lora:
        backbone["lora"] = dict(rank=lora)
    cfg.model.backbone.update(backbone)
    if name == MASK2FORMER:  # of random crops each has other classes
        cfg.model.data_preprocessor.augmentation = None
    init_default_scope(cfg.default_scope)
    return cfg


@cache  # some are compared several times
def estimate(name=CLASSIFIER, device="cpu", shards=1, **backbone):
    return estimate_step(recipe(name, **backbone), device, None, 2, shards)


def measured(name, **backbone):
    """The same of real tensors."""
    cfg = recipe(name, **backbone)
    model = MODELS.build(cfg.model)
    return measure_step(cfg, model, synthetic_batch(cfg, model, None, 2), "cpu")


@pytest.mark.parametrize(
    ("name", "with_cp"),
    [
        (CLASSIFIER, False), (PRETRAINER, True),
        pytest.param(MASK2FORMER, False, marks=pytest.mark.ops),
    ],
)  # fmt: skip
def test_an_estimate_equals_what_tensors_of_a_real_step_hold(name, with_cp):
    found, real = estimate(name, with_cp=with_cp), measured(name, with_cp=with_cp)
    assert found.peak == pytest.approx(real.peak, rel=0.02)
    assert found.activations == pytest.approx(real.activations, rel=0.02)
    assert found.operations == real.operations
    assert (found.parameters, found.trained) == (real.parameters, real.trained)


def test_a_teacher_has_weights_in_each_process_and_no_state():
    found, whole = estimate(DISTILLER, shards=4), estimate(DISTILLER)
    cfg = recipe(DISTILLER)
    teacher = build_on_meta(cfg.model).teacher.net
    frozen = sum(p.numel() for p in teacher.parameters())
    assert f"weights include {frozen:,} frozen parameters" in found.notes[0]
    assert whole.parts["weights"] == pytest.approx(4 * (whole.parameters + frozen), rel=0.01)
    assert whole.parts["optimiser"] == pytest.approx(8 * whole.parameters, rel=0.01)
    assert found.parts["weights"] == pytest.approx(whole.parameters + 4 * frozen, rel=0.01)


def test_parts_have_the_sizes_that_they_must_have():
    found = estimate()
    four = 4 * found.parameters
    assert found.parts["weights"] == pytest.approx(four, rel=0.01)
    assert found.parts["optimiser"] == pytest.approx(2 * four, rel=0.01)
    assert found.peak == sum(found.parts.values())


def test_lora_shrinks_optimiser_and_gradients():
    everything, lora = estimate(), estimate(lora=2)
    assert lora.trained < everything.trained / 4
    assert lora.parts["optimiser"] < everything.parts["optimiser"] / 4
    assert lora.parts["gradients"] <= everything.parts["gradients"]


def test_checkpointing_keeps_less_and_computes_more():
    without, with_cp = estimate(device="cuda"), estimate(device="cuda", with_cp=True)
    assert with_cp.activations < without.activations / 1.5
    assert with_cp.operations["forward"] == without.operations["forward"]
    assert with_cp.operations["backward"] > without.operations["backward"]


def test_shards_divide_what_is_of_parameters():
    alone, shared = estimate(device="cuda"), estimate(device="cuda", shards=8)
    for part in ("weights", "gradients", "optimiser"):
        assert shared.parts[part] == -(-alone.parts[part] // 8)
    assert shared.parts["kept"] == alone.parts["kept"]


def test_an_average_is_another_copy_of_the_weights():
    cfg = recipe()
    cfg.custom_hooks = [dict(type="EMAHook")]
    found = estimate_step(cfg, "cpu", None, 2)
    assert found.parts["average"] == found.parts["weights"]


def test_operations_are_those_of_linear_layers_and_attention():
    with torch.device("meta"):
        model = OnePeace(ARCH, img_size=64, layer_scale_init=0.1).eval()
        images = torch.empty(2, 3, 64, 64)
        with LiveMemory("meta") as memory, torch.no_grad():
            memory.phase = "forward"
            model(images)
    tokens, dim, ffn = 17, ARCH["embed_dim"], ARCH["ffn_dim"]
    linear = 2 * tokens * (4 * dim**2 + 3 * dim * ffn)
    attention = 4 * dim * tokens**2
    # Convolutions of 4, 2 and 2 pixels.
    stem = 2 * dim // 4 * (16**2 * 3 * 4**2 + 8**2 * 4 * dim // 4) + 2 * 4**2 * 4 * dim // 4 * dim
    expected = 2 * (ARCH["depth"] * (linear + attention) + stem)
    assert memory.operations["forward"] == pytest.approx(expected, rel=0.02)


def test_backward_in_python_has_the_gradients_and_the_memory_of_the_engine():
    peaks, gradients = [], []
    for run in (torch.Tensor.backward, backward):
        torch.manual_seed(0)
        model = OnePeace(ARCH, img_size=64, rpb="per_block", with_cp=True, layer_scale_init=0.1)
        images = torch.randn(2, 3, 96, 96)
        with LiveMemory("cpu") as memory:
            run(sum(x.square().mean() for x in model(images)))
        peaks.append(memory.peak)
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)


def test_memory_is_followed_until_the_last_view_is_gone():
    with LiveMemory("cpu") as memory:
        x = torch.zeros(1000)
        view = x[10:]
        del x
        assert memory.live == 4000
        del view
        assert memory.live == 0
        torch.zeros(10)
    assert (memory.peak, sum(block.size for block in memory.at())) == (4000, 4000)


def test_numbers_of_sizes_are_known_and_others_are_not():
    numbers = KnownNumbers()
    with FakeTensorMode(), numbers.follow():
        maps = torch.empty(2, 8, 4, 5), torch.empty(2, 8, 8, 10)
        sizes = torch.stack([torch._shape_as_tensor(x)[2:] for x in maps])
        lengths = sizes.prod(1)
        assert lengths.sum() == 100
        parts = torch.empty(2, 100).split([rows * columns for rows, columns in sizes], dim=1)
        assert [tuple(x.shape) for x in parts] == [(2, 20), (2, 80)]
        with pytest.raises(DataDependentOutputException):
            (torch.empty(2) + lengths).sum().item()


def test_of_a_mask_as_many_elements_are_chosen_as_are_known():
    with FakeTensorMode(), LiveMemory("cpu", {(2, 5): 4, (6,): 3}):
        assert torch.empty(2, 5, 7)[torch.empty(2, 5) > 0].shape == (4, 7)
        assert torch.empty(2, 6, 7)[torch.empty(2, 6) > 0].shape == (12, 7)
        assert torch.empty(6).nonzero().shape == (3, 1)
        assert torch.empty(6, dtype=torch.int64).unique().shape == (3,)


def test_no_weights_of_the_giant_are_allocated():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = build_on_meta(recipe("onepeace-giant_retrieval_coco-256").model)
    assert sum(p.numel() for p in model.parameters()) > 2e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB, of 8 GB


def test_a_loss_that_needs_numbers_is_a_line():
    with pytest.raises(checks.CheckError, match=r"without numbers .* --dry-run"):
        estimate_step(recipe("onepeace-tiny_mask-rcnn_emoji-160"), "cpu", None, 1)


def test_the_command_prints_a_table():
    lines = command.report(estimate()).splitlines()
    assert lines[0].startswith(f"{estimate().parameters:,} parameters")
    assert any(line.startswith("peak, in the ") and line.endswith("100%") for line in lines)
    assert lines[-1] == "fits on 24, 40, 80, 141 GB"


def test_a_wrong_config_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mmonepeace estimate", "no-such-recipe.py"])
    assert command.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
