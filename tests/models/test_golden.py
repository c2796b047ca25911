"""Golden numbers: values that the official modules gave, on parameters filled by a rule.

Features are compared in their first values, their sum and their absolute sum, padded positions
included, as the official code computes them.
"""

import math

import pytest
import torch
from torch import Tensor

from mmonepeace.models import (
    OnePeace,
    OnePeaceClassifier,
    OnePeacePretrainer,
    OnePeaceRetriever,
)
from tests import official

SIZE = {"dim": 48, "ffn": 96, "depth": 3, "heads": 4, "side": 4, "vocab": 100}
ARCH = {"embed_dim": 48, "depth": 3, "num_heads": 4, "ffn_dim": 96}
TEXT = {"vocab_size": 100}

IDS = torch.tensor([[10, 11, 12, 13, 2], [20, 21, 2, 1, 1]])
IMAGES = official.fill((2, 3, 64, 64), 1000, 2.0)
WAVES = official.fill((2, 16_000), 2000, 2.0)
WAVES[1, 10_000:] = 0
AUDIO_PAD = torch.arange(49).expand(2, -1) >= torch.tensor([[49], [30]])
INPUTS = {"text": IDS, "image": IMAGES, "audio": (WAVES, AUDIO_PAD)}


def build(shapes, modalities, tmp_path, model=OnePeaceRetriever, allow_missing=(), **options):
    backbone = dict(
        arch=ARCH,
        modalities={m: TEXT if m == "text" else {} for m in modalities},
        img_size=64,
        final_norm=True,
        rpb=options.pop("rpb", "shared"),
    )
    path = tmp_path / "official.pt"
    torch.save({"args": None, "cfg": None, "model": official.filled(shapes)}, path)
    built = model(backbone, **options)
    built.load_checkpoint(str(path), allow_missing)
    return built.eval().requires_grad_(False)


@pytest.fixture(params=[("text", "image"), ("text", "audio")], ids="+".join)
def stage(request, tmp_path):
    shapes = official.pretraining(request.param, decoder=(32, 64, 2), **SIZE)
    return request.param, shapes, build(shapes, request.param, tmp_path)


def agrees(actual: Tensor, first: str, total: float, absolute: float) -> None:
    expected = torch.tensor([float(x) for x in first.split()])
    torch.testing.assert_close(actual.flatten()[: len(expected)], expected, atol=1e-5, rtol=0)
    # Terms that cancel are rounded as the others are.
    rounding = max(5e-4, 1e-6 * absolute)
    assert actual.double().sum().item() == pytest.approx(total, abs=rounding)
    assert actual.double().abs().sum().item() == pytest.approx(absolute, rel=1e-6)


ALONE = {
    "text": (
        ("-0.213351 -0.190884 -0.176071 0.146648", -0.12176, 11.23275),
        ("-0.004430 0.083202 2.629001 -0.995591", -5.75083, 456.60877),
    ),
    "image": (
        ("-0.007157 -0.103331 -0.134596 0.128361", -2.95913, 10.82371),
        ("-1.195387 -0.337168 -0.182008 -1.402177", 29.45799, 1367.04455),
    ),
    "audio": (
        ("-0.018338 0.108067 0.052701 -0.259010", 1.13177, 10.81223),
        ("1.221505 -0.259692 0.776451 -0.314890", -95.38141, 3817.19126),
    ),
}
JOINT = {
    ("text", "image"): {
        "text": ("0.861202 -1.923228 0.242857 -0.401527", -3.04866, 440.65281),
        "image": ("-0.773283 0.273905 -0.506421 -1.008424", 39.33007, 1359.35919),
    },
    ("text", "audio"): {
        "text": ("-0.455233 1.399644 0.163630 -0.851626", 13.42519, 470.40504),
        "audio": ("1.365506 0.510742 0.702961 -0.416270", -82.13317, 3812.43557),
    },
}


def test_the_official_model_has_the_parameters_we_think(stage):
    modalities, shapes, _ = stage
    assert len(shapes) == {"image": 175, "audio": 202}[modalities[1]]


def test_one_modality(stage):
    modalities, _, model = stage
    # The values of the text alone were given for the model of text and image.
    for name in modalities if "image" in modalities else ("audio",):
        embedding, features = ALONE[name]
        agrees(model({name: INPUTS[name]})[name], *embedding)
        backbone = model.backbone
        agrees(backbone.encode(backbone.embed({name: INPUTS[name]}))[name], *features)


def test_two_modalities_together(stage):
    modalities, _, model = stage
    tokens = model.backbone.embed({name: INPUTS[name] for name in modalities})
    features = model.backbone.encode(tokens)
    for name, values in JOINT[modalities].items():
        agrees(features[name], *values)


def test_the_logit_scale_starts_at_the_official_value():
    assert OnePeaceRetriever({"arch": ARCH}).logit_scale.item() == pytest.approx(2.659260)
    assert math.log(1 / 0.07) == pytest.approx(2.659260)


