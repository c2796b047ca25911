import io
import itertools
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from mmonepeace.datasets import ShardDataset, shards
from mmonepeace.datasets.broken_samples import TooManyBrokenError
from mmonepeace.datasets.shard_io import INDEX
from mmonepeace.datasets.shards import shuffle_in_buffer
from tests.datasets.conftest import COUNTS, write_shard

TOTAL = sum(COUNTS)


def build(shard_folder, rank=0, world_size=1, batch_size=3, streams=4, **options):
    options = dict(modalities=["text"], buffer_size=5) | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "get_dist_info", lambda: (rank, world_size))
        return ShardDataset(str(shard_folder), batch_size=batch_size, streams=streams, **options)


def batches(dataset, count, workers=0):
    """The first batches, as lists of (number of the sample, its seed)."""
    options = dict(multiprocessing_context="fork") if workers else {}
    loader = DataLoader(
        dataset, dataset.batch_size, num_workers=workers, collate_fn=list, **options
    )
    return [
        [(int(sample["text"]), sample["seed"]) for sample in batch]
        for batch in itertools.islice(loader, count)
    ]


@pytest.mark.parametrize(("world_size", "streams"), [(1, 1), (1, 4), (2, 4), (3, 2), (7, 8)])
def test_processes_and_streams_divide_each_epoch_without_repeats(shard_folder, world_size, streams):
    size = TOTAL // (world_size * streams)
    missed = []
    for epoch in range(3):
        seen = Counter()
        for rank in range(world_size):
            dataset = build(shard_folder, rank, world_size, streams=streams, batch_size=1)
            dataset.skip(epoch * size * streams)
            for ((number, seed),) in batches(dataset, size * streams):
                assert seed == (0, epoch, number)
                seen[number] += 1
        assert set(seen.values()) == {1}
        assert len(seen) == size * world_size * streams
        missed.append(set(range(TOTAL)) - set(seen))
    if TOTAL % (world_size * streams):
        assert missed[0] != missed[1], "not always the same are left out"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_nothing(shard_folder, workers):
    assert batches(build(shard_folder), 20, workers) == batches(build(shard_folder), 20)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 2, 7, 28, 100])
def test_a_resumed_run_goes_on_with_exactly_the_rest(shard_folder, start, workers):
    whole = batches(build(shard_folder, 1, 2), start + 12)
    dataset = build(shard_folder, 1, 2)
    dataset.skip(start * dataset.batch_size)
    assert batches(dataset, 12, workers) == whole[start:]


def test_order_depends_on_the_seed_and_differs_between_epochs(shard_folder):
    first, second = (
        [n for batch in batches(build(shard_folder, streams=1, batch_size=1, seed=seed), 2 * TOTAL)
         for n, _ in batch]
        for seed in (0, 1)
    )  # fmt: skip
    assert sorted(first[:TOTAL]) == sorted(first[TOTAL:]) == list(range(TOTAL))
    assert first[:TOTAL] != first[TOTAL:]
    assert first != second
    assert first[:TOTAL] != sorted(first[:TOTAL])


@pytest.mark.parametrize(("count", "size"), [(0, 5), (1, 5), (5, 5), (100, 1), (100, 10)])
def test_a_buffer_gives_everything_once_and_nothing_too_early(count, size):
    order = shuffle_in_buffer(count, size, np.random.default_rng(0))
    assert sorted(order) == list(range(count))
    assert (order < np.arange(count) + size).all()
    if count > size > 1:
        assert (order != np.arange(count)).mean() > 0.5


