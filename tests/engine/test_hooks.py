"""Hooks; those of checkpoints with a retriever that MMEngine's runner trains on a table of pairs."""

import csv
import random
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.datasets import tokenizer
from mmonepeace.engine import StepSeedHook, ThroughputHook
from tests.conftest import TINY

CAPTIONS = ["a red square", "a green square", "a blue square", "a grey square"]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
    rows = []
    for i, (caption, colour) in enumerate(zip(CAPTIONS, colours, strict=True)):
        Image.new("RGB", (40, 30 + i), colour).save(tmp_path / f"{i}.png")
        soundfile.write(tmp_path / f"{i}.wav", rng.normal(size=9000 + 900 * i) / 9, 16_000)
        rows.append((f"{i}.png", caption, f"{i}.wav"))
    with open(tmp_path / "train.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("image", "caption", "clip"), *rows])
    tokenizer.train(CAPTIONS, 300).save(tmp_path / "tokenizer.json")
    return tmp_path


def config(data, padding=None, **options):
    return dict(
        model=dict(
            type="mmonepeace.OnePeaceRetriever",
            equal_texts_match=True,
            backbone=dict(
                arch=TINY,
                img_size=32,
                final_norm=True,
                layer_scale_init=0.1,
                modalities=dict(
                    text=dict(vocab_size=300, num_buckets=8),
                    image={},
                    audio=dict(feature_dim=8, pos_groups=4, padding=padding),
                ),
            ),
        ),
        train_dataloader=dict(
            batch_size=4,
            sampler=dict(type="mmonepeace.EndlessSampler"),
            dataset=dict(
                type="mmonepeace.PairDataset",
                data_root=str(data),
                ann_file="train.tsv",
                columns=dict(image="image", text="caption", audio="clip"),
                pipeline=[
                    dict(type="mmonepeace.LoadImage", size=32),
                    dict(type="mmonepeace.Tokenize", tokenizer=str(data / "tokenizer.json")),
                    dict(type="mmonepeace.LoadAudio"),
                    dict(type="mmonepeace.PackModalities"),
                ],
            ),
        ),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=3e-3)),
        train_cfg=dict(type="mmonepeace.EndlessTrainLoop", max_iters=20),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=20)),
        custom_hooks=[dict(type="mmonepeace.CheckpointMetadataHook")],
        work_dir=str(data / "run"),
        log_level="ERROR",
        randomness=dict(seed=0),
        **options,
    )


@pytest.mark.parametrize("padding", [None, "compat"])
def test_a_runner_trains_a_retriever_and_its_checkpoint_says_how(data, padding):
    runner = Runner(**config(data, padding), experiment_name=f"train_{padding}")
    first = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    history = runner.message_hub.get_scalar("train/loss")
    losses = history.data[0]
    assert losses[-3:].mean() < losses[:3].mean()
    assert not torch.equal(first["projections.audio.weight"], runner.model.projections["audio"].weight)  # fmt: skip
    path = data / "run/iter_20.pth"
    assert checkpoint.read(path)[1]["audio_padding"] == (padding or "masked")

    # The file alone is enough to embed with it.
    embedder = Embedder.from_checkpoint(path, "cpu", tokenizer=data / "tokenizer.json")
    assert embedder.model.backbone.metadata()["audio_padding"] == (padding or "masked")
    runner.model.eval()
    loader = runner.build_dataloader(config(data, padding)["train_dataloader"])
    batch = runner.model.data_preprocessor(next(iter(loader)))
    with torch.no_grad():
        expected = runner.model(batch["inputs"])["image"]
    images = [s.metainfo["img_path"] for s in batch["data_samples"]]
    np.testing.assert_allclose(embedder.encode_image(images), expected, atol=1e-5)


def test_starting_from_a_checkpoint_follows_its_padding(data):
    Runner(**config(data, "compat"), experiment_name="first").train()
    options = config(data, load_from=str(data / "run/iter_20.pth"))
    runner = Runner(**options, experiment_name="second")
    runner.load_or_resume()
    assert runner.model.backbone.metadata()["audio_padding"] == "compat"


def draws(seed, rank, step):
    StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, rank=rank, iter=step), step)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_randomness_of_a_step_depends_on_nothing_before_it():
    first = draws(7, 0, 100)
    torch.rand(1000), np.random.rand(5), random.random()
    assert draws(7, 0, 100) == first
    others = {draws(8, 0, 100), draws(7, 1, 100), draws(7, 0, 101)}
    assert len({first, *others}) == 4


def test_throughput_is_the_pairs_of_a_step_by_its_time():
    hub = MessageHub.get_instance("throughput")
    for seconds in (9.0, 1.0, 3.0):
        hub.update_scalar("train/time", seconds)
    runner = SimpleNamespace(message_hub=hub)
    ThroughputHook(2).after_train_iter(runner, 0, {"data_samples": [None] * 8})
    assert hub.get_scalar("train/pairs_per_second").current() == 4
