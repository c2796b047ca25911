import pytest
import torch
from mmengine.logging import MessageHub

from mmonepeace import checkpoint
from mmonepeace.models import OnePeace, OnePeaceEoMT
from mmonepeace.models.onepeace_eomt import QueryMasks
from tests.conftest import randomise

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "ffn_dim": 48}
QUERIES, BLOCKS = 5, 2


def build(**kwargs):
    options = dict(img_size=64, num_queries=QUERIES, num_blocks=BLOCKS, rpb="per_block") | kwargs
    return OnePeaceEoMT(TINY, **options)


@pytest.fixture
def at():
    """Says how far the run is: (iteration, of how many)."""
    hub = MessageHub.get_current_instance()

    def say(done, steps):
        hub.update_info("iter", done)
        hub.update_info("max_iters", steps)

    yield say
    for key in ("iter", "max_iters"):
        hub.runtime_info.pop(key, None)


def seen_by(model, images):
    """Tokens that the mask head sees, one for each call."""
    seen = []
    handle = model.mask_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(images)
    handle.remove()
    return seen


@pytest.mark.parametrize("query_ffn", ["image", "own"])
@pytest.mark.parametrize("size", [(64, 64), (97, 131), (16, 16), (1, 1), (33, 250)])
def test_masks_of_any_size_forward_and_backward(size, query_ffn):
    model = build(drop_path_rate=0.2, query_ffn=query_ffn)
    outputs = model(torch.randn(2, 3, *size))
    assert len(outputs) == BLOCKS + 1
    for queries, masks in outputs:
        assert queries.shape == (2, QUERIES, 32)
        assert masks.shape == (2, QUERIES, -(-size[0] // 4), -(-size[1] // 4))
    sum(x.square().sum() for output in outputs for x in output).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.queries.grad.abs().sum() > 0
    (only,) = model.eval()(torch.randn(1, 3, *size))
    assert isinstance(only, QueryMasks)


@pytest.mark.parametrize("training", [False, True])
def test_permuting_queries_permutes_what_they_say(training, at):
    at(9, 10)  # without masks, which are drawn for each query
    model = randomise(build(query_ffn="own")).train(training).double()
    images, order = torch.randn(2, 3, 48, 80).double(), torch.randperm(QUERIES)
    before = model(images)
    with torch.no_grad():
        model.queries.copy_(model.queries[order])
    for one, other in zip(before, model(images), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a[:, order], b)


def test_no_queries_leave_the_plain_backbone():
    model = randomise(build()).eval()
    plain = OnePeace(TINY, img_size=64, rpb="per_block").eval()
    names = plain.state_dict().keys()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in names})
    images = torch.randn(2, 3, 64, 96)
    model.queries = torch.nn.Parameter(model.queries[:0])
    (tokens,) = seen_by(model, images)
    assert len(model(images)[0].masks_BQhw[0]) == 0
    torch.testing.assert_close(tokens[:, 1:].mT.unflatten(2, (4, 6)), plain(images)[0])


def test_the_first_blocks_see_no_queries():
    model = randomise(build())  # in training, where there is a prediction before them
    images = torch.randn(1, 3, 64, 64)
    before = seen_by(model, images)[0]
    with torch.no_grad():
        model.queries.normal_()
    after = seen_by(model, images)[0]
    assert torch.equal(before[:, :-QUERIES], after[:, :-QUERIES])
    assert not torch.equal(before[:, -QUERIES:], after[:, -QUERIES:])


def test_there_is_bias_between_image_tokens_only():
    model = randomise(build()).eval()
    run = []
    bind = model.layers.bind

    def spy(tokens):
        run.append(tokens)
        return bind(tokens)

    model.layers.bind = spy
    model(torch.randn(1, 3, 32, 48))
    plain, joint = run
    length = plain.x_BLD.shape[1]
    for block in range(2, 4):
        dense = joint.bias(block, torch.float32).dense()
        assert torch.equal(dense[..., :length, :length], plain.bias(block, torch.float32).dense())
        assert dense[..., :length, :length].abs().sum() > 0
        dense[..., :length, :length] = 0
        assert dense.eq(0).all()


def masks_at(model, images):
    torch.manual_seed(1)
    return torch.stack([masks for _, masks in model(images)])


