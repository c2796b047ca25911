"""Embedders and predictors as folders: what comes back, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from mmonepeace import checkpoint, official_release
from mmonepeace.apis import Embedder, ModelCard, Predictor
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checkpoint.pretrained import FORMAT_VERSION
from mmonepeace.datasets.tokenizer import train
from mmonepeace.models import OnePeace
from tests import official
from tests.apis.conftest import TEXTS, write_model


@pytest.fixture(scope="module")
def saved(embedder, tmp_path_factory):
    """The folder of an embedder; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    embedder.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def load(folder, **options):
    return Embedder.from_pretrained(folder, device="cpu", **options)


def change(folder, *keys, value):
    """Set a value of config.json."""
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder, change_weights):
    """Change the weights of a folder, not their checksums."""
    weights, meta = checkpoint.read(folder / "model.safetensors")
    weights = {name: value.clone() for name, value in weights.items()}
    change_weights(weights)
    checkpoint.write(folder / "model.safetensors", checkpoint.Conversion(weights, meta))


def test_an_embedder_comes_back_as_it_was(embedder, saved, data):
    again = load(saved)
    clips = sorted((data / "audios").glob("?.*"))
    assert (again.encode_text(TEXTS) == embedder.encode_text(TEXTS)).all()
    assert (again.encode_audio(clips) == embedder.encode_audio(clips)).all()
    assert again.fingerprint == embedder.fingerprint
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    from safetensors import safe_open

    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["task"]) == {"type": "OnePeaceRetriever"}


def test_settings_come_back_and_can_be_overridden(checkpoint_file, tmp_path):
    settings = dict(
        image_size=80, keep_ratio=True, alpha="white", window_seconds=4, hop_seconds=1.5
    )
    Embedder.from_checkpoint(checkpoint_file, "cpu", **settings).save_pretrained(tmp_path / "m")
    reader = load(tmp_path / "m").reader
    assert (reader.image_size, reader.keep_ratio, reader.alpha) == (80, True, "white")
    assert reader.windows == (4, 1.5)
    reader = load(tmp_path / "m", image_size=48, alpha="drop").reader
    assert (reader.image_size, reader.alpha, reader.windows) == (48, "drop", (4, 1.5))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_comes_back_in_half_precision(checkpoint_file, tmp_path, dtype):
    embedder = Embedder.from_checkpoint(checkpoint_file, "cpu", dtype)
    embedder.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m/model.safetensors").stat().st_size < 0.6 * checkpoint_file.stat().st_size
    again = load(tmp_path / "m")
    kinds = {value.dtype for value in again.model.state_dict().values()}
    assert kinds == {torch.bfloat16 if dtype == "bf16" else torch.float16}
    assert (again.encode_text(TEXTS) == embedder.encode_text(TEXTS)).all()
    wide = load(tmp_path / "m", dtype="fp32")
    assert next(wide.model.parameters()).dtype == torch.float32


def test_shards_replace_one_file_and_the_other_way_round(embedder, tmp_path):
    folder = tmp_path / "m"
    for size, count in ((10**9, 1), (50_000, 9), (100_000, 5), (10**9, 1)):
        embedder.save_pretrained(folder, shard_size=size)
        files = list(folder.glob("*.safetensors"))
        assert abs(len(files) - count) <= 3
        assert (folder / "model.safetensors").exists() == (count == 1)
        assert (folder / "model.safetensors.index.json").exists() == (count > 1)
        assert (load(folder).encode_text(TEXTS) == embedder.encode_text(TEXTS)).all()


def test_images_are_normalised_as_they_were(checkpoint_file, tmp_path, data):
    embedder = Embedder.from_checkpoint(checkpoint_file, "cpu")
    preprocessor = embedder.model.data_preprocessor
    preprocessor.image_mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    embedder.save_pretrained(tmp_path / "m")
    images = [data / "images/a.png"]
    assert (load(tmp_path / "m").encode_image(images) == embedder.encode_image(images)).all()


