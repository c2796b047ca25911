import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError, Conversion, infer_config
from mmonepeace.layers import adapters
from mmonepeace.models import OnePeace, OnePeaceRetriever
from mmonepeace.spec import LAYER_SCALE_INIT
from tests.checkpoint import official
from tests.conftest import randomise


def test_sizes_of_a_full_file():
    converted = checkpoint.to_own(official.full(side=6))
    assert infer_config(converted.weights, converted.meta) == dict(
        arch=dict(
            embed_dim=32, depth=2, num_heads=2, ffn_dim=48, stem="hmlp", sub_norm=True, ffn_norm=True,
            head_scale=False, post_attn_norm=False, embed_norm=False, type_embed=False,
        ),
        modalities=dict(
            text=dict(vocab_size=30, num_positions=514, num_buckets=256),
            image={},
            audio=dict(
                feature_dim=16, num_buckets=512, pos_depth=5, pos_kernel=19, pos_groups=16,
                pos_pre_norm=False, padding="compat",
            ),
        ),
        img_size=96,
        rpb="shared",
        final_norm=True,
        layer_scale_init=LAYER_SCALE_INIT,
    )  # fmt: skip


ARCH = dict(embed_dim=32, depth=2, num_heads=4, ffn_dim=40)
PLAIN = dict(
    stem="hmlp", sub_norm=True, ffn_norm=True, head_scale=False, post_attn_norm=False, embed_norm=False,
    type_embed=False,
)  # fmt: skip
FLAGS = dict(
    stem="conv", sub_norm=False, ffn_norm=True, head_scale=True, post_attn_norm=True, embed_norm=True,
    type_embed=True,
)  # fmt: skip
TEXT = dict(vocab_size=20, num_positions=40, num_buckets=8)
AUDIO = dict(
    feature_dim=8, num_buckets=12, pos_depth=2, pos_kernel=7, pos_groups=4, pos_pre_norm=True,
    padding="masked",
)  # fmt: skip
MEL = dict(features="log-mel", frame_stride=2)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(arch=ARCH | PLAIN, modalities={"image": {}}, img_size=48, rpb="shared"),
        dict(arch=ARCH | FLAGS, modalities={"image": {}}, img_size=64, rpb="per_block"),
        dict(arch=ARCH | PLAIN, modalities={"text": TEXT}, final_norm=True),
        dict(arch=ARCH | PLAIN, modalities={"text": TEXT, "audio": AUDIO}, layer_scale_init=None),
        dict(arch=ARCH | PLAIN, modalities={"audio": AUDIO | MEL}),
        dict(
            arch=ARCH | FLAGS,
            modalities={"text": TEXT, "image": {}, "audio": AUDIO},
            rpb="per_block",
        ),
    ],
)
def test_a_config_is_inferred_from_the_weights(arguments):
    model = OnePeace(**arguments)
    config = infer_config(model.state_dict(), model.metadata())
    defaults = dict(img_size=256, rpb="shared", final_norm=False, layer_scale_init=LAYER_SCALE_INIT)
    assert config == defaults | arguments
    assert list(config["modalities"]) == list(arguments["modalities"])
    again = OnePeace(**config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.norm1.weight",
        "layers.0.ffn.text.gate.weight",
        "adapters.text.embed_tokens.weight",
        "adapters.text.rpb.tables.0",
        "adapters.audio.pos_conv.1.weight",
        "adapters.audio.extractor.0.conv.weight",
        "adapters.image.rpb.tables.0",
    ],
)
def test_what_is_missing_is_named(name):
    converted: Conversion = checkpoint.to_own(official.full())
    del converted.weights[name]
    with pytest.raises(CheckpointError, match=name):
        infer_config(converted.weights)


def test_an_impossible_table_is_named():
    converted = checkpoint.to_own(official.full())
    table = converted.weights["adapters.image.rpb.tables.0"]
    converted.weights["adapters.image.rpb.tables.0"] = table[1:]
    with pytest.raises(CheckpointError, match=r"adapters\.image\.rpb\.tables\.0"):
        infer_config(converted.weights)


def test_weights_without_an_adapter_have_no_config():
    with pytest.raises(CheckpointError, match="no adapter"):
        infer_config({})


class Series(adapters.TextAdapter):
    """A fourth modality: a series of symbols with a sampling rate that is not in its weights."""

    def __init__(self, *arguments, rate: int = 1, **options):
        super().__init__(*arguments, **options)
        self.rate = rate

    def metadata(self):
        return {"series_rate": str(self.rate)}

    @staticmethod
    def infer_options(shapes, meta):
        options = adapters.TextAdapter.infer_options(shapes, meta)
        return options | {"rate": int(meta["series_rate"])}


def write_runner_file(path, model):
    meta = {"iter": 3, **model.backbone.metadata()}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)


def write_own_file(path, model):
    checkpoint.write(path, Conversion(model.state_dict(), model.backbone.metadata()))


@pytest.mark.parametrize(
    ("name", "write"), [("a.pth", write_runner_file), ("a.safetensors", write_own_file)]
)
def test_a_modality_that_was_added_comes_back_from_its_checkpoint(
    name, write, tmp_path, monkeypatch
):
    monkeypatch.setitem(adapters.ADAPTERS, "series", Series)
    modalities = dict(image={}, series=dict(TEXT, vocab_size=12, rate=50))
    backbone = dict(arch=ARCH, modalities=modalities, img_size=48, final_norm=True)
    model = randomise(OnePeaceRetriever(backbone)).eval()
    write(tmp_path / name, model)
    converted = checkpoint.read_own(tmp_path / name)
    config = infer_config(converted.weights, converted.meta)
    assert config["modalities"] == modalities
    again = OnePeaceRetriever(config).eval()
    report = again.load_checkpoint(tmp_path / name)
    assert str(report) == "every weight was loaded as it is."
    assert again.backbone.metadata() == model.backbone.metadata()
    series, image = torch.randint(4, 12, (2, 5)), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        for inputs in ({"series": series}, {"image": image, "series": series}):
            for own, other in zip(model(inputs).values(), again(inputs).values(), strict=True):
                assert torch.equal(own, other)
            joint = [m.backbone.encode(m.backbone.embed(inputs)) for m in (model, again)]
            assert all(torch.equal(x, joint[1][key]) for key, x in joint[0].items())
    monkeypatch.delitem(adapters.ADAPTERS, "series")
    with pytest.raises(CheckpointError, match=r"series.*ADAPTERS"):
        infer_config(converted.weights, converted.meta)