def test_members_reach_the_pipeline_as_they_are(tmp_path):
    image, audio = io.BytesIO(), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "png")
    soundfile.write(audio, pixels.ravel() / 255, 16_000, format="flac")
    text = json.dumps({"caption": "a dog"}).encode()
    members = {"PNG": image.getvalue(), "json": text, "flac": audio.getvalue(), "cls": b"7"}
    write_shard(tmp_path / "a.tar", {"x/1": members})
    pipeline = [
        dict(type="mmonepeace.LoadImage", size=(20, 30)),
        dict(type="mmonepeace.LoadAudio"),
        dict(type="mmonepeace.PackModalities"),
    ]
    config = dict(
        type="mmonepeace.ShardDataset", shards="*.tar", data_root=str(tmp_path), streams=1,
        modalities=["image", "text", "audio"], text_key="caption", batch_size=1, pipeline=pipeline,
    )  # fmt: skip
    sample = next(iter(DATASETS.build(config)))
    assert np.array_equal(sample["inputs"]["image"].permute(1, 2, 0), pixels)
    assert sample["inputs"]["audio"].shape == (16_000,)
    meta = dict(sample["data_samples"].metainfo_items())
    sizes = {"ori_shape": (20, 30), "scale_factor": (1, 1)}
    assert meta == {"sample_idx": 0, "text": "a dog", "key": "x/1", **sizes}


@pytest.fixture
def broken_folder(tmp_path):
    """Sixty samples: three broken in different ways, and two lost with the end of a shard."""
    samples = {f"{n:02d}": {"txt": str(n).encode(), "json": b'{"t": "x"}'} for n in range(60)}
    samples["05"] = {"json": b"{}"}
    samples["06"]["txt"] = b" "
    samples["07"]["txt"] = b"\xff"
    items = list(samples.items())
    for i in range(3):
        write_shard(tmp_path / f"{i}.tar", dict(items[20 * i : 20 * i + 20]))
    path = tmp_path / "2.tar"
    path.write_bytes(path.read_bytes()[: 18 * 2048 + 300])
    entry = {"shard": path.name, "samples": 20, "bytes": path.stat().st_size}
    (tmp_path / INDEX).write_text(json.dumps({"source": {}}) + "\n" + json.dumps(entry) + "\n")
    return tmp_path


def test_broken_samples_are_replaced_from_a_later_batch(broken_folder):
    options = dict(max_broken=0.2, streams=2, batch_size=4)
    dataset = build(broken_folder, **options)
    assert dataset.total == 60
    whole = batches(dataset, 40, workers=2)
    assert dataset.broken.counts == {"missing": 3, "text": 2}
    assert dataset.broken.seen == 60
    numbers = {number for batch in whole for number, _ in batch}
    assert numbers == set(range(60)) - {5, 6, 7, 58, 59}
    for batch in whole:
        assert len({number for number, _ in batch}) == 4, "no sample twice in a batch"
    for start in range(1, 16):
        resumed = build(broken_folder, **options)
        resumed.skip(4 * start)
        assert batches(resumed, 16) == whole[start : start + 16]


def test_too_many_broken_samples_end_the_run(broken_folder):
    with pytest.raises(TooManyBrokenError, match=r"The first: \d+ of .*\d\.tar"):
        batches(build(broken_folder, max_broken=0.05, streams=2), 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(modalities=["video"]), "choose from"),
        (dict(modalities=[]), "choose from"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(streams=85), "84 samples are too few for 85 streams"),
    ],
)
def test_impossible_options_are_refused(shard_folder, options, message):
    with pytest.raises(ValueError, match=message):
        build(shard_folder, **options)


def test_what_cannot_be_divided_or_resumed_is_refused(shard_folder, monkeypatch):
    monkeypatch.setattr(shards, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=3))
    with pytest.raises(ValueError, match="4 streams cannot be divided among 3 workers"):
        next(iter(build(shard_folder)))
    with pytest.raises(ValueError, match="4 samples are not a multiple of the batch size 3"):
        build(shard_folder).skip(4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_config_of_a_data_loader_builds_it(shard_folder, workers):
    def pack(record):
        return {"inputs": {"text": record["text"]}}

    config = dict(
        dataset=dict(
            type="mmonepeace.ShardDataset", shards=str(shard_folder), modalities=["text"],
            batch_size=3, pipeline=[pack],
        ),
        sampler=None, batch_size=3, num_workers=workers, collate_fn=dict(type="pseudo_collate"),
    )  # fmt: skip
    loader = Runner.build_dataloader(config, seed=0)
    texts = [batch["inputs"]["text"] for batch in itertools.islice(loader, 4)]
    dataset = build(shard_folder, buffer_size=1000)
    assert [list(map(int, t)) for t in texts] == [[n for n, _ in b] for b in batches(dataset, 4)]
