"""The page of `mmonepeace demo`: what each form gives, and what is refused."""

import re
import socket
from html import escape

import numpy as np
import pytest

from mmonepeace import apis, checkpoint
from mmonepeace.apis.dense_prediction import predict_dense
from mmonepeace.exit_status import UserError
from mmonepeace.page import Page, open_models, server
from mmonepeace.page.abilities import Ask, HeatMap, Search, Segment
from tests.page.conftest import NASTY


def get(client, url, host="127.0.0.1:7860", **options):
    return client.get(url, base_url=f"http://{host}", **options)


def scores(html):
    return [
        float(x.replace("\u2212", "-")) for x in re.findall(r'class="score"[^>]*>([^<]+)<', html)
    ]


def test_each_model_becomes_what_it_can_do(abilities, client):
    kinds = [(type(a), a.title) for a in abilities]
    assert kinds == [
        (Search, "Search"), (HeatMap, "Heat map"), (Segment, "Segment"), (Ask, "Answer a question"),
        (Ask, "Find a phrase"), (Ask, "Classify"), (Ask, "Compare two images"),
        (Ask, "Answer a question"),
    ]  # fmt: skip
    page = get(client, "/")
    assert page.status_code == 200
    assert page.text.count('role="tabpanel"') == 8
    nonce = re.search(r'<script nonce="([^"]+)">', page.text)[1]
    assert f"script-src 'nonce-{nonce}'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_a_checkpoint_is_verified_once(folder, monkeypatch):
    verified = []
    verify = checkpoint.reading.verify_archive
    monkeypatch.setattr(
        checkpoint.reading, "verify_archive", lambda path: verified.append(path) or verify(path)
    )
    for name in ("seg", "vqa"):
        open_models([folder / name], device="cpu")
    assert [path.parent.name for path in verified] == ["seg", "vqa"]


def test_search_finds_what_the_api_finds(folder, abilities, run, image, sound):
    embedder = apis.Embedder.from_checkpoint(folder / "encoder/model.safetensors", device="cpu")
    query = apis.combine(
        embedder.encode_image([image])[0], embedder.encode_text(["rain"])[0],
        embedder.encode_audio([sound])[0],
    )  # fmt: skip
    index = apis.EmbeddingIndex.load(folder / "index.safetensors")
    for among, view in (("any", index), ("audio", index.select("audio"))):
        status, html = run("Search", text="rain", image=image, audio=sound, among=among, top_k="3")
        assert status == 200, html
        assert scores(html) == [round(s, 3) for s, _ in view.search(query, 3)]
    assert html.count("<audio") == 3
    assert run("Search", text="")[0] == 400
    assert run("Search", text="a", among="video")[0] == 400
    for count in ("0", "101", "x", "²", "9" * 5000):
        assert run("Search", text="a", top_k=count)[0] == 400


def test_captions_and_file_names_are_escaped(run, client, sound):
    _, html = run("Search", text="rain", among="any", top_k="100")
    assert NASTY not in html
    assert escape(NASTY) in html
    assert "&lt;d&gt; &amp; &quot;é&quot;.png" in html
    status, html = run("Classify", audio=sound)
    assert status == 200
    assert NASTY not in html
    assert escape(NASTY) in html


def test_files_of_the_index_are_sent_by_row_alone(folder, client):
    index = apis.EmbeddingIndex.load(folder / "index.safetensors")
    view = index.select("audio")
    for row in range(len(view.items)):
        done = get(client, f"/item/audio/{row}")
        assert done.data == view.content(view.items[row]).read_bytes()
        assert done.mimetype.startswith("audio/")
    texts = index.select("text")
    assert get(client, f"/item/text/{len(texts.items) - 1}").status_code == 404
    for url in ("/item/audio/99", "/item/any/-1", "/item/x/0", "/item/any/..%2f..%2fetc%2fpasswd"):
        assert get(client, url).status_code == 404
    part = get(client, "/item/audio/0", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.data) == (206, view.content(view.items[0]).read_bytes()[:4])


def test_segments_as_the_tools_do(abilities, run, image, tmp_path):
    ability = next(a for a in abilities if isinstance(a, Segment))
    (tmp_path / "a.png").write_bytes(image)
    (expected,) = predict_dense(ability.model, [str(tmp_path / "a.png")])
    expected = expected.pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(ability.labels({"image": image}), expected)
    shares = ability.shares(expected)
    assert sum(share for _, share in shares) == pytest.approx(1)
    status, html = run("Segment", image=image)
    assert status == 200, html
    label, share = shares[0]
    assert f"<span>{ability.classes[label]}</span><b>{share:.1%}</b>" in html
    assert 'type="range"' in html
    assert html.count("data:image/png") == 2


def test_heat_maps_are_those_of_the_api(abilities, run, image, sound):
    ability = next(a for a in abilities if isinstance(a, HeatMap))
    embedder = ability.embedder
    queries = np.stack([embedder.encode_text(["rain"])[0], embedder.encode_audio([sound])[0]])
    maps, names = ability.maps({"image": image, "texts": ["rain"], "audio": sound})
    np.testing.assert_allclose(maps, embedder.heat_maps(image, queries), atol=1e-6)
    assert names == ["rain", "sound"]
    status, html = run("Heat map", image=image, texts=f"rain\n\n{NASTY}\n")
    assert status == 200, html
    assert f"<td>{maps[0].min():.3f}</td><td>{maps[0].max():.3f}</td>" in html
    assert escape(NASTY) in html
    assert run("Heat map", image=image)[0] == 400
    assert run("Heat map", texts="rain")[0] == 400


