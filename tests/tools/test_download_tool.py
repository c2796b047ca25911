"""The official files: their list, and downloads from a server of the test."""

import hashlib
import socket
import sys
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmonepeace.exit_status import UserError
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
from mmonepeace.commands import download as tool
from mmonepeace.official_release import OfficialFile, markdown_table

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT from where it is asked to; each answer ends after so many bytes."""

    limits = ()
    asked = ()
    kind = "application/octet-stream"

    def do_GET(self):
        start = self.headers.get("Range", "bytes=0-")
        Handler.asked = (*Handler.asked, start)
        begin = int(start.removeprefix("bytes=").rstrip("-"))
        if self.path == "/gone":
            self.send_error(404)
            return
        if begin >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", Handler.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit, *rest = Handler.limits or (len(body),)
        Handler.limits = tuple(rest)
        self.wfile.write(body[:limit])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Handler, "limits", ())
    monkeypatch.setattr(Handler, "asked", ())
    monkeypatch.setattr(Handler, "kind", "application/octet-stream")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def official(server, digest=DIGEST, path="file"):
    return OfficialFile("file.pt", f"{server}/{path}", "a file", "a model", digest)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["download", *map(str, arguments)])
    return tool.main()


def test_readme_has_the_table_of_the_list():
    assert markdown_table() in (ROOT / "README.md").read_text()


def test_names_are_unique_and_urls_end_with_them():
    names = [file.name for file in tool.FILES]
    assert len(set(names)) == len(names) == 21
    assert all(f.url.replace("%2B", "+").endswith(f"/{f.name}") for f in tool.FILES)


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert tool.download(official(server), tmp_path) == DIGEST
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]
    assert len(Handler.asked) == 1


def test_a_connection_that_breaks_is_resumed(server, tmp_path):
    Handler.limits = (300_000, 200_000)
    assert tool.download(official(server), tmp_path, wait=0) == DIGEST
    assert Handler.asked == ("bytes=0-", "bytes=300000-", "bytes=500000-")


def test_a_stopped_download_is_resumed(server, tmp_path):
    (tmp_path / "file.pt.part").write_bytes(CONTENT[:1000])
    assert tool.download(official(server), tmp_path) == DIGEST
    assert Handler.asked == ("bytes=1000-",)


@pytest.mark.parametrize(("part", "requests"), [(CONTENT, 1), (CONTENT + b"of another version", 2)])
def test_a_part_that_needs_nothing_more_is_complete_or_of_another_file(
    part, requests, server, tmp_path
):
    (tmp_path / "file.pt.part").write_bytes(part)
    assert tool.download(official(server), tmp_path) == DIGEST
    assert len(Handler.asked) == requests


def test_a_wrong_checksum_is_refused_and_nothing_stays(server, tmp_path):
    with pytest.raises(UserError, match=f"had SHA-256 {DIGEST}, expected 0{{64}}"):
        tool.download(official(server, "0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_not_the_file(server, tmp_path):
    Handler.kind = "text/html"
    with pytest.raises(ConnectionError, match="a web page came"):
        tool.download(official(server), tmp_path, tries=2, wait=0)
    assert len(Handler.asked) == 2
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_server_lacks_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(ConnectionError, match="the server says 404"):
        tool.download(official(server, path="gone"), tmp_path)
    assert len(Handler.asked) == 1


def test_a_full_disk_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, file\.pt needs 0\.0 GB more"):
        tool.download(official(server), tmp_path)


def test_without_a_network_it_says_what_to_put_where(tmp_path, monkeypatch, capsys):
    def no_network(*_, **__):
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    assert run(monkeypatch, "one-peace.pt", "finetune_refcoco+.pt", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Temporary failure in name resolution" in error
    for name in ("one-peace.pt", "finetune_refcoco+.pt"):
        url = next(file.url for file in tool.FILES if file.name == name)
        assert f"{url} to {tmp_path / name}" in error


def test_names_are_checked_and_listed(monkeypatch, capsys):
    assert run(monkeypatch, "one-piece.pt") == 2
    assert "one-piece.pt is no official file. There are one-peace.pt" in capsys.readouterr().err
    assert run(monkeypatch, "--list") == 0
    out = capsys.readouterr().out
    assert all(file.name in out and file.url in out for file in tool.FILES)
