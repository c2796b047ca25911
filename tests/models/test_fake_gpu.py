"""Models run as if on a GPU, without one: no tensor on another device, no wait for a number.

Forward passes run on fake CUDA tensors, which have a device and a shape but no numbers: whatever needs
one, such as `.item()` or an `if` on a tensor, would make a GPU wait, and raises. Backward passes run on
the meta device, which raises the same; PyTorch's engine does not start on CUDA without a GPU.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample
from torch._subclasses.fake_tensor import FakeTensorMode

from mmonepeace.layers.encoder import DropPath
from mmonepeace.models import (
    OnePeace,
    OnePeaceClassifier,
    OnePeaceGrounder,
    OnePeacePretrainer,
    OnePeaceRetriever,
    OnePeaceViTDet,
)
from mmonepeace.registry import MODELS
from mmonepeace.spec import num_audio_frames

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="fake CUDA tensors need a PyTorch built for CUDA"
)

ARCH = dict(embed_dim=64, depth=2, num_heads=4, ffn_dim=128)
TEXT = dict(text=dict(vocab_size=100))
SAMPLES = 8000


def backbone(**options):
    base = dict(arch=ARCH, img_size=64, drop_path_rate=0.5, layer_scale_init=0.1)
    return base | options


def joint(**other):
    return backbone(modalities=TEXT | other, final_norm=True)


def images(device, height=64, width=64):
    return torch.empty(2, 3, height, width, device=device)


def inputs(device, *names, known=True):
    """A batch, with padded texts and audio; what is padding is known to the CPU, or only to the GPU."""
    frames = num_audio_frames(SAMPLES)
    made = {
        "text": lambda: (torch.ones(2, 7, dtype=torch.long, device=device), right(7, 4)),
        "image": lambda: images(device),
        "image_2": lambda: images(device),
        "audio": lambda: (
            torch.empty(2, SAMPLES, device=device),
            torch.ones(2, frames, dtype=torch.bool, device=device),
            right(frames, frames - 9),
        ),
    }
    batch = {name: made[name]() for name in names}
    if not known:
        batch = {name: x[:-1] if name in ("text", "audio") else x for name, x in batch.items()}
    return batch


def right(*lengths):
    """Padding on the right of sequences, for the CPU."""
    return np.arange(max(lengths)) >= np.array(lengths)[:, None]


def labels(device, **fields):
    values = {name: torch.empty(size, device=device) for name, size in fields.items()}
    return [BaseDataElement(metainfo=dict(ori_shape=(64, 64)), **values) for _ in range(2)]


def maps(height, width):
    return lambda model, device: sum(
        x.float().square().sum() for x in model(images(device, height, width))
    )


def losses(*names, known=True, **fields):
    def loss(model, device):
        samples = labels(device, **fields) if fields else None
        found = model(inputs(device, *names, known=known), samples, mode="loss")
        return sum(value for name, value in found.items() if name.startswith("loss"))

    return loss


def pretrainer(stage, **modalities):
    decoder = dict(embed_dim=32, depth=1, num_heads=2, ffn_dim=64)
    return OnePeacePretrainer(joint(**modalities), stage, decoder)


def pretraining_loss(other, tokens):
    def loss(model, device):
        keep = {}
        for name, n in {"text": 7, other: tokens}.items():
            rows = np.arange(n // 2).repeat(2).reshape(-1, 2).T
            rows[1, 2:] = -1
            keep[name] = torch.empty(rows.shape, dtype=torch.long, device=device), rows
        batch = inputs(device, "text", other)
        found = model(batch, keeps={"alone": keep, "joint": keep}, mode="loss")
        return sum(value for name, value in found.items() if name.startswith("loss"))

    return loss


def segmentor():
    norm = dict(type="BN")
    head = dict(channels=16, num_classes=3, norm_cfg=norm)
    loss = dict(type="CrossEntropyLoss", class_weight=[1.0, 2.0, 0.5])
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(
            dict(
                type="mmonepeace.EncoderDecoder",
                backbone=dict(type="mmonepeace.OnePeace", **backbone(out_indices=[0, 1])),
                decode_head=dict(
                    type="mmonepeace.UPerHead", in_index=[0, 1], loss_decode=loss, **head
                ),
                auxiliary_head=dict(type="FCNHead", in_index=1, **head),
            )
        )


def segmentation_loss(model, device):
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 64, 96, dtype=torch.long, device=device))
    found = model.loss(images(device, 64, 96), [sample] * 2)
    return sum(value for name, value in found.items() if "loss" in name)


CASES = {
    "pretraining of images": (lambda: pretrainer("vl", image={}), pretraining_loss("image", 17)),
    "pretraining of audio": (
        lambda: pretrainer("al", audio=dict(feature_dim=32)),
        pretraining_loss("audio", num_audio_frames(SAMPLES) + 1),
    ),
    "segmentor": (segmentor, segmentation_loss),
    "shared table": (lambda: OnePeace(**backbone(with_cp=False)), maps(64, 64)),
    "tables of blocks, rectangles, padding": (
        lambda: OnePeace(**backbone(rpb="per_block", with_cp=False)),
        maps(96, 70),
    ),
    "checkpointing": (lambda: OnePeace(**backbone(rpb="per_block", with_cp=True)), maps(96, 64)),
    "overlapping stem": (
        lambda: OnePeace(**backbone(arch=ARCH | dict(stem="overlapping"), with_cp=False)),
        maps(64, 96),
    ),
    "detector": (lambda: OnePeaceViTDet(**backbone(with_cp=False)), maps(128, 96)),
    "retriever of images": (
        lambda: OnePeaceRetriever(joint(image={}), gather="full"),
        losses("text", "image"),
    ),
    "retriever of audio": (
        lambda: OnePeaceRetriever(joint(audio=dict(feature_dim=32)), gather="full"),
        losses("text", "audio"),
    ),
    "padding that only a GPU knows": (
        lambda: OnePeaceRetriever(joint(audio=dict(feature_dim=32)), gather="full"),
        losses("text", "audio", known=False),
    ),
    "log-mel": (
        lambda: OnePeaceRetriever(
            joint(audio=dict(feature_dim=32, features="log-mel", spec_masks=1, equaliser=3.0))
        ),
        losses("text", "audio"),
    ),
    "classifier": (
        lambda: OnePeaceClassifier(
            joint(image={}), dict(num_classes=3), loss=dict(type="mmonepeace.MultiLabelLoss")
        ),
        losses("text", "image", gt_score=(3,)),
    ),
    "two images": (
        lambda: OnePeaceClassifier(
            joint(image={}), dict(num_classes=2, num_views=2), loss=dict(type="mmonepeace.MultiLabelLoss")
        ),
        losses("text", "image", "image_2", gt_score=(2,)),
    ),
    "grounder": (
        lambda: OnePeaceGrounder(joint(image={})),
        losses("text", "image", gt_box=(4,)),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def some_samples_are_dropped(monkeypatch):
    """Draws are from the CPU's generator, which a GPU does not wait for; here they would be fake."""
    monkeypatch.setattr(DropPath, "draw", lambda self, count: list(range(count))[:1])