@pytest.mark.parametrize(
    ("pool_over", "rows"),
    [
        (
            None,
            (
                "0.388092 -0.222840 -1.713930 -0.381020 0.399428 1.757360 -0.985025 "
                "-0.730496 -0.294761 -0.731848 -1.654783 -0.581003 -0.600354 1.118548"
            ),
        ),
        (
            "image",
            (
                "1.036914 -1.223055 -2.075237 0.071076 -0.376138 -0.094119 -0.708440 "
                "-1.248197 -0.326719 -0.920353 -1.735752 -1.053858 -0.720728 1.811403"
            ),
        ),
    ],
    ids=["text", "image"],
)
def test_classification_of_image_and_text(pool_over, rows, tmp_path):
    shapes = official.encoder(("text", "image"), tables=3, **SIZE)
    shapes |= official.classify_head(48, 4, 7)
    model = build(
        shapes,
        ("text", "image"),
        tmp_path,
        OnePeaceClassifier,
        rpb="per_block",
        head={"num_classes": 7, "pooler": True},
        pool_over=pool_over,
    )
    logits = model({"text": IDS, "image": IMAGES})
    expected = torch.tensor([float(x) for x in rows.split()]).view(2, 7)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_exported_vision_branch_under_a_linear_classifier(tmp_path):
    """The downstream layout: mean of the patches, a LayerNorm and a linear layer of its own."""
    shapes = official.image_adapter("image_adapter.", 48, 4, 4)
    shapes |= official.blocks("encoder.", ("image",), 48, 96, 3, scale=True)
    name = "image_adapter.rel_pos_table_list.0.weight"
    shapes["image_adapter.rel_pos_table.weight"] = shapes.pop(name)
    head = {
        "fc_norm.weight": (48,), "fc_norm.bias": (48,), "head.weight": (5, 48), "head.bias": (5,),
    }  # fmt: skip
    weights = official.filled(shapes | head)
    assert len(weights) == 80
    path = tmp_path / "vision.pth"
    torch.save({"model": weights}, path)
    model = OnePeace(ARCH, img_size=64).eval()
    model.load_checkpoint(str(path))
    with torch.no_grad():
        patches = model(IMAGES)[0].flatten(2).mean(2)
        normed = torch.layer_norm(patches, (48,), *(weights[f"fc_norm.{p}"] for p in ("weight", "bias")))  # fmt: skip
        logits = torch.nn.functional.linear(normed, weights["head.weight"], weights["head.bias"])
    expected = [
        [-0.029309, -1.062201, 0.409728, -0.046518, -1.669670],
        [0.254742, -1.007060, 0.288314, 0.117189, -1.664640],
    ]
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------- pretraining

DECODER = {"embed_dim": 32, "depth": 2, "num_heads": 4, "ffn_dim": 64}
IMAGE_KEEP = [
    [0, 1, 4, 6, 9, 10, 12, 14, 15],
    [0, 2, 3, 5, 7, 8, 11, 13, 16],
]


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])


def audio_keep(*masked):
    """Positions outside a range of masked ones, of two clips of 49 and 30 frames."""
    rows = [
        [i for i in range(frames + 1) if not start <= i <= end]
        for frames, (start, end) in zip((49, 30), masked, strict=True)
    ]
    return padded(rows)


KEEPS = {
    ("text", "image"): {
        "alone": {"text": padded([[0, 1, 3, 5], [0, 2, 3]]), "image": torch.tensor(IMAGE_KEEP)},
        "joint": {
            "text": padded([[0, 2, 3, 4, 5], [0, 1, 3]]),
            "image": torch.tensor(IMAGE_KEEP[::-1]),
        },
    },
    ("text", "audio"): {
        "alone": {"audio": audio_keep((5, 29), (3, 17))},
        "joint": {
            "text": padded([[0, 2, 3, 4, 5], [0, 1, 3]]),
            "audio": audio_keep((20, 41), (10, 22)),
        },
    },
}
STUDENTS = {
    ("text", "image"): {
        "alone": {
            "text": ("-1.359846 0.805928 0.003276 1.097618", 6.31176, 356.74974),
            "image": ("-0.773958 -0.513965 -0.578548 0.397781", -172.79732, 1008.17060),
        },
        "joint": {
            "text": ("-0.138349 -1.063812 0.016987 1.216658", -53.89882, 398.61061),
            "image": ("-1.172886 0.105203 -0.177826 -0.018921", -60.52904, 1138.23438),
        },
    },
    ("text", "audio"): {
        "alone": {"audio": ("-0.712861 -0.902715 -0.014393 1.528093", -53.40767, 3018.50186)}
    },
}
LOSSES = {
    ("text", "image"): {
        "loss_text_image": 1.047400,
        "loss_denoise_text": 0.5 * 2.153913,
        "loss_denoise_image": 3.530944,
        "loss_denoise_joint_text": 0.5 * 2.404993,
        "loss_denoise_joint_image": 0.5 * 3.571594,
        "total": 8.643594,
    },
    ("text", "audio"): {
        "loss_text_audio": 1.143214,
        "loss_denoise_audio": 4.461421,
        "loss_denoise_joint_text": 0.5 * 1.999898,
        "loss_denoise_joint_audio": 0.5 * 4.388501,
        "total": 8.798834,
    },
}


@pytest.mark.parametrize("modalities", LOSSES, ids="+".join)
def test_students_and_losses_of_a_pretraining_step(modalities, tmp_path):
    shapes = official.pretraining(modalities, decoder=(32, 64, 2), **SIZE)
    model = build(
        shapes,
        modalities,
        tmp_path,
        OnePeacePretrainer,
        stage="vl" if "image" in modalities else "al",
        decoder=DECODER,
        mask_padding=False,
    )
    model.logit_scale.fill_(math.log(1 / 0.07))
    keeps = KEEPS[modalities]
    for view, students in STUDENTS[modalities].items():
        keep = {name: keeps[view][name] for name in students}
        views = [keep] if view == "joint" else [{name: x} for name, x in keep.items()]
        features = model.backbone.features({name: INPUTS[name] for name in modalities})
        for view_students in model.reconstruct(views, features):
            for name, student in view_students.items():
                agrees(student, *students[name])
    losses = model(INPUTS, keeps=keeps, mode="loss")
    losses["total"] = sum(value for name, value in losses.items() if name.startswith("loss"))
    for name, expected in LOSSES[modalities].items():
        assert losses[name].item() == pytest.approx(expected, abs=1e-5)
