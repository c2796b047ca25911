import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace
from tests.conftest import TINY

MODALITIES = {
    "text": dict(vocab_size=20, num_positions=40, num_buckets=8),
    "image": {},
    "audio": dict(feature_dim=8, num_buckets=12),
}


def state(modalities=MODALITIES, **options) -> dict[str, torch.Tensor]:
    return OnePeace(TINY, modalities=modalities, img_size=64, **options).state_dict()


def test_fitting_to_the_same_model_is_the_identity():
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


def test_a_whole_model_must_bring_its_text_positions(tmp_path):
    model = OnePeace(TINY, modalities={"text": MODALITIES["text"]})
    weights = {k: v for k, v in model.state_dict().items() if k != "adapters.text.pos_embed"}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"adapters\.text\.pos_embed"):
        checkpoint.load_model(model, tmp_path / "a.pth")