def build(name, device):
    """A model in training on a device, without numbers."""
    with torch.device("meta"):
        model = CASES[name][0]().train()
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device=device)
                module._parameters[key] = torch.nn.Parameter(empty, parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = torch.empty_like(buffer, device=device)
    return model


@pytest.fixture
def autocast(request):
    """As `torch.autocast("cuda")`, which turns itself off without a GPU."""
    before = torch.get_autocast_dtype("cuda")
    if request.param is not None:
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", request.param)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", before)


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str, indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_a_forward_pass_waits_for_nothing(name):
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        loss = CASES[name][1](build(name, "cuda"), "cuda")
    assert loss.device.type == "cuda"
    assert loss.requires_grad


@pytest.mark.parametrize("name", CASES)
def test_a_backward_pass_waits_for_nothing(name, monkeypatch):
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # the meta device has none
    with torch.device("meta"):
        model = build(name, "meta")
        CASES[name][1](model, "meta").backward()
    assert any(p.grad is not None for p in model.parameters())


def test_a_wait_is_found():
    """What the other tests rely on."""
    with FakeTensorMode(), torch.device("cuda"), pytest.raises(RuntimeError):
        bool(torch.zeros(2).any())
    with pytest.raises(RuntimeError):
        bool(torch.zeros(2, device="meta").any())
