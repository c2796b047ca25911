from copy import deepcopy

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.models import OnePeace
from mmonepeace.models.distiller import on_grid, scaled
from mmonepeace.models.losses import feature_distance
from mmonepeace.models.teachers import OnePeaceTeacher, TeacherFeatures, TimmTeacher
from tests.conftest import TINY, randomise

TIMM = "vit_tiny_patch16_224"
BACKBONE = dict(arch=TINY, img_size=64, final_norm=True, layer_scale_init=1.0)


def save(path, **options):
    """A checkpoint of a random encoder; the encoder."""
    torch.manual_seed(0)
    model = randomise(OnePeace(**{**BACKBONE, **options}))
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, path)
    return model.eval()


@pytest.fixture
def teacher_file(tmp_path):
    save(tmp_path / "teacher.pth")
    return str(tmp_path / "teacher.pth")


def distiller(teacher, **options):
    config = dict(type="mmonepeace.OnePeaceDistiller", backbone=BACKBONE, teacher=teacher)
    return MODELS.build(deepcopy({**config, **options}))


def of_file(path):
    return dict(type="mmonepeace.OnePeaceTeacher", checkpoint=path)


def images(height=64, width=64, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_a_student_equal_to_its_teacher_with_identity_maps_has_no_loss(teacher_file):
    model = distiller(
        of_file(teacher_file), init_cfg=dict(type="Pretrained", checkpoint=teacher_file)
    )
    model.init_weights()
    for linear in model.maps["image"].values():
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    results = model({"image": images()}, mode="loss")
    assert set(results) == {
        "loss_image_cls", "loss_image_dense", "cosine_image_cls", "cosine_image_dense",
    }  # fmt: skip
    for name, value in results.items():
        assert value.item() == pytest.approx(1.0 if "cosine" in name else 0.0, abs=1e-5)


def test_only_the_student_learns_and_the_teacher_stays_in_eval(teacher_file):
    model = distiller(of_file(teacher_file), backbone={**BACKBONE, "drop_path_rate": 0.5}).train()
    before = deepcopy(checkpoint.read(teacher_file)[0])
    loss, _ = model.parse_losses(model({"image": images()}, mode="loss"))
    loss.backward()
    net = model.teacher.net
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[f"backbone.{k}"]) for k, v in net.state_dict().items())
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert not [name for name in model.state_dict() if "teacher" in name]


def test_the_targets_are_the_features_of_the_checkpoint(tmp_path):
    encoder = save(tmp_path / "a.pth")
    model = distiller(of_file(str(tmp_path / "a.pth")))
    with torch.no_grad():
        expected = encoder.encode(encoder.embed({"image": images()}))["image"]
    torch.testing.assert_close(model.targets({"image": images()})["image"], scaled(expected))


def test_cached_targets_give_the_loss_of_computed_ones(teacher_file):
    model = distiller(of_file(teacher_file)).eval()
    inputs = {"image": images()}
    computed = model(inputs, mode="loss")
    targets = {"image_target": model.targets(inputs)["image"].half()}
    without = dict(type="mmonepeace.OnePeaceTeacher", backbone=BACKBONE)
    reader = distiller(without, cached=True).eval()
    reader.load_state_dict(model.state_dict())
    reader.init_weights()  # reads nothing
    for name, value in reader(inputs | targets, mode="loss").items():
        torch.testing.assert_close(value, computed[name], atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="not cached"):
        reader(inputs, mode="loss")
    with pytest.raises(ValueError, match="17 tokens, those of the student of 5"):
        reader({"image": images(32, 32)} | targets, mode="loss")


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (50, 70)])
def test_a_teacher_of_timm_with_another_width_and_grid(size):
    name = "vit_small_patch8_224"
    model = distiller(dict(type="mmonepeace.TimmTeacher", name=name, pretrained=False))
    target_BLE = model.targets({"image": images(*size)})["image"]
    tokens = model.backbone.embed({"image": images(*size)}).x_BLD
    assert target_BLE.shape == (*tokens.shape[:2], 384)
    torch.testing.assert_close(
        target_BLE.mean(-1), torch.zeros(target_BLE.shape[:2]), atol=1e-5, rtol=0
    )
    loss, _ = model.parse_losses(model({"image": images(*size)}, mode="loss"))
    loss.backward()
    assert model.maps["image"]["dense"].weight.grad.abs().sum() > 0


