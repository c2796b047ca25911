"""Heads of mmsegmentation without upsampled maps: values and gradients are those of mmsegmentation."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmonepeace.models.segmentation_heads import head_losses
from mmonepeace.registry import MODELS


@pytest.fixture(autouse=True)
def convolutions_at_the_small_size(monkeypatch):
    """Also where upsampled maps cost less."""
    monkeypatch.setattr("mmonepeace.layers.upsampled_maps._MIN_PRODUCTS", 0)


HEAD = dict(
    in_channels=[12] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=9, dropout_ratio=0.0,
    norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss"), align_corners=False,
)  # fmt: skip
CROSS_ENTROPY = [
    dict(),
    dict(avg_non_ignore=True),
    dict(class_weight=[1.5] + 8 * [0.7], loss_weight=0.4),
]


def build(kind, **options):
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(HEAD | options | dict(type=kind)).double()


def maps():
    torch.manual_seed(0)
    sizes = (24, 36), (12, 18), (6, 9), (3, 5)
    return [torch.randn(2, 12, *size, dtype=torch.float64) for size in sizes]


def samples(size=(93, 141)):
    labels = torch.randint(9, (2, 1, *size))
    labels[:, :, :20] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


@pytest.mark.parametrize("loss", CROSS_ENTROPY, ids=str)
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("UPerHead", {}),
        ("UPerHead", dict(norm_cfg=None)),
        ("FCNHead", dict(in_channels=12, in_index=1)),
    ],
)
def test_losses_and_gradients_are_those_of_mmseg(kind, options, align_corners, loss):
    options = options | dict(
        align_corners=align_corners, loss_decode=dict(type="CrossEntropyLoss", **loss)
    )
    theirs = build(kind, **options)
    ours = build("mmonepeace.UPerHead" if kind == "UPerHead" else kind, **options)
    ours.load_state_dict(theirs.state_dict())
    batch = samples()
    expected, actual = theirs.loss(maps(), batch, {}), head_losses(ours, maps(), batch, {})
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value.squeeze(), rtol=1e-6, atol=0, check_dtype=False
        )
    expected["loss_ce"].backward()
    actual["loss_ce"].backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8)
    assert_same_predictions(ours, theirs)


def assert_same_predictions(ours, theirs):
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(maps()), theirs(maps()))


def test_a_head_with_other_convolutions_computes_as_mmseg_does():
    theirs, ours = (build(kind, conv_cfg=dict(type="Conv2dAdaptivePadding"))
                    for kind in ("UPerHead", "mmonepeace.UPerHead"))  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    assert_same_predictions(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        dict(loss_decode=[dict(type="CrossEntropyLoss"), dict(type="DiceLoss", loss_name="loss_dice")]),
        dict(loss_decode=dict(type="TverskyLoss")),
        dict(sampler=dict(type="OHEMPixelSampler", thresh=0.7, min_kept=100)),
        dict(num_classes=2, out_channels=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True)),
    ],
    ids=["several", "Tversky", "sampler", "binary"],
)  # fmt: skip
def test_other_losses_are_those_of_the_head(options):
    head, batch = build("FCNHead", in_channels=12, in_index=1, **options), samples()
    for sample in batch:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data < 255] %= head.num_classes
    ours, theirs = (f(maps(), batch, {}) for f in (lambda *x: head_losses(head, *x), head.loss))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


def test_a_batch_without_a_labelled_pixel_has_no_loss():
    head, batch = build("mmonepeace.UPerHead"), samples()
    for sample in batch:
        sample.gt_sem_seg.data[:] = 255
    losses = head_losses(head, maps(), batch, {})
    losses["loss_ce"].backward()
    assert losses["loss_ce"] == 0
    assert all(p.grad.count_nonzero() == 0 for p in head.parameters())


def test_no_map_of_all_channels_is_made(monkeypatch):
    """Neither concatenated maps nor logits of full size."""
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(tuple(out.shape))
            return out

    monkeypatch.setattr("mmonepeace.layers.upsampled_maps._CPU_BAND", 2**12)
    head = build("mmonepeace.UPerHead")
    with Sizes():
        head_losses(head, maps(), samples(), {})["loss_ce"].backward()
    full = 9 * 93 * 141
    assert sizes
    assert max(torch.Size(s).numel() for s in sizes) < full
    assert (2, 32, 24, 36) not in sizes
