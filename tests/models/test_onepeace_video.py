"""Videos: laws of the backbone and its classifier, what is trained, files in and out."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmonepeace import checkpoint
from mmonepeace.layers.encoder import EncoderLayer
from mmonepeace.layers.resampling import resample_time
from mmonepeace.models import OnePeace, OnePeaceClassifier, OnePeaceVideo, OnePeaceVideoClassifier

ARCH = dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24)
SMALL = dict(arch=ARCH, img_size=32, num_frames=4, layer_scale_init=0.5, init_std=0.2)


def videos(count=2, frames=4, side=32):
    torch.manual_seed(1)
    return torch.randn(count, frames, 3, side, side)


def moved(model):
    """A model away from its initial values, so that frames influence each other."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_adapter" in name or "temporal_embed" in name:
                parameter.normal_(0, 0.3)
    return model.eval()


def test_at_first_frames_are_computed_as_images():
    torch.manual_seed(0)
    model = OnePeaceVideo(**SMALL).eval()
    images = OnePeace(ARCH, img_size=32, final_norm=True, layer_scale_init=0.5, out_type="cls_token")  # fmt: skip
    images.eval().load_state_dict(model.state_dict(), strict=False)
    x = videos()
    torch.testing.assert_close(model(x).flatten(0, 1), images(x.flatten(0, 1))[-1])


@pytest.mark.parametrize("adapters", [1, 2])
def test_frames_see_each_other_and_videos_do_not(adapters):
    model, x = moved(OnePeaceVideo(**SMALL, temporal_adapters=adapters)), videos()
    other = x.clone()
    other[0, 3] += 1
    before, after = model(x), model(other)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-4
    torch.testing.assert_close(after[1], before[1])
    torch.testing.assert_close(model(x.flip(0)), before.flip(0))


def test_order_matters_only_by_the_positions_in_time():
    model, x = moved(OnePeaceVideo(**SMALL)), videos()
    assert (model(x.flip(1)).flip(1) - model(x)).abs().max() > 1e-3
    nn.init.zeros_(model.adapters["image"].temporal_embed)
    torch.testing.assert_close(model(x.flip(1)).flip(1), model(x))


