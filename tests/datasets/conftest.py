"""Shards for tests."""

import io
import itertools
import tarfile

import pytest

COUNTS = (7, 0, 20, 1, 15, 30, 11)


def write_shard(path, samples):
    """A shard of {key: {suffix: content}}."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory):
    """Shards of `COUNTS` samples; the texts are the numbers of the samples."""
    folder = tmp_path_factory.mktemp("shards")
    numbers = itertools.count()
    for i, count in enumerate(COUNTS):
        samples = {f"{n:05d}": {"txt": str(n).encode()} for n in itertools.islice(numbers, count)}
        write_shard(folder / f"{i:03d}.tar", samples)
    return folder