def test_fine_tuned_models_say_what_the_api_says(folder, run, image, sound):
    def predictor(task):
        return apis.Predictor.from_checkpoint(folder / task, device="cpu")

    def check(task, found, **values):
        status, html = run({"vggsound": "Classify", "nlvr2": "Compare two images"}[task], **values)
        assert status == 200, html
        assert scores(html) == [round(p.score, 3) for p in found]

    check(
        "vggsound",
        predictor("vggsound").classify(audio=[sound], top_k=2)[0],
        audio=sound,
        top_k="2",
    )
    both = predictor("nlvr2").compare([image], [image], ["a dog"])[0]
    check("nlvr2", both, image=image, image_2=image, text="a dog")
    (box,) = predictor("refcoco").ground([image], ["a dog"])
    status, html = run("Find a phrase", image=image, text="a dog")
    assert status == 200, html
    assert ", ".join(f"{x:.1f}" for x in box) in html
    assert run("Find a phrase", image=image, text=" ")[0] == 400


def test_questions_and_candidates(folder, abilities, image, sound):
    vqa, aqa = (a for a in abilities if a.title == "Answer a question")
    values = {"image": image, "text": "what?", "top_k": 3}
    expected = apis.Predictor.from_checkpoint(folder / "vqa").answer(["what?"], [image], top_k=3)
    assert [p.label for p in vqa.answers(values)] == [p.label for p in expected[0]]
    values = {"audio": sound, "text": "what?", "candidates": ["a", "b"], "top_k": 3}
    with pytest.raises(ValueError, match="2 possible answers, the model ranks 4"):
        aqa.run(values)
    assert len(aqa.answers(values | {"candidates": ["a", "b", "c", "d"]})) == 3


def test_what_cannot_be_read_is_said_and_the_server_goes_on(run, image, sound, monkeypatch):
    for broken in (b"not an image", image[:200], b"%!PS-Adobe-3.0 EPSF-3.0", b"<svg/>"):
        status, html = run("Segment", image=broken)
        assert status == 400
        assert 'role="alert"' in html
        assert "Traceback" not in html
        assert "/" not in html.replace("</p>", "")  # no path of the server
    status, html = run("Classify", audio=b"not a sound")
    assert status == 400
    assert "not audio of a known format" in html
    monkeypatch.setattr(server, "MAX_PIXELS", 60 * 90 - 1)
    status, html = run("Segment", image=image)
    assert status == 400
    assert "Image has 90 x 60 pixels, at most 5,399. Scale it down." in html
    monkeypatch.undo()
    assert run("Segment", image=image)[0] == 200


def test_a_fault_of_a_model_is_one_of_its_request(abilities, run, image, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("the GPU fell off")

    monkeypatch.setattr(Segment, "labels", fail)
    status, html = run("Segment", image=image)
    assert (status, "GPU" in html) == (500, False)
    assert "the GPU fell off" in capsys.readouterr().err
    monkeypatch.undo()
    assert run("Segment", image=image)[0] == 200


def test_large_uploads_are_refused(run):
    status, html = run("Segment", image=b"x" * (2**20 + 1))
    assert status == 413
    assert "larger than 1 MB" in html
    assert "--max-upload-mb" in html
    assert run("Search", text="x" * 20_000)[0] == 413


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "192.168.0.7:7860",
        "localhost.:80",
    ],
)
def test_another_host_is_refused(host, client):
    done = get(client, "/", host=host)
    assert done.status_code == 403
    assert "127.0.0.1 alone" in done.text


def test_forms_of_other_pages_and_other_methods_are_refused(run, client):
    assert run("Search", {"Origin": "https://evil.example"}, text="a")[0] == 403
    assert run("Search", {"Origin": "null"}, text="a")[0] == 403
    assert run("Search", {"Origin": "http://127.0.0.1:7860"}, text="a")[0] == 200
    assert get(client, "/run/0").status_code == 405
    assert client.post("/run/99", base_url="http://localhost:1").status_code == 404
    assert get(client, "/x", host="localhost").status_code == 404
    assert get(client, "/", host="[::1]:7860").status_code == 200


def test_without_demos_the_error_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        open_models()


def test_a_segmentor_without_recipe_and_a_model_without_tokenizer(folder, tmp_path):
    (tmp_path / "iter_10.pth").write_bytes((folder / "seg/iter_10.pth").read_bytes())
    with pytest.raises(ValueError, match="Name it: --config"):
        open_models([tmp_path], device="cpu")
    (found,) = open_models([tmp_path], config=str(folder / "seg/recipe.py"), device="cpu")
    assert found.title == "Segment"
    (tmp_path / "vqa").mkdir()
    (tmp_path / "vqa/ft.pt").write_bytes((folder / "vqa/ft.pt").read_bytes())
    with pytest.raises(ValueError, match="Name it: --tokenizer"):
        open_models([tmp_path / "vqa"], device="cpu")
    (found,) = open_models(
        [tmp_path / "vqa"], tokenizer=folder / "vqa/tokenizer.json", device="cpu"
    )
    assert found.title == "Answer a question"


def test_a_port_in_use_is_said():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            server.serve(Page([]), port, print)
