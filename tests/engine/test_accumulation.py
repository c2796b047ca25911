from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import distributed as dist

from mmonepeace.engine import BFloat16OptimWrapper, EndlessTrainLoop
from mmonepeace.engine.accumulation import accumulated_step
from mmonepeace.engine.processes import exit_distributed
from mmonepeace.models import OnePeacePretrainer, OnePeaceRetriever
from mmonepeace.models.pretrainer import STAGES
from mmonepeace.spec import EOS_ID, num_audio_frames
from tests.conftest import randomise
from tests.processes import spawn

ARCH = dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24)
MODALITIES = dict(
    text=dict(vocab_size=20, num_buckets=8),
    image={},
    audio=dict(feature_dim=4, pos_groups=4, num_buckets=8),
)


def build(stage="vl", drop_path_rate=0.0, denoising=True, with_cp=False, **options):
    torch.manual_seed(1)
    pair = STAGES[stage].pair
    backbone = dict(
        arch=ARCH, modalities={name: MODALITIES[name] for name in pair}, img_size=32,
        final_norm=True, drop_path_rate=drop_path_rate, layer_scale_init=0.1, with_cp=with_cp,
    )  # fmt: skip
    model = randomise(OnePeacePretrainer(backbone, stage, ARCH, **options)).train()
    model.logit_scale.data.fill_(2.0)
    if not denoising:
        weights = dict.fromkeys(model.stage.weights, 0.0)
        model.stage = replace(model.stage, weights=weights)
    return model


def samples(stage="vl", number=6):
    """A batch as it leaves the data loader; texts and clips differ in length."""
    rng = np.random.default_rng(2)

    def keep(length, number):
        chosen = rng.choice(np.arange(1, length), min(number, length - 1), replace=False)
        return np.concatenate([[0], np.sort(chosen)])

    texts = [torch.tensor([*rng.integers(4, 20, 2 + i % 4), EOS_ID]) for i in range(number)]
    inputs, lengths = {"text": texts}, {"text": [len(text) + 1 for text in texts]}
    if stage == "vl":
        inputs["image"] = [
            torch.from_numpy(rng.integers(0, 255, (3, 32, 32), np.uint8)) for _ in range(number)
        ]
        lengths["image"] = [5] * number
    else:
        waves = [torch.from_numpy(rng.normal(size=2000 + 400 * (i % 3))) for i in range(number)]
        inputs["audio"] = [wave.float() for wave in waves]
        lengths["audio"] = [num_audio_frames(len(wave)) + 1 for wave in waves]
    keeps = {
        view: {name: [keep(n, 2) for n in rows] for name, rows in lengths.items()}
        for view in ("alone", "joint")
    }
    data_samples = [BaseDataElement(metainfo=dict(text=f"text {i % 4}")) for i in range(number)]
    return {"inputs": inputs, "data_samples": data_samples, "keeps": keeps}


def take(data, rows):
    if isinstance(data, dict):
        return {name: take(value, rows) for name, value in data.items()}
    return data[rows]


def recording(model, wrapper=OptimWrapper):
    """An optimiser wrapper that keeps the gradients of its update."""

    class Recording(wrapper):
        gradients = None
        updates = 0

        def step(self, **kwargs):
            self.gradients = {
                name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
            }
            self.updates += 1
            super().step(**kwargs)

    trained = [p for p in model.parameters() if p.requires_grad]
    return Recording(torch.optim.SGD(trained, lr=0.1), clip_grad=dict(max_norm=1e6))


def step(model, data, micro_batch_size, wrapper=OptimWrapper, wrapped=None):
    """(logged, gradients) of a step."""
    optim_wrapper = recording(model, wrapper)
    logged = accumulated_step(wrapped or model, data, optim_wrapper, micro_batch_size)
    assert optim_wrapper.updates == 1
    return logged, optim_wrapper.gradients


