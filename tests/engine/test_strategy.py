import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import set_random_seed
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from mmonepeace import checks
from mmonepeace.engine import BFloat16OptimWrapper, FSDP2Strategy, run_options
from mmonepeace.engine.processes import exit_distributed
from mmonepeace.registry import MODELS
from tests.processes import spawn

WORLD = 3  # does not divide most of the rows
MODEL = dict(
    type="mmonepeace.OnePeaceRetriever",
    backbone=dict(
        arch=dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24),
        modalities=dict(text=dict(vocab_size=20, num_buckets=8), image={}),
        img_size=32,
        final_norm=True,
        layer_scale_init=0.1,
    ),
    gather="full",
)
OPTIMIZER = dict(type="AdamW", lr=1e-2, eps=1e-3)


def batch(rank=None):
    """Two pairs of each process, or those of all."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (2 * WORLD, 3, 32, 32), generator=generator).to(torch.uint8)
    texts = torch.randint(4, 20, (2 * WORLD, 5), generator=generator)
    rows = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    return {"inputs": {"image": list(images[rows]), "text": list(texts[rows])}}


def build_strategy(folder, **options):
    environment = dict(launcher="pytorch", randomness=dict(seed=1))
    return FSDP2Strategy(work_dir=folder, env_kwargs=environment, **options)


def whole(strategy, tensors):
    return {name: strategy.store(value) for name, value in tensors.items()}


def train(strategy, foreach, **options):
    """A step and an evaluation of a sharded model."""
    wrapper = dict(
        type=OptimWrapper, optimizer=OPTIMIZER | dict(foreach=foreach),
        clip_grad=dict(max_norm=0.01), **options,
    )  # fmt: skip
    model, wrapper = strategy.prepare(copy.deepcopy(MODEL), optim_wrapper=wrapper)
    results = {
        "start": whole(strategy, model.state_dict()),
        "numel": sum(
            p.to_local().numel() if isinstance(p, DTensor) else 0 for p in model.parameters()
        ),
        "unsharded": [n for n, p in model.named_parameters() if not isinstance(p, DTensor)],
    }
    norms = []
    clip = wrapper.clip_func
    wrapper.clip_func = lambda *args, **kwargs: norms.append(clip(*args, **kwargs)) or norms[-1]
    loss = model.train_step(batch(strategy.rank), wrapper)["loss"].detach()
    dist.all_reduce(loss)
    results |= {"loss": loss / WORLD, "norm": norms[0]}
    results["end"] = whole(strategy, model.state_dict())
    states = wrapper.state_dict()["state"]
    results["optimizer"] = {i: whole(strategy, state) for i, state in states.items()}
    model.eval()
    with torch.no_grad():
        found = model(model.data_preprocessor(batch())["inputs"])
    results["embeddings"] = found
    results["dtypes"] = {p.dtype for p in model.parameters()}
    # Back in, from parts as other numbers of processes would have written them.
    kept = results["end"] if strategy.rank == 0 else None
    given = [kept]
    dist.broadcast_object_list(given)
    for parts in (1, 2, WORLD, 5):
        split = {
            name: strategy.take(
                list(value.split(-(-len(value) // parts))) if value.ndim else [value]
            )
            for name, value in given[0].items()
        }
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        model.load_state_dict(split)
        results[f"from_{parts}"] = whole(strategy, model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(given[0])  # whole tensors, as any way of loading has them
    results["from_whole"] = whole(strategy, model.state_dict())
    strategy.sharded = True
    mine = whole(strategy, model.state_dict())
    results["mine"] = {name: value for name, value in mine.items() if value is not None}
    return results


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {"float32": train(build_strategy(folder), foreach=True)}
    half = build_strategy(folder, param_dtype="bfloat16")
    results["bfloat16"] = train(half, foreach=False)
    torch.save(results, f"{folder}/{rank}.pt")
    with pytest.raises(ValueError, match=r"strategy\.blocks is \('Block',\)"):
        build_strategy(folder, blocks=["Block"]).prepare(copy.deepcopy(MODEL))
    with pytest.raises(ValueError, match="choose float32 or bfloat16"):
        build_strategy(folder, param_dtype="float16")
    with pytest.raises(TypeError, match=r"runner_type='mmonepeace\.PretrainRunner'"):
        half.save_checkpoint("x.pth")
    exit_distributed(0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone():
    """The same step in one process."""

    def step(wrapper_type):
        set_random_seed(1)
        model = MODELS.build(copy.deepcopy(MODEL))
        start = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
        norms = []
        wrapper = wrapper_type(optimizer, clip_grad=dict(max_norm=0.01))
        clip = wrapper.clip_func
        wrapper.clip_func = lambda *args, **kwargs: norms.append(clip(*args, **kwargs)) or norms[-1]
        loss = model.train_step(batch(), wrapper)["loss"].detach()
        model.eval()
        with torch.no_grad():
            found = model(model.data_preprocessor(batch())["inputs"])
        return SimpleNamespace(
            start=start, loss=loss, norm=norms[0], end=model.state_dict(), embeddings=found,
            optimizer=optimizer.state_dict()["state"],
        )  # fmt: skip

    return {"float32": step(OptimWrapper), "bfloat16": step(BFloat16OptimWrapper)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_is_that_of_one_process(ranks, alone, dtype):
    start = ranks[0][dtype]["start"]
    assert list(start) == list(alone[dtype].start)
    assert all(torch.equal(start[name], value) for name, value in alone[dtype].start.items())
    assert all(value is None for value in ranks[1][dtype]["start"].values())


@pytest.mark.slow
def test_each_process_has_its_share(ranks, alone):
    total = sum(value.numel() for value in alone["float32"].start.values())
    sizes = [results["float32"]["numel"] for results in ranks]
    assert sum(sizes) == total - 1
    assert max(sizes) < 0.45 * total
    assert ranks[0]["float32"]["unsharded"] == ["logit_scale"]


@pytest.mark.slow
def test_a_step_is_that_of_one_process(ranks, alone):
    expected = alone["float32"]
    for results in ranks:
        got = results["float32"]
        torch.testing.assert_close(got["loss"], expected.loss)
        torch.testing.assert_close(got["norm"], expected.norm)
        torch.testing.assert_close(got["embeddings"], expected.embeddings, rtol=1e-5, atol=1e-6)
    assert expected.norm > 0.1  # it was clipped
    got = ranks[0]["float32"]
    torch.testing.assert_close(got["end"], dict(expected.end), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["optimizer"], expected.optimizer, rtol=1e-4, atol=1e-8)
    assert not torch.equal(got["end"]["logit_scale"], got["start"]["logit_scale"])


@pytest.mark.slow
def test_half_precision_computes_roughly_the_same_and_keeps_whole_weights(ranks, alone):
    expected = alone["bfloat16"]
    for results in ranks:
        got = results["bfloat16"]
        assert got["dtypes"] == {torch.float32}
        torch.testing.assert_close(got["loss"], expected.loss, rtol=0.01, atol=0.0)
        torch.testing.assert_close(got["norm"], expected.norm, rtol=0.05, atol=0.0)
        torch.testing.assert_close(got["embeddings"], expected.embeddings, rtol=0, atol=0.03)
    assert not torch.equal(ranks[0]["bfloat16"]["loss"], ranks[0]["float32"]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, WORLD, 5, "whole"])
def test_rows_of_any_number_of_processes_are_loaded(ranks, parts):
    got, expected = (ranks[0]["float32"][key] for key in (f"from_{parts}", "end"))
    assert all(torch.equal(got[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_shares_in_a_row_are_the_whole(ranks):
    for name, value in ranks[0]["float32"]["end"].items():
        parts = [r["float32"]["mine"][name] for r in ranks if name in r["float32"]["mine"]]
        assert torch.equal(torch.cat(parts) if value.ndim else parts[0], value)
        assert len(parts) == (WORLD if value.ndim else 1)
        for part in parts:
            assert part.untyped_storage().nbytes() == part.nbytes


def test_without_a_launcher_there_is_nothing_to_shard_over(tmp_path):
    with pytest.raises(RuntimeError, match=r"tools/dist_pretrain\.sh CONFIG GPUS"):
        FSDP2Strategy(work_dir=str(tmp_path), env_kwargs=dict(launcher="none"))


def config(launcher, wrapper="OptimWrapper", **more):
    return Config(dict(launcher=launcher, optim_wrapper=dict(type=wrapper), **more))


def test_the_strategy_follows_the_launcher_and_the_precision():
    cfg = config("none")
    run_options.set_strategy(cfg, None)
    assert "strategy" not in cfg
    cfg = config("pytorch", model_wrapper_cfg=dict(device_ids=None))
    run_options.set_strategy(cfg, None)
    assert cfg.strategy == dict(type="DDPStrategy", model_wrapper=dict(device_ids=None))
    cfg = config("slurm", "mmonepeace.BFloat16OptimWrapper")
    run_options.set_strategy(cfg, "fsdp2", sharded=True)
    assert cfg.strategy == dict(
        type="mmonepeace.FSDP2Strategy", param_dtype="bfloat16", sharded=True
    )
    own = dict(type="mmonepeace.FSDP2Strategy", blocks=["Block"])
    cfg = config("slurm", strategy=own)
    run_options.set_strategy(cfg, None)
    assert cfg.strategy == own
    run_options.set_strategy(cfg, "ddp")
    assert cfg.strategy.type == "DDPStrategy"


@pytest.mark.parametrize(
    ("launcher", "name", "sharded", "says"),
    [
        ("none", "fsdp2", False, "tools/dist_pretrain.sh"),
        ("pytorch", "ddp", True, "Add --strategy fsdp2"),
        ("pytorch", None, True, "Add --strategy fsdp2"),
        ("none", None, True, "Add --strategy fsdp2"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused_with_the_fix(launcher, name, sharded, says):
    with pytest.raises(checks.CheckError, match=says):
        run_options.set_strategy(config(launcher), name, sharded)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_launchers_of_gpus_are_refused_without_one(monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(checks.CheckError, match="start with torchrun"):
        run_options.set_launcher(Config(), "slurm")


def test_lora_is_refused():
    pytest.importorskip("peft")
    with torch.device("meta"):
        model = MODELS.build(MODEL | dict(backbone=MODEL["backbone"] | dict(lora=dict(rank=2))))
    strategy = FSDP2Strategy.__new__(FSDP2Strategy)
    strategy.blocks = ("EncoderLayer",)
    with pytest.raises(ValueError, match=r"would stay empty\. Use --strategy ddp"):
        strategy._wrap_model(model)
