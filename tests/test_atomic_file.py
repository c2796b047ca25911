import errno

import pytest
import torch

from mmonepeace.atomic_file import atomic_file, atomic_files


def write(path, text, stop=False, **options):
    with atomic_file(path, **options) as temporary:
        temporary.write_text(text)
        if stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, dict(concurrent=True), dict(durable=False)])
def test_a_file_is_complete_or_what_it_was(tmp_path, options):
    path = tmp_path / "file.txt"
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", stop=True, **options)
    assert not list(tmp_path.iterdir())
    write(path, "first", **options)
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", stop=True, **options)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["first"]


def test_the_next_run_overwrites_what_a_killed_one_left(tmp_path):
    with atomic_file(tmp_path / "file.txt") as temporary:
        leftover = temporary
        temporary.write_text("x")
    leftover.write_text("half")
    write(tmp_path / "file.txt", "complete")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["complete"]


def test_writers_of_the_same_file_do_not_meet(tmp_path, monkeypatch):
    path, names = tmp_path / "file.txt", set()
    for pid in (1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        with atomic_file(path, concurrent=True) as temporary:
            names.add(temporary.name)
            temporary.write_text(str(pid))
    assert len(names) == 2
    assert path.read_text() == "2"


def test_an_old_index_never_names_new_files(tmp_path):
    first, blocked, index = (tmp_path / name for name in ("a", "b", "index.json"))
    index.write_text("old")
    blocked.mkdir()

    def write_all():
        with atomic_files([first, blocked, index]) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")

    with pytest.raises(OSError, match="b"):
        write_all()
    assert list(tmp_path.iterdir()) == [blocked]


def test_a_full_disk_is_named_even_where_torch_hides_it(tmp_path):
    (tmp_path / "file.pth").write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match="No space left") as error,
        atomic_file(tmp_path / "file.pth") as temporary,
        temporary.open("wb") as file,
    ):
        torch.save({"x": torch.zeros(9)}, Full(file, full))
    assert error.value.filename == str(tmp_path / "file.pth")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


class Full:
    """A file on a disk that is full."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def write(self, data):
        raise self.error

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_device_is_written_as_it_is(capfd):
    with atomic_file("/dev/stdout") as temporary:
        temporary.write_text("x")
    assert capfd.readouterr().out == "x"


@pytest.mark.parametrize("durable", [True, False])
def test_only_durable_files_wait_for_the_disk(tmp_path, monkeypatch, durable):
    flushed = []
    monkeypatch.setattr("os.fsync", flushed.append)
    write(tmp_path / "file.txt", "x", durable=durable)
    assert len(flushed) == (2 if durable else 0)  # the file, and the name in its folder
