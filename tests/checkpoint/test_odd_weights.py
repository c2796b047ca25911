"""Files whose keys and tensors are not those of a model: refused by name, or read rightly."""

import pickle

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.checkpoint import CheckpointError, to_own
from mmonepeace.checkpoint.unpickling import Unpickler
from mmonepeace.models import OnePeaceRetriever
from tests.conftest import TINY, randomise

KEY = "layers.0.norm1.weight"


@pytest.fixture(scope="module")
def own():
    modalities = {"text": {"vocab_size": 50}, "image": {}}
    model = randomise(OnePeaceRetriever(dict(arch=TINY, img_size=32, modalities=modalities)))
    return to_own(model.state_dict()).weights


@pytest.fixture(scope="module")
def official(own):
    return checkpoint.to_official_full(to_own(own)).weights


def copy_block(weights, number):
    """The weights, with those of the first block under another number too."""
    extra = {k.replace("layers.0.", f"layers.{number}.", 1): v for k, v in weights.items()}
    return weights | extra


@pytest.mark.parametrize("number", ["999999999", "256", "01", "-1", "٣", "1" * 5000])
@pytest.mark.parametrize("layout", ["own", "official"])
def test_a_block_number_that_is_none_is_refused(number, layout, request):
    weights = copy_block(request.getfixturevalue(layout), number)
    with pytest.raises(CheckpointError, match=r"layers\.\S* is of no block: expected layers\.0 to"):
        to_own(weights)


@pytest.mark.parametrize(
    ("number", "named"), [("4", r"\[3\]"), ("9", r"\[3, 4, 5, 6, 7, 8\]"), ("99", "3 to 98")]
)
def test_missing_blocks_are_named_in_short(own, number, named):
    with pytest.raises(CheckpointError, match=rf"{named} are missing"):
        to_own(copy_block(own, number))


def test_two_keys_of_the_same_name_are_refused(own, official):
    with pytest.raises(CheckpointError, match=rf"the keys {KEY} and backbone.{KEY} both mean"):
        to_own(own | {f"backbone.{KEY}": own[KEY]})
    key = next(key for key in official if key.endswith("self_attn_layer_norm.weight"))
    with pytest.raises(CheckpointError, match="both mean layers"):
        to_own(official | {f"module.{key}": official[key]})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.model."])
@pytest.mark.parametrize("layout", ["own", "official"])
def test_prefixes_of_wrappers_are_removed(prefix, layout, request, tmp_path):
    weights = request.getfixturevalue(layout)
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "a.pth")
    read, _ = checkpoint.read(tmp_path / "a.pth")
    assert read.keys() == weights.keys()
    assert to_own(read).weights.keys() == request.getfixturevalue("own").keys()


def test_a_prefix_of_some_keys_belongs_to_them(own, tmp_path):
    torch.save({**own, "model.x": torch.ones(1)}, tmp_path / "a.pth")
    assert "model.x" in checkpoint.read(tmp_path / "a.pth")[0]


ODD = {
    "sparse": (lambda x: x.to_sparse(), "is a sparse tensor"),
    "quantised": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "is a quantised tensor",
    ),
    "meta": (lambda x: x.to("meta"), "is a tensor on the meta device"),
    "repeated": (lambda _: torch.zeros(1).expand(10**6, 10**6), r"has shape .*: a repeated view"),
    "integers": (lambda x: x.long(), "is int64; weights are float32"),
    "flags": (lambda x: x > 0, "is bool; weights are float32"),
    "complex": (lambda x: torch.complex(x, x), "is complex64; weights are float32"),
    "no numbers": (lambda x: x[:0], r"has shape \(0,\)"),
    "one number": (lambda x: x[0].clone(), r"has shape \(\)"),
}


@pytest.mark.filterwarnings("ignore:.*uantiz.*:UserWarning")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_are_no_weights_are_refused_by_name(kind, legacy, own, tmp_path):
    change, says = ODD[kind]
    path = tmp_path / "a.pth"
    content = {"state_dict": {**own, KEY: change(own[KEY])}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=rf"{path}: {KEY} {says}"):
        Embedder.from_checkpoint(path)


@pytest.mark.parametrize(
    "name",
    ["layers.0.ffn.text.gate.weight", "adapters.image.rpb.tables.0", "adapters.text.pos_embed"],
)
@pytest.mark.parametrize("change", [torch.flatten, lambda x: x[0], lambda x: x[..., None]])
def test_shapes_that_are_of_no_model_are_one_error(name, change, own, tmp_path):
    torch.save({**own, name: change(own[name]).clone()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        Embedder.from_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("seconds", ["x", "nan", "-1", "1e99", ""])
def test_metadata_of_no_sense_are_refused(seconds, tmp_path):
    modalities = {"audio": {"feature_dim": 8, "pos_depth": 1, "pos_groups": 2}}
    weights = OnePeaceRetriever(dict(arch=TINY, modalities=modalities)).state_dict()
    for name, value in (("audio_clip_seconds", seconds), ("audio_padding", seconds)):
        torch.save({"state_dict": weights, "meta": {name: value}}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=rf"a\.pth: .*{seconds!r}"):
            Embedder.from_checkpoint(tmp_path / "a.pth")


def nested(depth):
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


def doubled(depth):
    inner = [0]
    for _ in range(depth):
        inner = [inner, inner]
    return inner


def circle():
    inner = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize("meta", [nested(100), doubled(60), circle()], ids=["deep", "wide", "self"])
@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.read_run])
def test_containers_without_end_are_refused(meta, read, own, tmp_path):
    torch.save({"state_dict": own, "meta": {"a": meta}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"nested more than 64 deep|more than 10,000,000"):
        read(tmp_path / "a.pth")


def test_a_pickle_that_claims_more_than_it_has_takes_no_memory(tmp_path):
    for size in (2**40, 2**62):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x8e" + size.to_bytes(8, "little") + b"x.")
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoint.read(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((2, 2), (2, 2), 1), ((-1,), (1,), 0), ((2,), (-1,), 0), ((1,), (1,), 4)],
)
def test_tensors_end_where_their_numbers_do(size, stride, offset, tmp_path):
    class Tensor:
        def __reduce__(self):
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            arguments = storage, offset, size, stride, False, {}
            return torch._utils._rebuild_tensor_v2, arguments

    path = tmp_path / "a.pth"
    torch.save({"w": Tensor()}, path)
    with pytest.raises(CheckpointError, match=r"reaches beyond the 4|has size .*, stride"):
        checkpoint.read(path)


def test_no_state_is_set_on_what_is_called(tmp_path):
    for target in (b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"):
        (tmp_path / "a.pkl").write_bytes(target + b"(N(dS'x'\nI1\nstb.")
        with pytest.raises(CheckpointError, match="sets the state of"):
            checkpoint.read(tmp_path / "a.pkl")
    assert not hasattr(Unpickler, "x")
    assert pickle.loads(pickle.dumps(1)) == 1  # noqa: S301