def test_checkpointing_changes_nothing_and_other_lengths_and_sizes_run():
    plain = moved(OnePeaceVideo(**SMALL, trained=None))
    stored = OnePeaceVideo(**SMALL, trained=None, with_cp=True)
    stored.load_state_dict(plain.state_dict())
    losses = [model.train()(videos()).square().sum() for model in (plain, stored)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for one, two in zip(plain.parameters(), stored.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    assert plain(videos(1, 7, 48)).shape == (1, 7, 16)


def test_drop_path_drops_frames_and_keeps_the_mean():
    model = moved(OnePeaceVideo(**SMALL, drop_path_rate=0.5, trained=None))
    x, expected = videos(1), model(videos(1))
    model.train()
    torch.manual_seed(3)
    drawn = torch.stack([model(x) for _ in range(40)])
    # Each frame is dropped by itself: frames of one video vary without each other.
    varies = (drawn - drawn.mean(0)).abs().amax((-1,)) > 1e-6
    assert varies.any(0).all()
    layer = model.layers[1]
    layer.drop_path.rate = 1 - 1e-6
    torch.testing.assert_close(layer.drop_path.draw(1000), [])
    assert torch.isfinite(model(x)).all()
    assert expected.shape == (*x.shape[:2], 16)


def test_positions_in_time_are_resampled_linearly():
    table = torch.arange(4.0).view(1, 4, 1)
    assert resample_time(table, 4).flatten().tolist() == [0, 1, 2, 3]
    assert resample_time(table, 8).flatten().tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


def test_adapters_positions_final_norm_and_head_are_trained_at_the_official_rates():
    model = OnePeaceVideoClassifier(SMALL, dict(num_classes=3))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if not ("_adapter." in name and ".layers." in name)} == {
        "backbone.adapters.image.temporal_embed", "backbone.norms.image.weight",
        "backbone.norms.image.bias", "head.fc_cls.weight", "head.fc_cls.bias",
    }  # fmt: skip
    assert sum("_adapter." in name for name in trained) == 2 * 3 * 4
    from mmengine.config import Config

    from tests.conftest import ROOT

    cfg = Config.fromfile(ROOT / "configs/tasks/onepeace-giant_k400.py").optim_wrapper
    cfg.optimizer.pop("fused", None)
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates["head.fc_cls.weight"] == (3e-4, 0.05)
    assert rates["backbone.norms.image.weight"] == (3e-4, 0.0)
    assert rates["backbone.adapters.image.temporal_embed"] == pytest.approx((3e-5, 0.05))
    assert rates["backbone.layers.1.spatial_adapter.down.weight"] == pytest.approx((3e-5, 0.05))


def test_views_are_averaged_as_probabilities_and_the_loss_falls():
    model = OnePeaceVideoClassifier({**SMALL, "trained": None}, dict(num_classes=3, dropout=0.0))
    moved(model)
    x = videos(6).view(2, 3, 4, 3, 32, 32)
    each = model({"video": x.flatten(0, 1)}).softmax(1).unflatten(0, (2, 3))
    torch.testing.assert_close(model({"video": x}).softmax(1), each.mean(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    label, losses = torch.tensor([0, 2]), []
    for _ in range(8):
        loss = model.loss(model({"video": x[:, 0]}), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_frames_of_a_clip_are_augmented_alike():
    model = OnePeaceVideoClassifier(
        SMALL,
        dict(num_classes=2),
        data_preprocessor=dict(
            type="mmonepeace.MultimodalDataPreprocessor",
            augmentation=dict(rotation=30, hue=60, shift=0.2),
        ),
    )
    frame = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    data = {"inputs": {"video": [frame.expand(4, -1, -1, -1)] * 2}}
    torch.manual_seed(0)
    out = model.data_preprocessor(data, training=True)["inputs"]["video"]
    assert out.shape == (2, 4, 3, 32, 32)
    torch.testing.assert_close(out[:, 0], out[:, 3])
    assert (out[0, 0] - out[1, 0]).abs().max() > 0.1
    plain = model.data_preprocessor(data)["inputs"]["video"]
    views = {"inputs": {"video": [frame.expand(2, 4, -1, -1, -1)]}}
    viewed = model.data_preprocessor(views)["inputs"]["video"]
    torch.testing.assert_close(viewed[0, 1], plain[0])


def test_a_file_of_a_run_says_what_model_it_is(tmp_path):
    model = OnePeaceVideoClassifier({**SMALL, "temporal_adapters": 2}, dict(num_classes=3), interval=2)  # fmt: skip
    moved(model).classes = ("a", "b", "c")
    path = tmp_path / "model.safetensors"
    weights = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    checkpoint.write(path, checkpoint.Conversion(weights, model.metadata()))
    found = checkpoint.read_own(path)
    config = checkpoint.infer_model(found.weights, found.meta)
    assert config.pop("classes") == ["a", "b", "c"]
    assert config.pop("type") == "mmonepeace.OnePeaceVideoClassifier"
    assert config["interval"] == 2
    again = OnePeaceVideoClassifier(**config).eval()
    again.load_checkpoint(str(path))
    x = {"video": videos()}
    torch.testing.assert_close(again(x), model(x))


def test_a_checkpoint_of_images_starts_a_model_of_videos_and_16_frames_one_of_32(tmp_path):
    images = OnePeace(ARCH, img_size=32, layer_scale_init=0.5)
    path = tmp_path / "images.safetensors"
    checkpoint.write(path, checkpoint.Conversion(images.state_dict(), images.metadata()))
    init = dict(type="Pretrained", checkpoint=str(path))
    model = OnePeaceVideoClassifier(SMALL, dict(num_classes=3), init_cfg=init)
    model.init_weights()
    name = "layers.1.attn.q_proj.weight"
    torch.testing.assert_close(model.backbone.state_dict()[name], images.state_dict()[name])
    longer = OnePeaceVideo(**{**SMALL, "num_frames": 8})
    source = moved(OnePeaceVideo(**SMALL))
    file = tmp_path / "video.safetensors"
    checkpoint.write(file, checkpoint.Conversion(source.state_dict(), source.metadata()))
    report = longer.load_checkpoint(str(file))
    assert "resampled 4 -> 8 rows" in str(report)
    torch.testing.assert_close(
        longer.adapters["image"].temporal_embed,
        resample_time(source.adapters["image"].temporal_embed, 8),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(modalities=("image", "text")), "modalities are"),
        (dict(num_frames=0), "num_frames 0"),
        (dict(temporal_adapters=3), "temporal_adapters is 3"),
        (dict(adapter_ratio=0), "adapter_ratio is 0"),
        (dict(compiled=True), "compiled"),
    ],
)
def test_options_that_make_no_model_of_videos(options, message):
    with pytest.raises(ValueError, match=message):
        OnePeaceVideo(**{**SMALL, **options})


def test_inputs_and_losses_that_are_not_of_videos():
    model = OnePeaceVideoClassifier(SMALL, dict(num_classes=3))
    with pytest.raises(ValueError, match="expected video"):
        model({"image": videos()[:, 0]})
    with pytest.raises(ValueError, match="expected \\(batch, frames"):
        model.backbone(videos()[0])
    with pytest.raises(ValueError, match="ClassLoss"):
        OnePeaceVideoClassifier(SMALL, dict(num_classes=3), dict(type="mmonepeace.MultiLabelLoss"))
    assert isinstance(model, OnePeaceClassifier)
    assert isinstance(model.backbone.layers[0], EncoderLayer)
