import io
import json
import tarfile

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
        json.dumps({"shard": p.name, "samples": 3, "bytes": p.stat().st_size}) for p in copies
    ]
    (tmp_path / INDEX).write_text("\n".join([*entries[:-1], entries[-1][:-2]]))
    assert count_samples(copies) == [3] * 6 + [COUNTS[-1]], "an incomplete line does not count"
    copies[0].write_bytes(paths[5].read_bytes())
    assert count_samples(copies[:1]) == [COUNTS[5]], "not the file that the index lists"


def test_a_truncated_shard_gives_the_samples_that_it_has(shard_folder, tmp_path):
    path = tmp_path / "cut.tar"
    path.write_bytes((shard_folder / "002.tar").read_bytes()[: 5 * 1024 + 100])
    (count,) = count_samples([path])
    samples = list(read_samples(path, [1, 3, 10]))
    assert count <= 6
    assert [sample["txt"] for sample in samples[:2]] == [b"8", b"10"]
    assert "has only 5 samples" in str(samples[2])
    path.write_text("not a tar")
    assert count_samples([path]) == [0]
    assert "has only 0 samples" in str(*read_samples(path, [0]))
    path.unlink()
    assert ["No such file" in str(gone) for gone in read_samples(path, [0, 5])] == [True, True]


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


def write(path, *members):
    """A shard of members (name, content) in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (count,) = count_samples([path])
    return list(read_samples(path, range(count)))


def test_a_repeated_member_costs_its_sample_only(tmp_path):
    names = ["1.png", "1.txt", "1.png", "2.png", "2.PNG", "2.txt", "3.png", "3.txt"]
    first, second, third = write(tmp_path / "a.tar", *((name, name.encode()) for name in names))
    assert "1.png is more than one member" in str(first["png"])
    assert "2.PNG and 2.png is more than one member" in str(second["png"])
    assert [s["txt"] for s in (first, second, third)] == [b"1.txt", b"2.txt", b"3.txt"]
    assert third["png"] == b"3.png"


def test_companions_of_macos_and_hidden_files_are_no_members(tmp_path):
    names = ["train/._1.png", "train/1.png", "train/._1.txt", "train/1.txt", "train/.DS_Store"]
    names += ["__MACOSX/train/._1.png", "._train", "train/readme"]
    (sample,) = write(tmp_path / "a.tar", *((name, name.encode()) for name in names))
    assert sample["__key__"] == "train/1"
    assert (sample["png"], sample["txt"]) == (b"train/1.png", b"train/1.txt")
    assert set(sample) == {"__key__", "__scattered__", "png", "txt"}


def test_members_that_are_sorted_by_type_are_joined(tmp_path):
    names = [f"{i}.{suffix}" for suffix in ("png", "txt") for i in range(5)]
    samples = write(tmp_path / "a.tar", *((name, name.encode()) for name in names))
    assert [(s["png"], s["txt"]) for s in samples] == [
        (f"{i}.png".encode(), f"{i}.txt".encode()) for i in range(5)
    ]


def test_keys_may_repeat_in_joined_shards_but_members_are_never_mixed(tmp_path):
    names = ["1.png", "1.txt", "2.png", "3.txt", "1.txt", "1.png"]
    contents = [(name, f"{i} {name}".encode()) for i, name in enumerate(names)]
    samples = write(tmp_path / "a.tar", *contents)
    assert [s.get("txt") for s in samples] == [b"1 1.txt", None, b"3 3.txt", b"4 1.txt"]
    assert [s["__scattered__"] for s in samples] == [True, False, False, True]


@pytest.mark.parametrize(
    "line",
    [
        b"junk\n",
        b"\xff\xfe\n",
        b"[" * 9999 + b"\n",
        b"[1]\n",
        b'{"shard": "002.tar", "samples": 1e9, "bytes": SIZE}\n',
        b'{"shard": "002.tar", "samples": 1000000000, "bytes": SIZE}\n',
        b'{"shard": "002.tar", "samples": -1, "bytes": SIZE}\n',
        b'{"shard": "002.tar", "samples": true, "bytes": SIZE}\n',
        b'{"shard": "002.tar", "bytes": SIZE}\n',
        b'{"shard": ["002.tar"], "samples": 1, "bytes": SIZE}\n',
        b'{"shard": "002.tar", "samples": "20", "bytes": SIZE}\n',
    ],
)
def test_an_index_that_cannot_be_right_is_not_believed(line, shard_folder, tmp_path):
    path = tmp_path / "002.tar"
    path.write_bytes((shard_folder / "002.tar").read_bytes())
    (tmp_path / INDEX).write_bytes(line.replace(b"SIZE", str(path.stat().st_size).encode()))
    assert count_samples([path]) == [COUNTS[2]]
