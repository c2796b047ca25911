import base64
import io
import json
import re
import shutil
import subprocess
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmonepeace.visualization import gallery
from mmonepeace.visualization.gallery import Entry, write_gallery
from mmonepeace.visualization.log_mel import log_mel
from tests.apis.conftest import write_data

VOID = {"meta", "link", "img", "input", "br"}
NASTY = """<b>&"'ü犬</b>"""


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.texts = defaultdict(list)  # class of the tag before -> texts
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        self.texts[self.tags[-1][1].get("class") if self.tags else None].append(data)

    def all(self, tag, **attributes):
        wanted = attributes.items()
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted)]


@pytest.fixture
def data(tmp_path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def results(data) -> list[Entry]:
    """Names that are markup, audio files of each kind, a long one, broken and missing files."""
    nasty = data / "images/deep" / '<d> & "é".png'
    soundfile.write(data / "audios/rare.aiff", np.sin(np.arange(8000) / 9), 8000)
    long = data / "audios/long & loud.wav"
    soundfile.write(long, 0.1 * np.ones(70 * 16000), 16000)
    return [
        Entry(0.9, "image", data / "images/a.png"),
        Entry(0.8, "image", nasty),
        Entry(0.7, "text", NASTY),
        Entry(0.6, "audio", data / "audios/x.wav"),
        Entry(0.5, "audio", data / "audios/y.flac"),
        Entry(0.45, "audio", data / "audios/z.ogg"),
        Entry(0.4, "audio", data / "audios/rare.aiff"),
        Entry(0.3, "audio", long),
        Entry(0.0, "image", data / "images/broken.png"),
        Entry(-0.25, "image", data / "images/gone.png"),
    ]


@pytest.fixture
def page_file(data, results) -> Path:
    query = [
        Entry(1, "text", NASTY),
        Entry(2, "image", str(data / "images/b.jpg")),
        Entry(-0.5, "audio", str(data / "audios/x.wav")),
    ]
    path = data / "pages/found.html"
    write_gallery(path, query, results, {"Checkpoint": "a<b>.pt", "k": "10"})
    return path


@pytest.fixture
def page(page_file) -> Page:
    return Page(page_file.read_text(encoding="utf-8"))


def decoded(uri: str) -> tuple[str, io.BytesIO]:
    kind, data = re.fullmatch(r"data:([a-z/]+);base64,([A-Za-z0-9+/=]+)", uri).groups()
    return kind, io.BytesIO(base64.b64decode(data, validate=True))


def test_nothing_is_fetched(page_file, page):
    html = page_file.read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"url\(|@import|srcset|<iframe|<object", html)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_images_are_thumbnails_with_sizes_and_words(page, data):
    images = [image for image in page.all("img") if image.get("class") != "mel"]
    assert len(images) == 3  # one in the query, two that can be read among the results
    for image in images:
        kind, file = decoded(image["src"])
        thumbnail = Image.open(file)
        thumbnail.load()
        assert (kind, thumbnail.format) == ("image/jpeg", "JPEG")
        assert thumbnail.size == (int(image["width"]), int(image["height"]))
        assert image["loading"] == "lazy"
    assert [i["alt"] for i in images] == ["b", "a", '<d> & "é"']


def test_large_images_are_made_smaller(tmp_path):
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.png")
    write_gallery(tmp_path / "p.html", [], [Entry(1, "image", tmp_path / "large.png")])
    html = (tmp_path / "p.html").read_text()
    (image,) = Page(html).all("img")
    assert (int(image["width"]), int(image["height"])) == (480, 240)
    assert "background:rgb(255 0 0)" in html  # the image's own edge
    assert len(html) < 20_000


def test_audio_files_play_and_only_long_ones_are_linked(page, data):
    players = page.all("audio")
    kinds = []
    for player in players:
        assert "controls" in player
        if player["src"].startswith("data:"):
            kind, file = decoded(player["src"])
            samples, _ = soundfile.read(file)
            assert len(samples) > 1000
            kinds.append(kind)
        else:
            assert unquote(player["src"]) == "../audios/long & loud.wav"
    assert kinds == ["audio/wav"] * 2 + ["audio/flac", "audio/ogg", "audio/wav"]
    assert len(page.all("img", **{"class": "mel"})) == len(players) == 6


def test_the_picture_of_a_clip_is_its_log_mel_spectrogram():
    clip = np.sin(np.arange(16_000) / 4) * np.linspace(0, 1, 16_000)
    (image,) = Page(gallery._picture(clip)).all("img")
    kind, file = decoded(image["src"])
    assert kind == "image/png"
    pixels = np.asarray(Image.open(file).convert("L")).astype(float)
    assert pixels.shape == (int(image["height"]), int(image["width"]))
    expected = log_mel(clip)
    assert expected.shape == pixels.shape
    assert np.corrcoef(pixels.ravel(), expected.ravel())[0, 1] > 0.95
    assert Page(gallery._picture(np.zeros(3))).all("img")  # shorter than a window, and silent


