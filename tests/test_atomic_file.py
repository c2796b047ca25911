import pytest

from mmonepeace.atomic_file import atomic_file, atomic_files


def write(path, text, stop=False, **options):
    with atomic_file(path, **options) as temporary:
        temporary.write_text(text)
        if stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_file_is_complete_or_what_it_was(tmp_path, concurrent):
    path = tmp_path / "file.txt"
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", stop=True, concurrent=concurrent)
    assert not list(tmp_path.iterdir())
    write(path, "first", concurrent=concurrent)
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", stop=True, concurrent=concurrent)
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