def test_features_of_timm_are_its_own_of_images_normalised_for_it():
    torch.manual_seed(0)
    teacher = TimmTeacher(TIMM, pretrained=False)
    teacher.prepare()
    net = teacher.net
    assert net.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    raw = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.48145466, 0.4578275, 0.40821073),
                                                         (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    found = teacher("image", (raw - mean) / std)
    with torch.no_grad():
        expected = net.forward_features((raw - 0.5) / 0.5)
    assert found.grid == (4, 3)
    torch.testing.assert_close(found.x_BLD, expected, atol=1e-4, rtol=1e-4)


def test_registers_are_left_out_and_a_missing_cls_is_the_mean_of_patches():
    registers = TimmTeacher("vit_small_patch16_dinov3", pretrained=False)
    x_BLD, grid = registers("image", images())
    assert (x_BLD.shape[1], grid, registers.prefix) == (17, (4, 4), 5)
    without = TimmTeacher("vit_base_patch32_siglip_256", pretrained=False)
    x_BLD, grid = without("image", images())
    assert (x_BLD.shape[1], grid, without.prefix) == (5, (2, 2), 0)
    torch.testing.assert_close(x_BLD[:, 0], x_BLD[:, 1:].mean(1))


def test_other_grids_are_resampled_before_they_are_scaled():
    x_BLD = torch.randn(1, 17, 8)
    flat = TeacherFeatures(x_BLD[:, :1].expand(1, 17, 8), (4, 4))
    torch.testing.assert_close(on_grid(flat, 10, (3, 3)), x_BLD[:, :1].expand(1, 10, 8))
    given = TeacherFeatures(x_BLD, (4, 4))
    assert on_grid(given, 17, (4, 4)) is x_BLD
    half = on_grid(given, 5, (2, 2))
    assert half.shape == (1, 5, 8)
    assert torch.equal(half[:, 0], x_BLD[:, 0])
    with pytest.raises(ValueError, match="17 tokens of a sample, the student 9"):
        on_grid(TeacherFeatures(x_BLD, None), 9, None)


def test_padding_does_not_change_the_distance():
    x_BLD, target_BLD = torch.randn(2, 2, 3, 8).unbind()
    expected = feature_distance(x_BLD, target_BLD)
    padded = [torch.cat([x, torch.randn(2, 2, 8)], 1) for x in (x_BLD, target_BLD)]
    pad_BL = (torch.arange(5) >= 3).expand(2, 5)
    torch.testing.assert_close(feature_distance(*padded, pad_BL), expected)


def test_texts_and_audio_have_teachers_too(tmp_path):
    options = dict(modalities=dict(text=dict(vocab_size=50, num_buckets=8), image={}))
    save(tmp_path / "a.pth", **options)
    path = str(tmp_path / "a.pth")
    teacher = dict(of_file(path), modalities=("text", "image"))
    model = distiller(teacher, backbone={**BACKBONE, **options})
    ids = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1]])
    results = model({"text": (ids, (ids == 1).numpy()), "image": images()}, mode="loss")
    assert {name for name in results if name.startswith("loss")} == {
        f"loss_{m}_{part}" for m in ("text", "image") for part in ("cls", "dense")
    }
    with pytest.raises(ValueError, match=r"has the modalities text, image, the teacher image"):
        distiller(of_file(path), backbone={**BACKBONE, **options})


def test_a_checkpoint_of_a_student_is_one_of_a_backbone(teacher_file, tmp_path):
    model = distiller(of_file(teacher_file))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "student.pth")
    loaded = OnePeace(**BACKBONE)
    report = loaded.load_checkpoint(str(tmp_path / "student.pth"))
    assert report.missing == []
    assert all(
        torch.equal(v, model.backbone.state_dict()[k]) for k, v in loaded.state_dict().items()
    )
    embedder = Embedder.from_checkpoint(tmp_path / "student.pth", device="cpu", projections=False)
    assert embedder.model.backbone.arch.embed_dim == TINY["embed_dim"]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (dict(type="mmonepeace.TimmTeacher", name="vit_tin_patch16_224"), "Did you mean vit_tiny_patch16_224"),
        (dict(type="mmonepeace.TimmTeacher", name="resnet18"), "no sequence of patches"),
        (dict(type="mmonepeace.TimmTeacher", name="vit_tiny_patch16_18x2"), "timm"),
        (dict(type="mmonepeace.OnePeaceTeacher"), "neither checkpoint nor backbone"),
        (dict(type="mmonepeace.OnePeaceTeacher", checkpoint="/nowhere.pth"), "/nowhere.pth"),
        (dict(type="mmonepeace.TimmTeacher", name=TIMM, dtype="int8"), "choose float32 or bfloat16"),
    ],
)  # fmt: skip
def test_a_wrong_teacher_is_refused(teacher, message):
    with pytest.raises((ValueError, checkpoint.CheckpointError), match=message):
        distiller(teacher)


def test_a_file_without_the_branch_is_refused(teacher_file):
    with pytest.raises(ValueError, match=r"modalities has audio, but .* has image"):
        OnePeaceTeacher(teacher_file, modalities=("audio",))


def test_weights_of_losses_are_checked(teacher_file):
    with pytest.raises(ValueError, match="expected at least 0"):
        distiller(of_file(teacher_file), cls_weight=0, dense_weight=0)
    model = distiller(of_file(teacher_file), cls_weight=0)
    assert set(model({"image": images()}, mode="loss")) == {
        "loss_image_dense",
        "cosine_image_dense",
    }
    with pytest.raises(ValueError, match="mode is 'predict'"):
        model({"image": images()}, mode="predict")