def test_words_and_names_are_shown_not_run(page, page_file, data):
    assert page.text.count(NASTY) >= 3  # title, query, result
    assert page.all("b") == [{}, {}]  # those of the footer
    assert "a<b>.pt" in page.text
    links = [a["href"] for a in page.all("a")]
    assert len(links) == 11  # all but the texts
    found = [(page_file.parent / unquote(link)).resolve() for link in links]
    assert data / 'images/deep/<d> & "é".png' in found
    assert not any(set(link) & set("<>&\"' ") for link in links)


def test_a_name_that_looks_like_a_script_is_a_file(tmp_path):
    name = "javascript:alert(1)#?.png"
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    write_gallery(tmp_path / "p.html", [], [Entry(1, "image", tmp_path / name)])
    (link,) = Page((tmp_path / "p.html").read_text()).all("a")
    assert link["href"] == "javascript%3Aalert%281%29%23%3F.png"


def test_a_name_of_bytes_that_are_no_text_is_written(tmp_path):
    path = Path(str(tmp_path / "half \udcff.png"))
    try:
        Image.new("RGB", (9, 9)).save(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    write_gallery(tmp_path / "p.html", [], [Entry(1, "image", path)])
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.all("a")[0]["href"] == "half%20%FF.png"
    assert len(page.all("img")) == 1


def test_scores_ranks_weights_and_facts_are_shown(page):
    assert page.texts["rank"] == [str(rank) for rank in range(1, 11)]
    assert page.texts["score"][::9] == ["0.900", "\u22120.250"]
    assert page.texts["weight"][:3] == ["\u00d7 1", "\u00d7 2", "\u00d7 0.5"]
    assert "10 matches" in page.text
    widths = [a["style"] for a in page.all("i")]
    assert widths[0] == "width:100.0%"
    assert widths[5] == "width:50.0%"
    assert widths[-2:] == ["width:0.0%"] * 2
    assert [a["aria-label"] for a in page.all("span", role="img")] == ["plus", "minus"]


def test_unreadable_files_have_a_card_that_says_why(page):
    assert page.text.count("not an image of a known format") == 1
    assert "gone.png: no such file" in page.text


def test_filters_are_for_several_modalities_only(page, tmp_path):
    assert [r["id"] for r in page.all("input")] == ["show-all", "show-image", "show-text", "show-audio"]  # fmt: skip
    write_gallery(tmp_path / "p.html", [], [Entry(1, "text", "a"), Entry(1, "text", "b")])
    assert Page((tmp_path / "p.html").read_text()).all("input") == []


PROBE = """<script>
// Time is virtual: ticks give the decoders real time, until all is found.
const ticks = setInterval(() => {}, 1);
addEventListener("load", async () => {
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map(image => image.decode()));
  const ready = player => new Promise(done => {
    player.addEventListener("loadedmetadata", () => done(player.duration));
    player.addEventListener("error", () => done(-1));
    player.preload = "metadata";
    player.load();
  });
  const seconds = await Promise.all([...document.querySelectorAll("audio")].map(ready));
  document.getElementById("show-text").click();
  const shown = [...document.querySelectorAll(".card")].filter(card => card.offsetHeight).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  const drawn = images.filter(image => image.alt.startsWith("spectrogram"));
  const pixels = images.filter(image => !drawn.includes(image)).map(image => image.naturalWidth);
  const spectrograms = drawn.filter(image => image.naturalWidth).length;
  const found = {pixels, spectrograms, seconds, shown, wide};
  clearInterval(ticks);
  document.body.dataset.found = JSON.stringify(found);
});
</script></body>"""


def test_a_browser_shows_everything(page_file):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if not browser:
        pytest.skip("no chromium or chrome is installed")
    probed = page_file.with_name("probed.html")
    probed.write_text(page_file.read_text(encoding="utf-8").replace("</body>", PROBE), "utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    command += [f"--user-data-dir={page_file.parent / 'profile'}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=1000000", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    (body,) = Page(done.stdout).all("body")
    found = json.loads(body["data-found"])
    assert found["pixels"] == [60, 60, 60]
    assert found["spectrograms"] == 6
    assert found["seconds"] == pytest.approx([0.25, 0.25, 7000 / 16000, 10000 / 16000, 1, 70], abs=0.05)  # fmt: skip
    assert found["shown"] == 1
    assert not found["wide"]