@pytest.mark.parametrize("task", ["vqa", "refcoco", "vggsound", "nlvr2", "aqa"])
def test_a_predictor_comes_back_as_it_was(task, tmp_path):
    torch.save(official.fine_tuned(task), tmp_path / "ft.pt")
    train(TEXTS * 3, 300).save(tmp_path / "tokenizer.json")
    before = Predictor.from_checkpoint(tmp_path / "ft.pt", "cpu")
    before.save_pretrained(tmp_path / "m")
    after = Predictor.from_pretrained(tmp_path / "m", "cpu")
    assert (after.task, after.classes, after.inputs) == (before.task, before.classes, before.inputs)
    assert after.facts() == before.facts()
    ours, theirs = after.model.state_dict(), before.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_classes_of_a_predictor_are_saved(tmp_path):
    torch.save(official.fine_tuned("vggsound"), tmp_path / "ft.pt")
    before = Predictor.from_checkpoint(tmp_path / "ft.pt", "cpu")
    before.classes = [f"sound {i}" for i in range(len(before.classes))]
    before.save_pretrained(tmp_path / "m")
    assert Predictor.from_pretrained(tmp_path / "m", "cpu").classes == before.classes
    # The file alone has them too.
    assert Predictor.from_checkpoint(tmp_path / "m", "cpu").classes == before.classes
    text = (tmp_path / "m/README.md").read_text()
    assert 'pipeline_tag: "audio-classification"' in text
    change(tmp_path / "m", "classes", 1, value="another")
    with pytest.raises(CheckpointError, match="classes is "):
        Predictor.from_pretrained(tmp_path / "m", "cpu")


def test_a_backbone_comes_out_of_an_embedder(embedder, saved):
    model = OnePeace.from_pretrained(saved)
    own = embedder.model.backbone.state_dict()
    assert all((value == own[name]).all() for name, value in model.state_dict().items())


def refused(folder, *words, load=load):
    with pytest.raises(CheckpointError) as error:
        load(folder)
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    refused(folder, "has no config.json", "from_checkpoint")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "has no model.safetensors")


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["model_type"], "bert", ["model_type is 'bert', expected 'onepeace'"]),
        (["format_version"], FORMAT_VERSION + 1, ["expected 1 at most", "Update mmonepeace"]),
        (["format_version"], "1", ["format_version is '1'"]),
        (["format_version"], True, ["format_version is True"]),
        (["class"], "Predictor", ["class is 'Predictor'", "Predictor.from_pretrained"]),
        (["class"], "os.system", ["class is 'os.system'"]),
        (["class"], ["Embedder"], ["class is ['Embedder']"]),
        (["dtype"], "bfloat16", ["dtype is 'bfloat16', that of the model is 'float32'"]),
        (["architecture", "depth"], 4, ["architecture.depth is 4, that of the model is 3"]),
        (["architecture", "width"], 4, ["architecture.width is 4", "missing"]),
        (["modalities", "text", "vocab_size"], 7, ["modalities.text.vocab_size is 7"]),
        (["model", "type"], "x", ["model.type is 'x'"]),
        (["parameters"], 3, ["parameters is 3"]),
        (["fingerprint"], "0" * 16, ["fingerprint is '0000"]),
        (["preprocessing"], [], ["preprocessing is []"]),
        (["preprocessing", "image"], 3, ["an object for each modality"]),
        (["preprocessing", "image", "size"], -16, ["preprocessing.image.size is -16"]),
        (["preprocessing", "image", "size"], True, ["preprocessing.image.size is True"]),
        (["preprocessing", "image", "size"], 10**9, ["preprocessing.image.size is 1000000000"]),
        (["preprocessing", "image", "std"], [1, 0, 1], ["preprocessing.image.std"]),
        (["preprocessing", "image", "mean"], [0.5], ["preprocessing.image.mean"]),
        (["preprocessing", "image", "resampling"], "nearest", ["resampling is 'nearest'"]),
        (["preprocessing", "image", "crop"], 0.9, ["preprocessing.image.crop is 0.9"]),
        (["preprocessing", "audio", "sampling_rate"], 8000, ["sampling_rate is 8000"]),
        (["preprocessing", "audio", "hop_seconds"], float("nan"), ["hop_seconds is nan"]),
        (["preprocessing", "text", "max_tokens"], 77, ["max_tokens is 77"]),
        (["tokenizer"], "../../tokenizer", ["tokenizer.json", "'../../tokenizer'"]),
        (["tokenizer"], None, ["in config.json there is none"]),
    ],
)  # fmt: skip
def test_a_config_that_does_not_describe_the_weights_is_refused(folder, keys, value, words):
    change(folder, *keys, value=value)
    refused(folder, "config.json", *words)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"x"', "\0"])
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


