"""Manifests to shards, and back through ShardDataset."""

import hashlib
import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from mmonepeace.datasets import ShardDataset
from mmonepeace.datasets.shard_io import INDEX, count_samples, find_shards, read_samples
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import make_shards


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["image\tcaption"]
    for i in range(25):
        picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{i}.PNG", "png")
        lines.append(f"{i}.PNG\tdog no. {i}")
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(lines))
    return path


def run(monkeypatch, manifest, *options):
    command = ["make_shards", str(manifest), str(manifest.parent / "out"), "--shard-size", "10"]
    command += ["--columns", "image=image", "text=caption", *options]
    monkeypatch.setattr("sys.argv", command)
    return make_shards.run()


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_every_row_comes_back_unchanged(manifest, monkeypatch):
    assert run(monkeypatch, manifest) == 0
    dataset = ShardDataset(
        str(manifest.parent / "out"), ["image", "text"], batch_size=1, streams=1, buffer_size=1
    )
    samples = {s["text"]: s["img"] for s in itertools.islice(dataset, 25)}
    assert samples == {
        f"dog no. {i}": (manifest.parent / f"{i}.PNG").read_bytes() for i in range(25)
    }
    assert dataset.total == 25


def test_rows_are_shuffled_unless_asked_not_to_be(manifest, monkeypatch):
    def keys():
        paths = find_shards(str(manifest.parent / "out"))
        return [
            int(s["__key__"])
            for path in paths
            for s in read_samples(path, range(count_samples([path])[0]))
        ]

    run(monkeypatch, manifest)
    assert sorted(keys()) == list(range(25))
    assert keys() != list(range(25))
    with pytest.raises(make_shards.ShardError, match="other options"):
        run(monkeypatch, manifest, "--keep-order")
    (manifest.parent / "out" / INDEX).unlink()
    with pytest.raises(make_shards.ShardError, match="other shards"):
        run(monkeypatch, manifest, "--keep-order")
    for path in (manifest.parent / "out").iterdir():
        path.unlink()
    run(monkeypatch, manifest, "--keep-order")
    assert keys() == list(range(25))


def test_a_stopped_run_goes_on_to_the_same_bytes(manifest, monkeypatch):
    run(monkeypatch, manifest)
    out = manifest.parent / "out"
    whole = digests(out)
    # As if stopped while the line of the second shard was written.
    lines = (out / INDEX).read_text().splitlines(keepends=True)
    (out / INDEX).write_text("".join(lines[:2]) + lines[2][:20])
    (out / "000002.tar").unlink()
    first = (out / "000000.tar").stat().st_mtime_ns
    assert run(monkeypatch, manifest) == 0
    assert digests(out) == whole
    assert (out / "000000.tar").stat().st_mtime_ns == first


def test_missing_files_are_left_out_and_told(manifest, monkeypatch, capsys):
    (manifest.parent / "7.PNG").unlink()
    for _ in range(2):  # the second run makes nothing, and says the same
        assert run(monkeypatch, manifest) == 1
        assert "24 samples in 3 shards" in (out := capsys.readouterr().out)
        assert "1 left out" in out
        assert "7.PNG" in out


def test_files_that_cannot_be_read_back_are_refused(manifest, monkeypatch):
    manifest.write_text("image\tcaption\na.tiff\ta dog\n")
    with pytest.raises(make_shards.ShardError, match=r"\.tiff is not read as image; convert"):
        run(monkeypatch, manifest)
    assert not (manifest.parent / "out").exists()
