import pytest
import torch
from mmengine.structures import BaseDataElement

from mmonepeace.models import OnePeaceClassifier, OnePeaceGrounder
from tests.models.test_modalities import AUDIO, TEXT, TINY

MODALITIES = {"text": TEXT, "image": {}, "audio": AUDIO}


def backbone(*names):
    return dict(arch=TINY, modalities={n: MODALITIES[n] for n in names}, img_size=64, final_norm=True)  # fmt: skip


def samples(name, values, **meta):
    return [BaseDataElement(metainfo=meta, **{name: torch.as_tensor(v)}) for v in values]


def test_candidates_share_the_audio_and_are_scored_as_if_alone():
    torch.manual_seed(0)
    ids = torch.randint(4, 60, (6, 7))
    ids[1, 5:], ids[:, -1:] = 1, 1
    audio = (torch.randn(2, 4000), torch.arange(12).expand(2, 12) >= torch.tensor([[12], [9]]))
    head = dict(num_classes=1)
    model = OnePeaceClassifier(backbone("text", "audio"), head, "text", num_candidates=3).eval()
    scores = model({"text": ids, "audio": audio})
    alone = OnePeaceClassifier(backbone("text", "audio"), head, "text").eval()
    alone.load_state_dict(model.state_dict())
    repeated = tuple(x.repeat_interleave(3, 0) for x in audio)
    expected = alone({"text": ids, "audio": repeated})
    torch.testing.assert_close(scores, expected.view(2, 3), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="different batch sizes"):
        model({"text": ids[:4], "audio": audio})


def test_candidates_need_one_score_each():
    with pytest.raises(ValueError, match="num_candidates is 4 and num_classes 2"):
        OnePeaceClassifier(backbone("text"), dict(num_classes=2), num_candidates=4)


def test_the_pooled_modality_has_to_be_there():
    with pytest.raises(ValueError, match="pool_over is 'audio'"):
        OnePeaceClassifier(backbone("text", "image"), dict(num_classes=2), "audio")
    model = OnePeaceClassifier(backbone("text", "image"), dict(num_classes=2), "image")
    with pytest.raises(ValueError, match=r"pool_over is 'image', the inputs are \('text',\)"):
        model({"text": torch.full((1, 3), 5)})


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("ClassLoss", samples("gt_label", [1, 0])),
        ("ClassLoss", samples("gt_score", [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])),
        ("MultiLabelLoss", samples("gt_score", [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])),
    ],
)
def test_training_learns_two_samples_by_heart(loss, target):
    torch.manual_seed(0)
    config = backbone("text", "image") | dict(layer_scale_init=1.0, init_std=0.1)
    model = OnePeaceClassifier(config, dict(num_classes=3), loss=dict(type=f"mmonepeace.{loss}"))
    inputs = {"text": torch.tensor([[5, 6, 2], [7, 2, 1]]), "image": torch.randn(2, 3, 64, 64)}
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        results = model(inputs, target, mode="loss")
        results["loss"].backward()
        optimiser.step()
        losses.append(results["loss"].item())
    floor = -(target[0].gt_score * target[0].gt_score.clamp(min=1e-9).log()).sum().item() / 2 if "gt_score" in target[0] and loss == "ClassLoss" else 0  # fmt: skip
    assert losses[-1] - floor < 0.1 * (losses[0] - floor)
    predicted = model(inputs, samples("gt_label", [0, 0]), mode="predict")
    assert [tuple(s.pred_score.shape) for s in predicted] == [(3,), (3,)]


def test_samples_without_targets_end_the_training_with_the_reason():
    model = OnePeaceClassifier(backbone("text"), dict(num_classes=2))
    with pytest.raises(ValueError, match=r"no gt_label.*LabelledDataset"):
        model({"text": torch.full((1, 3), 5)}, [BaseDataElement()], mode="loss")


def test_boxes_are_in_pixels_of_the_original_image():
    torch.manual_seed(0)
    model = OnePeaceGrounder(backbone("text", "image")).eval()
    inputs = {"text": torch.tensor([[5, 6, 2], [7, 8, 2]]), "image": torch.randn(2, 3, 64, 64)}
    fractions = model(inputs)
    assert fractions.shape == (2, 4)
    assert ((fractions > 0) & (fractions < 1)).all()
    data = samples("gt_box", [[10.0, 20.0, 90.0, 60.0]] * 2, ori_shape=(80, 200))
    for sample, box in zip(model(inputs, data, mode="predict"), fractions, strict=True):
        torch.testing.assert_close(sample.pred_box, box * torch.tensor([200.0, 80, 200, 80]))
    losses = model(inputs, data, mode="loss")
    target = torch.tensor([0.05, 0.25, 0.45, 0.75])
    torch.testing.assert_close(losses["loss_l1"], (fractions - target).abs().sum() / 2)
    with pytest.raises(ValueError, match="ori_shape"):
        model(inputs, samples("gt_box", [[0.0] * 4] * 2), mode="loss")


def test_boxes_are_in_float32_when_the_model_is_not():
    model = OnePeaceGrounder(backbone("text", "image")).eval()
    inputs = {"text": torch.tensor([[5, 2]]), "image": torch.randn(1, 3, 64, 64)}
    with torch.autocast("cpu", torch.bfloat16):
        (sample,) = model(inputs, samples("gt_label", [0], ori_shape=(999, 777)), mode="predict")
    assert sample.pred_box.dtype == torch.float32


def test_the_head_of_another_task_is_left_out(tmp_path):
    def model(**head):
        path = str(tmp_path / "task.pth")
        init_cfg = dict(type="Pretrained", checkpoint=path)
        return OnePeaceClassifier(backbone("text"), head, init_cfg=init_cfg)

    first = model(num_classes=3)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "task.pth")
    stored = {name: value.clone() for name, value in first.state_dict().items()}
    for head in (dict(num_classes=5), dict(num_classes=3, pooler=True), dict(num_classes=3)):
        second = model(**head)
        own = {name: value.clone() for name, value in second.head.state_dict().items()}
        second.init_weights()
        expected = {n.removeprefix("head."): v for n, v in stored.items() if n.startswith("head.")}
        expected = expected if head == dict(num_classes=3) else own
        for name, value in second.head.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=0, rtol=0)
        for name, value in second.backbone.state_dict().items():
            torch.testing.assert_close(value, stored[f"backbone.{name}"], atol=0, rtol=0)