def reference(model, data, sizes):
    """(loss, gradients) by the definition, all activations in memory."""
    number = sum(sizes)
    seeds = torch.randint(2**63 - 1, (len(sizes),)).tolist()
    embeddings, loss, start = [], 0, 0
    for size, seed in zip(sizes, seeds, strict=True):
        rows = slice(start, start + size)
        start += size
        torch.manual_seed(seed)
        with mock.patch.object(
            model, "contrastive_losses", lambda x, *_: embeddings.append(x) or {}
        ):
            batch = model.data_preprocessor(take(data, rows), True)
            losses = model(**batch, mode="loss")
        loss = loss + sum(losses.values()) * size / number
    whole = {name: torch.cat([part[name] for part in embeddings]) for name in embeddings[0]}
    contrast = model.contrastive_losses(whole, model.scale(), data["data_samples"])
    loss = loss + sum(value for name, value in contrast.items() if "loss" in name)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_equal(actual, expected, tolerance=1e-4):
    """Equal up to a fraction of the largest entry of each tensor, and a tenth of it in any case."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        value = value.detach()
        allowed = tolerance * (float(value.abs().max()) + 0.1)
        assert float((actual[name] - value).abs().max()) <= allowed, name


@pytest.mark.parametrize("gather", ["official", "full"])
@pytest.mark.parametrize(("stage", "micro_batch_size"), [("vl", 4), ("al", 2)])
def test_contrast_is_that_of_the_whole_batch(stage, gather, micro_batch_size):
    data = samples(stage)
    options = dict(denoising=False, gather=gather, equal_texts_match=True, label_smoothing=0.1)
    whole, expected = step(build(stage, **options), data, 6)
    parts, gradients = step(build(stage, **options), data, micro_batch_size)
    assert_equal(parts, whole)
    assert_equal(gradients, expected)
    assert gradients["logit_scale"].abs() > 1e-4


@pytest.mark.parametrize("stage", ["vl", "al"])
@pytest.mark.parametrize(
    ("sizes", "drop_path_rate", "with_cp"),
    [((2, 2, 2), 0.0, False), ((3, 3, 1), 0.0, False), ((3, 2), 0.5, False), ((3, 2), 0.5, True)],
    ids=["even", "uneven", "drop path", "checkpointed"],
)
def test_tokens_are_told_apart_within_a_micro_batch(stage, sizes, drop_path_rate, with_cp):
    data = samples(stage, sum(sizes))
    options = dict(stage=stage, drop_path_rate=drop_path_rate, gather="full")
    # Each build leaves the generator in the same state.
    loss, expected = reference(build(**options), data, sizes)
    logged, gradients = step(build(**options, with_cp=with_cp), data, sizes[0])
    torch.testing.assert_close(logged["loss"], loss)
    assert_equal(gradients, expected)


def test_losses_of_tokens_are_averaged_by_size():
    data = samples(number=5)
    model = build()
    with torch.no_grad():
        parts = [
            model(**model.data_preprocessor(take(data, rows), True), mode="loss")
            for rows in (slice(0, 3), slice(3, 5))
        ]
    logged, _ = step(model, data, 3)
    for name in ("loss_denoise_text", "loss_denoise_joint_image"):
        torch.testing.assert_close(logged[name], parts[0][name] * 0.6 + parts[1][name] * 0.4)
    # and nothing else is logged than by a whole step, in the same order
    assert list(logged) == list(step(build(), data, 5)[0])


def test_a_batch_that_fits_is_a_plain_step():
    data = samples()
    model = build(drop_path_rate=0.5)
    torch.manual_seed(5)
    _, expected = step(model, data, 99)
    other = build(drop_path_rate=0.5)
    torch.manual_seed(5)
    optim_wrapper = recording(other)
    other.train_step(data, optim_wrapper)
    assert_equal(optim_wrapper.gradients, expected, 0)


def test_a_step_leaves_the_generator_where_its_number_of_micro_batches_says():
    states = []
    for rate in (0.0, 0.5):
        model = build(drop_path_rate=rate)
        torch.manual_seed(5)
        step(model, samples(), 2)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_bfloat16_agrees_with_its_plain_step():
    data = samples()
    _, expected = step(build(denoising=False), data, 6, BFloat16OptimWrapper)
    logged, gradients = step(build(denoising=False), data, 2, BFloat16OptimWrapper)
    assert logged["loss"].dtype == torch.float32
    names = [n for n in expected if expected[n].ndim > 1 and expected[n].norm() > 1e-2]
    assert len(names) > 20
    for name in names:
        error = (gradients[name] - expected[name]).norm() / expected[name].norm()
        assert error < 0.1, name


def test_a_retriever_is_fine_tuned_that_way_too():
    data = samples()
    del data["keeps"]

    def run(size):
        torch.manual_seed(1)
        modalities = {name: MODALITIES[name] for name in ("text", "image")}
        backbone = dict(arch=ARCH, modalities=modalities, img_size=32, final_norm=True)
        return step(randomise(OnePeaceRetriever(backbone, gather="full")).train(), data, size)

    (whole, expected), (parts, gradients) = run(6), run(4)
    assert_equal(parts, whole)
    assert_equal(gradients, expected)


def test_what_cannot_be_accumulated_is_refused():
    class Plain(torch.nn.Module):
        pass

    model = build()
    with pytest.raises(TypeError, match=r"Plain has no contrastive loss.*accumulative_counts"):
        accumulated_step(Plain(), samples(), recording(model), 2)
    twice = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=4)
    with pytest.raises(ValueError, match=r"accumulative_counts is 4, expected 1"):
        accumulated_step(model, samples(), twice, 2)
    with pytest.raises(ValueError, match=r"micro_batch_size is 0, expected 1 or more"):
        EndlessTrainLoop(None, None, max_iters=1, micro_batch_size=0)


def test_the_loop_calls_its_hooks_around_the_step():
    model, data, calls = build(), samples(), []
    loop = EndlessTrainLoop.__new__(EndlessTrainLoop)
    loop.micro_batch_size, loop._iter = 4, 7
    loop._runner = SimpleNamespace(
        model=model,
        optim_wrapper=recording(model),
        call_hook=lambda name, **kwargs: calls.append((name, kwargs)),
    )
    loop.run_iter(data)
    (before, first), (after, second) = calls
    assert (before, after, loop.iter) == ("before_train_iter", "after_train_iter", 8)
    assert first == dict(batch_idx=7, data_batch=data)
    assert second["batch_idx"] == 7
    assert "loss_text_image" in second["outputs"]


def _shard(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in (*model.backbone.layers, *model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    # Scalars cannot be sharded; so this one's gradient is averaged by hand.
    scale = model.logit_scale
    fully_shard(model, mesh=mesh, ignored_params={scale})

    def average(parameter):
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2

    scale.register_post_accumulate_grad_hook(average)
    return model


# Name -> wrapper, gather, samples of both processes, samples of a micro-batch.
CASES = {
    "ddp official": ("ddp", "official", 8, 2),
    "ddp full": ("ddp", "full", 8, 2),
    "fsdp official": ("fsdp", "official", 8, 2),
    "fsdp full": ("fsdp", "full", 8, 2),
    "plain": ("ddp", "full", 6, 3),
}


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    for name, (wrap, gather, number, micro_batch_size) in CASES.items():
        data = samples(number=number)
        data = take(data, slice(rank * number // 2, (rank + 1) * number // 2))
        model, exchanged = build(gather=gather, equal_texts_match=True), []
        wrapped = MMDistributedDataParallel(model) if wrap == "ddp" else _shard(model)
        if wrap == "ddp":
            wrapped.register_comm_hook(exchanged, _count_and_average)
        _, gradients = step(model, data, micro_batch_size, wrapped=wrapped)
        # Once each, whatever the buckets of the wrapper are.
        assert sum(exchanged) in (0, sum(x.numel() for x in gradients.values()))
        gradients = {n: getattr(g, "full_tensor", lambda g=g: g)() for n, g in gradients.items()}
        if rank == 0:
            torch.save(gradients, f"{folder}/{name}.pt")
    exit_distributed(0)


def _count_and_average(synchronised, bucket):
    synchronised.append(bucket.buffer().numel())
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0] / 2)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Name of a case -> gradients of one of two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    spawn(_rank, (str(folder),), 2)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_all_their_micro_batches(name, two_processes):
    _, gather, number, micro_batch_size = CASES[name]
    model = build(gather=gather, equal_texts_match=True)
    _, expected = step(model, samples(number=number), micro_batch_size)
    assert_equal(two_processes[name], expected)
