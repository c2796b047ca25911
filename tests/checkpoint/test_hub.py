"""Names of models, and the hub behind a stand-in: there is no network in tests."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from mmonepeace.checkpoint import CheckpointError, ModelCard, locate
from mmonepeace.checkpoint.pretrained import FILES
from mmonepeace.models import OnePeace
from tests.conftest import TINY, randomise


class Hub:
    """What mmonepeace calls of huggingface_hub; repositories are folders."""

    def __init__(self, root):
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id, *, revision, allow_patterns, ignore_patterns):
        self.calls.append((repo_id, revision, allow_patterns, ignore_patterns))
        if not (folder := self.root / repo_id).is_dir():
            raise OSError(f"404 Client Error.\nRepository {repo_id} Not Found")
        return str(folder)

    def HfApi(self):
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.calls.append((repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, delete_patterns):
        self.calls.append((repo_id, revision, commit_message))
        for pattern in delete_patterns:
            for path in (self.root / repo_id).glob(pattern):
                path.unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


@pytest.fixture
def model():
    return randomise(OnePeace(TINY, img_size=64))


def test_what_is_pushed_comes_back(hub, model):
    address = model.push_to_hub("me/tiny", private=True, card=ModelCard(license="mit"))
    assert address == "https://hub/me/tiny/commit/1"
    assert hub.calls == [("me/tiny", True), ("me/tiny", None, "Upload with mmonepeace")]
    assert "# tiny\n" in (hub.root / "me/tiny/README.md").read_text()
    again = OnePeace.from_pretrained("hf-hub:me/tiny")
    assert (again.layers[0].norm1.weight == model.layers[0].norm1.weight).all()


def test_a_push_removes_the_weights_of_an_earlier_one(hub, model):
    folder = hub.root / "me/tiny"
    folder.mkdir(parents=True)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "notes.md").write_text("mine")
    model.push_to_hub("me/tiny")
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "notes.md"}


def test_only_weights_texts_and_the_card_are_fetched(hub, model):
    model.push_to_hub("me/tiny")
    locate("hf-hub:me/tiny@refs/pr/1")
    assert hub.calls[-1] == ("me/tiny", "refs/pr/1", list(FILES), ["*/*"])
    assert all(pattern.endswith((".safetensors", ".json", "README.md")) for pattern in FILES)


def test_the_library_filters_as_the_patterns_say():
    utils = pytest.importorskip("huggingface_hub.utils")
    names = ["model.safetensors", "model-00001-of-00002.safetensors", "config.json", "README.md",
             "model.safetensors.index.json", "tokenizer.json", "pytorch_model.bin", "model.pkl",
             "evil.py", "sub/model.safetensors", "sub/config.json"]  # fmt: skip
    kept = utils.filter_repo_objects(names, allow_patterns=list(FILES), ignore_patterns=["*/*"])
    assert list(kept) == names[:6]


def test_the_library_has_what_is_called():
    library = pytest.importorskip("huggingface_hub")
    from inspect import signature

    snapshot = signature(library.snapshot_download).parameters
    assert {"revision", "allow_patterns", "ignore_patterns"} <= set(snapshot)
    assert {"private", "exist_ok"} <= set(signature(library.HfApi.create_repo).parameters)
    upload = signature(library.HfApi.upload_folder).parameters
    needed = {"repo_id", "folder_path", "revision", "commit_message", "delete_patterns"}
    assert needed <= set(upload)
    assert (
        hasattr(library.CommitInfo, "commit_url")
        or "commit_url" in library.CommitInfo.__annotations__
    )


@pytest.mark.parametrize("call", ["locate", "push"])
def test_failures_of_the_hub_are_one_line(hub, model, call, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("401 Unauthorized\nmore")

    monkeypatch.setattr(hub, "upload_folder", fail)
    with pytest.raises(CheckpointError) as error:
        model.push_to_hub("me/x") if call == "push" else locate("hf-hub:no/such")
    assert "\n" not in str(error.value)
    assert "hf auth login" in str(error.value)


def test_without_the_library_the_error_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: locate("hf-hub:me/tiny"), lambda: model.push_to_hub("me/tiny")):
        with pytest.raises(CheckpointError, match=r"pip install 'mmonepeace\[hub\]'"):
            call()


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:x", "hf-hub:a/b/c", "hf-hub:../b", "hf-hub:a/..", "hf-hub:a/b@"]
)
def test_names_that_are_no_repositories_are_refused(hub, name):
    with pytest.raises(CheckpointError, match="expected 'hf-hub:org/name'"):
        locate(name)
    assert hub.calls == []
