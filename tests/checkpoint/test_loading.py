import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint as mmengine_load_checkpoint

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError, loading
from mmonepeace.models import OnePeace, OnePeaceRetriever
from tests.conftest import TINY

MODALITIES = {
    "text": dict(vocab_size=20, num_positions=40, num_buckets=8),
    "image": {},
    "audio": dict(feature_dim=8, num_buckets=12),
}


def state(modalities=MODALITIES, **options) -> dict[str, torch.Tensor]:
    return OnePeace(TINY, modalities=modalities, img_size=64, **options).state_dict()


def test_adapting_to_the_same_model_is_the_identity():
    weights = state()
    fitted, report = checkpoint.adapt_state_dict(weights, weights)
    assert fitted == weights
    assert str(report) == "every weight was loaded as it is."


def test_a_shared_table_is_copied_to_the_blocks_of_every_modality():
    fitted, report = checkpoint.adapt_state_dict(state(), target := state(rpb="per_block"))
    assert fitted.keys() == target.keys()
    assert not report.missing
    for name in MODALITIES:
        for i in range(3):
            table = fitted[f"adapters.{name}.rpb.tables.{i}"]
            assert torch.equal(table, fitted[f"adapters.{name}.rpb.tables.0"])


@pytest.mark.parametrize("name", MODALITIES)
def test_tables_of_blocks_do_not_fit_a_shared_one(name):
    only = {name: MODALITIES[name]}
    with pytest.raises(CheckpointError, match="rpb='per_block'"):
        checkpoint.adapt_state_dict(state(only, rpb="per_block"), state(only))


def test_tables_of_a_modality_the_model_lacks_are_unused():
    image = state({"image": {}}, rpb="shared")
    fitted, report = checkpoint.adapt_state_dict(state(rpb="per_block"), state(rpb="per_block"))
    weights = {k: v for k, v in fitted.items() if "image.rpb.tables" not in k} | {
        k: v for k, v in image.items() if "rpb.tables" in k
    }
    fitted, report = checkpoint.adapt_state_dict(weights, image)
    assert fitted.keys() == image.keys()
    assert "adapters.text.rpb.tables.1" in report.unused


@pytest.mark.parametrize(
    ("modality", "option", "value"),
    [
        ("text", "vocab_size", 21),
        ("text", "num_positions", 41),
        ("text", "num_buckets", 9),
        ("audio", "num_buckets", 9),
        ("audio", "feature_dim", 4),
        ("audio", "pos_kernel", 7),
    ],
)
def test_other_sizes_name_the_option(modality, option, value):
    options = {**MODALITIES[modality], option: value}
    with pytest.raises(CheckpointError, match=option) as error:
        checkpoint.adapt_state_dict(
            state({modality: MODALITIES[modality]}), state({modality: options})
        )
    assert f"adapters.{modality}." in str(error.value)
    assert "infer_config" in str(error.value)


@pytest.mark.parametrize("stored", ["same", "smaller"])
@pytest.mark.parametrize(
    "load",
    [
        lambda model, path: model.load_checkpoint(path),
        lambda model, path: model.load_state_dict(torch.load(path)["state_dict"]),
        lambda model, path: mmengine_load_checkpoint(model, path, strict=True),
        checkpoint.load_model,
    ],
    ids=["load_checkpoint", "load_state_dict", "mmengine", "load_model"],
)
def test_every_way_of_loading_adapts_the_weights_once(load, stored, tmp_path, monkeypatch):
    calls, adapt = [], loading.adapt_state_dict

    def count(*arguments):
        calls.append(arguments)
        return adapt(*arguments)

    def build(img_size, rpb):
        backbone = dict(arch=TINY, modalities=MODALITIES, img_size=img_size, rpb=rpb)
        return OnePeaceRetriever(backbone)

    monkeypatch.setattr(loading, "adapt_state_dict", count)
    model = build(64, "per_block")
    source = model if stored == "same" else build(32, "shared")
    path = str(tmp_path / "a.pth")
    torch.save({"state_dict": {k: v + 1 for k, v in source.state_dict().items()}}, path)
    expected, _ = adapt(torch.load(path)["state_dict"], model.state_dict())
    load(model, path)
    assert len(calls) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_mismatch_names_the_file_and_all_parameters(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": OnePeace(TINY | {"embed_dim": 16}).state_dict()}, path)
    for load in (checkpoint.load_checkpoint, checkpoint.load_model):
        with pytest.raises(CheckpointError, match=r"a\.pth: .*fit the model") as error:
            load(OnePeace(TINY), path)
        assert "layers.*.norm1.weight" in str(error.value)
        assert "(16,) in the file, (32,) in the model: arch" in str(error.value)


def test_a_complete_model_must_have_its_text_positions(tmp_path):
    model = OnePeace(TINY, modalities={"text": MODALITIES["text"]})
    weights = {k: v for k, v in model.state_dict().items() if k != "adapters.text.pos_embed"}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"adapters\.text\.pos_embed"):
        checkpoint.load_model(model, tmp_path / "a.pth")
