"""Where published files are found."""

from mmonepeace import official_release


def test_the_folder_here_comes_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert official_release.find_file("one-peace.pt") is None
    here, cache = official_release.folders()
    for folder in (cache, here):
        folder.mkdir(parents=True)
        (folder / "one-peace.pt").write_bytes(b"")
        assert official_release.find_file("one-peace.pt") == folder / "one-peace.pt"


def test_the_cache_is_below_the_home_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(official_release.folders()[1]) == "/home/someone/.cache/mmonepeace/checkpoints"