def test_masked_attention_of_probability_zero_is_none(at):
    model = randomise(build())
    images = torch.randn(2, 3, 64, 64)
    state = model.state_dict()
    plain = build(masked_attention=False)
    plain.load_state_dict(state)
    at(0, 100)
    assert not torch.allclose(masks_at(model, images)[-1], masks_at(plain, images)[-1])
    at(76, 100)  # the last of four parts
    assert torch.equal(masks_at(model, images), masks_at(plain, images))
    at(0, 100)
    assert torch.equal(masks_at(model.eval(), images)[-1], masks_at(plain.eval(), images)[-1])


def test_blocks_lose_their_masks_one_after_another(at):
    """Halfway the first block with queries has no masks any more, and the second still has all."""
    model = randomise(build())
    hidden = []
    images = torch.randn(2, 3, 64, 64)
    bind = model.layers.bind

    def spy(tokens):
        values = tokens.bias(3, torch.float32).dense()
        hidden.append(bool(values.isinf().any()))
        return bind(tokens)

    model.layers.bind = spy
    for done, expected in ((0, [True, True]), (50, [False, True]), (100, [False])):
        hidden.clear()
        at(done, 100)
        model(images)
        assert hidden == [False, *expected]


def test_rpb_of_one_table_serves_all_blocks():
    shared, own = randomise(build(rpb="shared")).eval(), build().eval()
    own.load_state_dict(shared.state_dict())
    images = torch.randn(1, 3, 64, 80)
    for a, b in zip(shared(images)[0], own(images)[0], strict=True):
        torch.testing.assert_close(a, b)


def test_activation_checkpointing_changes_no_gradient():
    images, gradients = torch.randn(2, 3, 64, 96), []
    state = randomise(build()).state_dict()
    for with_cp in (False, True):
        model = build(with_cp=with_cp, drop_path_rate=0.3)
        model.load_state_dict(state)
        torch.manual_seed(3)
        sum(x.square().mean() for output in model(images) for x in output).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("query_ffn", ["image", "own"])
def test_a_pretrained_file_has_no_queries_but_all_of_the_encoder(query_ffn, tmp_path):
    plain = randomise(OnePeace(TINY, img_size=96))
    path = tmp_path / "plain.safetensors"
    checkpoint.write(path, checkpoint.Conversion(plain.state_dict(), {"format": "mmonepeace"}))
    model = build(query_ffn=query_ffn, init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    model.init_weights()
    for i, layer in enumerate(model.layers):
        image = plain.layers[i].ffn["image"]
        assert torch.equal(layer.ffn["image"].up.weight, image.up.weight)
        has_own = query_ffn == "own" and i >= 2
        assert ("query" in layer.ffn) == has_own
        if has_own:  # a copy, not the same
            assert torch.equal(layer.ffn["query"].up.weight, image.up.weight)
            assert layer.ffn["query"].up.weight is not layer.ffn["image"].up.weight


def test_own_weights_come_back():
    model = randomise(build(query_ffn="own"))
    other = build(query_ffn="own")
    other.load_state_dict(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_a_new_ffn_of_queries_gives_what_that_of_the_image_gives():
    own, shared = build(query_ffn="own").eval(), build().eval()
    names = shared.state_dict().keys()
    shared.load_state_dict({k: v for k, v in own.state_dict().items() if k in names})
    images = torch.randn(1, 3, 64, 80)
    for a, b in zip(own(images)[0], shared(images)[0], strict=True):
        torch.testing.assert_close(a, b)


def test_learning_rates_of_queries_and_masks_are_the_highest():
    model = build(query_ffn="own")
    for name, depth in {
        "queries": 5,
        "mask_head.upscale.1.up.weight": 5,
        "layers.3.ffn.query.up.weight": 4,
        "layers.0.ffn.image.up.weight": 1,
    }.items():
        assert name in dict(model.named_parameters())
        assert model.get_layer_depth(f"backbone.{name}", "backbone.") == (depth, 6)


def test_what_is_new_is_trained_where_the_backbone_is_not():
    model = build(query_ffn="own", trained=())
    trained = {name.split(".ffn.")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"queries", "mask_head", "query"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_queries=0), "num_queries is 0"),
        (dict(num_blocks=5), "1 to 4 blocks"),
        (dict(query_ffn="both"), "query_ffn is 'both'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bfloat16_stays_near_float32():
    model = build().eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(image)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(image)[0]
    for a, b in zip(exact, rough, strict=True):
        assert (a - b.float()).abs().max() < 0.1 * a.abs().max()