def test_a_colour_that_is_none_is_refused(folder):
    change(folder, "preprocessing", "image", "alpha", value="__import__('os')")
    with pytest.raises(ValueError, match="alpha is"):
        load(folder)


@pytest.mark.parametrize(
    ("change_weights", "words"),
    [
        (lambda w: w.pop("norms.text.bias"), ["1 weights are missing: norms.text.bias"]),
        (lambda w: w.pop("logit_scale"), ["missing: logit_scale"]),
        (lambda w: w.update(evil=torch.ones(2)), ["1 weights are unexpected: evil"]),
        (lambda w: w.update({"norms.video.bias": torch.ones(32)}), ["unexpected: norms.video"]),
        (
            lambda w: w.update({"norms.text.bias": torch.ones(31)}),
            ["1 weights are of another shape: norms.text.bias"],
        ),
        (lambda w: w["norms.text.bias"].add_(1), ["fingerprint is"]),
        (
            lambda w: w.update({"norms.text.bias": w["norms.text.bias"].half()}),
            ["the weights are float16 and float32; expected one dtype"],
        ),
    ],
)
def test_other_weights_are_refused(folder, change_weights, words):
    rewrite(folder, change_weights)
    refused(folder, *words)


def test_a_pickle_is_not_loaded_whatever_its_name(folder):
    weights, _ = checkpoint.read(folder / "model.safetensors")
    torch.save(dict(weights), folder / "pickle.pth")
    (folder / "pickle.pth").replace(folder / "model.safetensors")
    refused(folder, "is not safetensors")


def test_shards_outside_the_folder_are_not_read(embedder, tmp_path):
    folder = tmp_path / "m"
    embedder.save_pretrained(folder, shard_size=100_000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../model.safetensors"
    del index["metadata"]["checksums"]
    path.write_text(json.dumps(index))
    refused(folder, "refused: '../model.safetensors'")


def test_another_tokenizer_is_refused(folder):
    train(["other words"] * 3, 290).save(folder / "tokenizer.json")
    refused(folder, "tokenizer.json", "Restore")
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer.json: there is none")


def test_weights_of_another_save_are_refused(folder, tmp_path):
    other = Embedder.from_checkpoint(write_model(tmp_path / "other", seed=1), "cpu")
    other.save_pretrained(tmp_path / "second")
    shutil.copy(tmp_path / "second/model.safetensors", folder)
    refused(folder, "fingerprint")


def test_folders_of_others_are_left_alone(embedder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        CheckpointError, match=r"save_pretrained did not write, such as 'notes\.txt'"
    ):
        embedder.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="Name a new or empty folder"):
        embedder.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        embedder.save_pretrained(tmp_path / "notes.txt")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_else_is_in_a_folder_of_ours_stays(embedder, folder):
    (folder / ".gitattributes").write_text("x")
    (folder / "plot.png").write_bytes(b"x")
    embedder.save_pretrained(folder)
    assert (folder / ".gitattributes").exists()
    assert (folder / "plot.png").exists()
    load(folder)


