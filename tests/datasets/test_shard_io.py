import json

import pytest

from mmonepeace.datasets.shard_io import INDEX, count_samples, find_shards, read_samples
from tests.datasets.conftest import COUNTS, write_shard


def test_counts_come_from_the_index_or_from_the_shards(shard_folder, tmp_path, monkeypatch):
    paths = find_shards(str(shard_folder))
    assert count_samples(paths) == list(COUNTS)
    copies = [tmp_path / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    entries = [
        json.dumps({"shard": p.name, "samples": 100, "bytes": p.stat().st_size}) for p in copies
    ]
    (tmp_path / INDEX).write_text("\n".join([*entries[:-1], entries[-1][:-2]]))
    assert count_samples(copies) == [100] * 6 + [COUNTS[-1]], "an incomplete line does not count"
    copies[0].write_bytes(paths[5].read_bytes())
    assert count_samples(copies[:1]) == [COUNTS[5]], "not the file that the index lists"


def test_a_truncated_shard_gives_the_samples_that_it_has(shard_folder, tmp_path):
    path = tmp_path / "cut.tar"
    path.write_bytes((shard_folder / "002.tar").read_bytes()[: 5 * 1024 + 100])
    (count,) = count_samples([path])
    samples = list(read_samples(path, [1, 3, 10]))
    assert count <= 6
    assert [sample and sample["txt"] for sample in samples] == [b"8", b"10", None]
    path.write_text("not a tar")
    assert count_samples([path]) == [0]
    assert list(read_samples(path, [0])) == [None]


def test_shards_are_folders_braces_or_wildcards(shard_folder):
    def names(*patterns):
        return [path.name for path in find_shards(patterns, str(shard_folder))]

    assert names(".") == names("*.tar") == names("{000..006}.tar") == names("00[0-6].tar")
    assert names("003.tar", "00{1,3}.tar") == ["001.tar", "003.tar"]
    for pattern in ("007.tar", "{006..007}.tar", "x*.tar", "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"make_shards\.py"):
            names(pattern)


def test_metadata_is_not_a_sample(tmp_path):
    path = tmp_path / "a.tar"
    write_shard(path, {"__meta__/info": {"json": b"{}"}, "a": {"txt": b"x"}, "b": {"txt": b"y"}})
    assert count_samples([path]) == [2]
    assert [sample["txt"] for sample in read_samples(path, [0, 1])] == [b"x", b"y"]