def test_a_failed_save_changes_nothing(embedder, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmonepeace.checkpoint.writing._dump_text", full)
    with pytest.raises(CheckpointError, match="No space left"):
        embedder.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_save_that_was_killed_between_two_renames_can_be_repeated(embedder, folder):
    (folder / "config.json").rename(folder / ".config.json.part")
    (folder / "README.md").rename(folder / ".README.md.part")
    refused(folder, "has no config.json")
    embedder.save_pretrained(folder)
    assert len(list(folder.iterdir())) == 4
    load(folder)


def test_without_a_tokenizer_an_earlier_one_goes(checkpoint_file, folder, tmp_path):
    shutil.copy(checkpoint_file, tmp_path / "alone.safetensors")
    embedder = Embedder.from_checkpoint(tmp_path / "alone.safetensors", "cpu")
    embedder.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    assert load(folder).reader.tokenizer is None


def test_a_published_file_is_found_by_its_name(checkpoint_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"mmonepeace download one-peace\.pt"):
        load("one-peace.pt")
    for place in official_release.folders():
        place.mkdir(parents=True)
        checkpoint.convert_file(checkpoint_file, place / "one-peace.pt", "official-full")
        assert load("one-peace.pt").model.backbone.arch.depth == 3
        assert OnePeace.from_pretrained("one-peace.pt").arch.depth == 3
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such", "no such folder"),
        ("hf-hub:name", "expected 'hf-hub:org/name'"),
        ("hf-hub:../x/y", "expected 'hf-hub:org/name'"),
    ],
)
def test_a_name_that_means_nothing_is_one_line(name, words):
    refused(name, words)


def test_a_file_is_not_a_name(checkpoint_file):
    refused(checkpoint_file, "Use from_checkpoint")


def test_the_card_says_what_is_known_and_nothing_else(embedder, tmp_path):
    card = ModelCard(
        license="mit", datasets=["a/b"], metrics=["recall"], tags=["demo"], text="Of *mine*."
    )
    embedder.save_pretrained(tmp_path / "my-model", card)
    text = (tmp_path / "my-model/README.md").read_text()
    _, header, body = text.split("---\n", 2)
    assert header.splitlines() == [
        'license: "mit"',
        'library_name: "mmonepeace"',
        'tags: ["onepeace", "text", "image", "audio", "demo"]',
        'pipeline_tag: "feature-extraction"',
        'datasets: ["a/b"]',
        'metrics: ["recall"]',
    ]
    count = sum(p.numel() for p in embedder.model.parameters())
    assert f"| parameters | {count:,} |" in body
    assert body.startswith("\n# my-model\n\nOf *mine*.\n")
    assert 'Embedder.from_pretrained("NAME")' in body
    assert "Data sets: a/b." in body


def test_the_card_names_the_run_that_the_weights_are_of(tmp_path, checkpoint_file):
    weights, _ = checkpoint.read(checkpoint_file)
    meta = {"experiment_name": "pretrain | `x`\n", "iter": 1200, "epoch": 3, "cfg": "secret"}
    torch.save({"state_dict": dict(weights), "meta": meta}, tmp_path / "iter_1200.pth")
    Embedder.from_checkpoint(tmp_path / "iter_1200.pth", "cpu").save_pretrained(tmp_path / "m")
    text = (tmp_path / "m/README.md").read_text()
    assert "| run | `pretrain x` |\n| iterations | `1200` |" in text
    assert "secret" not in text
    load(tmp_path / "m").save_pretrained(tmp_path / "again")
    assert "| iterations | `1200` |" in (tmp_path / "again/README.md").read_text()


def test_an_embedder_without_projections_keeps_none(embedder, checkpoint_file, tmp_path):
    weights, meta = checkpoint.read(checkpoint_file)
    weights = {k: v for k, v in weights.items() if not k.startswith("projections.")}
    checkpoint.write(tmp_path / "e.safetensors", checkpoint.Conversion(weights, meta))
    Embedder.from_checkpoint(tmp_path / "e.safetensors", "cpu", projections=False).save_pretrained(
        tmp_path / "m"
    )
    features = load(tmp_path / "m").encode_features("image", [np.zeros((64, 64, 3), np.uint8)])
    assert features[0].shape == (32,)
