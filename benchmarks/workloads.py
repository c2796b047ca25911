"""What `bench.py` measures: models, inputs and operations of each workload, of ours and of peers."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from peers import mmseg_beit, mmseg_models, timm_beit, transformers_beit
from pretrain_step import SeparatePretrainer, pad
from runs import (
    Built,
    Way,
    attention_operations,
    dense_operations,
    inference_of,
    is_fast,
    operations_of,
    vit_run,
)
from torch import Tensor, nn

from mmonepeace.apis import Embedder
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models import (
    MultimodalDataPreprocessor,
    OnePeace,
    OnePeacePretrainer,
    OnePeaceRetriever,
)
from mmonepeace.models.onepeace import as_arguments
from mmonepeace.models.widths import fill_widths
from mmonepeace.registry import MODELS
from mmonepeace.spec import LAYER_SCALE_INIT, SAMPLE_RATE, VOCAB_SIZE, get_arch, num_audio_frames

OUR_SEGMENTOR, MMSEG_SEGMENTOR = "mmonepeace.EncoderDecoder", "mmseg.EncoderDecoder"


class Workload(NamedTuple):
    """What is measured.

    Attributes:
        title: for the table.
        ways: name of a way, or of a peer -> function of the command line that builds the model;
            it gives None where the peer is not installed.
        quick: whether it belongs to the quick suite.
        curve: what it is a point of, and where: ("tokens", 257).
    """

    title: str
    ways: dict[str, Way]
    quick: bool = False
    curve: tuple[str, int] | None = None


# ------------------------------------------------------------------------------------------- images


def ours(
    args: argparse.Namespace,
    size: int,
    batch: int,
    train: bool,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Built | None:
    """The vision backbone; trained, it has a table for each block. None for a dtype that is slow."""
    if dtype != torch.float32 and not is_fast(dtype, args.device):
        return None
    rpb = "per_block" if train else "shared"
    model = OnePeace(args.arch, img_size=size, rpb=rpb, **options).to(args.device, dtype)
    images = torch.randn(batch, 3, size, size, device=args.device, dtype=dtype)
    arch = get_arch(args.arch)

    def stem(x: Tensor) -> Tokens:
        return model.embed({"image": x})

    return vit_run(model, stem, images, arch.depth, arch.embed_dim, train)


def under_autocast(way: Way) -> Way:
    """The same in mixed precision, as `--bf16` trains; None where bfloat16 is slow."""

    def build(args: argparse.Namespace) -> Built | None:
        if not is_fast(torch.bfloat16, args.device) or not (built := way(args)):
            return None

        def run() -> None:
            with torch.autocast(args.device, torch.bfloat16):
                built.run()

        return built._replace(run=run, dtype=torch.bfloat16)

    return build


def upernet(
    args: argparse.Namespace, kind: str = OUR_SEGMENTOR, channels: int = 64, beit: bool = False
) -> nn.Module:
    """A segmentor of the recipe for ADE20K at 512 px with random weights.

    Args:
        args: of the command line.
        kind: of the segmentor; one of mmseg has mmseg's head.
        channels: of the head; the recipe has 512, with which most of the time is the head's.
        beit: mmseg's BEiT of the base size as the backbone, as in mmseg's own recipe.
    """
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    mmseg_models()
    cfg = Config.fromfile(ROOT / "configs/seg/onepeace-base_upernet_ade20k-512.py")
    cfg.model.backbone.update(arch=args.arch, drop_path_rate=0.0)  # all runs compute the same
    cfg.model.decode_head.channels = channels
    cfg.model.test_cfg = dict(mode="slide", crop_size=(512, 512), stride=(341, 341))
    cfg.model = {**fill_widths(cfg.model), "type": kind}  # mmseg's own type does not fill them in
    if kind != OUR_SEGMENTOR:
        cfg.model.decode_head.type = "mmseg.UPerHead"
    if beit:
        indices = cfg.model.backbone.out_indices
        cfg.model.backbone = dict(
            type="mmseg.BEiT", img_size=(512, 512), embed_dims=768, num_layers=12, num_heads=12,
            out_indices=indices, init_values=0.1,
        )  # fmt: skip
    with DefaultScope.overwrite_default_scope("mmseg"):
        return revert_sync_batchnorm(MODELS.build(cfg.model)).to(args.device)


def segmentation_step(args: argparse.Namespace, **options: Any) -> Built:
    """Forward and backward of backbone, UPerNet of 512 channels and the auxiliary head."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = upernet(args, channels=512, **options).train()
    images = torch.randn(2, 3, 512, 512, device=args.device)  # batch norm needs more than one
    labels = torch.randint(0, 150, (1, 512, 512), device=args.device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels))] * 2

    def losses() -> dict[str, Tensor]:
        return model.loss(images, samples)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        model.parse_losses(losses())[0].backward()

    return Built(run, None if options else lambda: 3 * operations_of(losses))


def prediction(args: argparse.Namespace, **options: Any) -> Built:
    """Labels of an image of 512 px with UPerNet of 512 channels."""
    from mmseg.structures import SegDataSample

    model = upernet(args, channels=512, **options).eval()
    image = torch.randn(1, 3, 512, 512, device=args.device)
    size = image.shape[-2:]
    sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size))
    run = inference_of(model.predict, image, [sample])
    return Built(run, None if options else partial(operations_of, run))


def sliding_window(args: argparse.Namespace, kind: str) -> Built:
    """Labels of an image of 1024 x 2048 px with windows of 512 px, stride 341."""
    from mmseg.structures import SegDataSample

    model = upernet(args, kind).eval()
    images = torch.randn(1, 3, 1024, 2048, device=args.device)
    size = images.shape[-2:]
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
    run = inference_of(model.predict, images, [SegDataSample(metainfo=meta)])
    return Built(run, partial(operations_of, run) if kind == OUR_SEGMENTOR else None)


# ----------------------------------------------------------------------------------- text and audio


def ragged(args: argparse.Namespace, modality: str, by_length: bool) -> Built:
    """64 texts of 8 to 70 tokens, or 16 audio clips of 1 to 15 s; batches of 16 and 4.

    Args:
        args: of the command line.
        modality: text or audio.
        by_length: items of similar length form a batch, as in the Embedder; or all
            are padded to the longest, as the official code does it.
    """
    generator = torch.Generator().manual_seed(0)
    # Padding that the model sees must have features.
    options = {modality: {} if modality == "text" or by_length else {"padding": "compat"}}
    model = OnePeace(args.arch, options, final_norm=True).eval().to(args.device)
    arch = get_arch(args.arch)
    if modality == "text":
        lengths = torch.randint(8, 71, (64,), generator=generator).tolist()
        together, tokens = 16, [length + 1 for length in lengths]
        items = [torch.randint(4, VOCAB_SIZE, (n,), generator=generator) for n in lengths]
    else:
        lengths = torch.randint(16_000, 240_001, (16,), generator=generator).tolist()
        together, tokens = 4, [num_audio_frames(n) + 1 for n in lengths]
        items = [torch.randn(n, generator=generator) for n in lengths]
    pack, order, longest = MultimodalDataPreprocessor(), list(range(len(items))), []
    if by_length:
        order.sort(key=lambda i: lengths[i])
    else:
        longest = [max(items, key=len)]  # pads the others; its row is dropped
    batches = []
    for start in range(0, len(items), together):
        chosen = [items[i] for i in order[start : start + together]] + longest
        padded = as_arguments(pack({"inputs": {modality: chosen}})["inputs"][modality])
        count = len(chosen) - len(longest)
        kept = (x[:count] for x in padded)  # the CPU's padding is an array, and stays
        batches.append(
            {modality: tuple(x.to(args.device) if isinstance(x, Tensor) else x for x in kept)}
        )

    @torch.inference_mode()
    def run() -> None:
        for inputs in batches:
            model.encode(model.embed(inputs), skip_padding=by_length)

    operations = sum(
        n * dense_operations(model, ("layers",))
        + attention_operations(arch.depth, arch.embed_dim, n)
        + operations_of(lambda x: model.embed({modality: x}), item[None].to(args.device))
        for n, item in zip(tokens, items, strict=True)
    )
    return Built(run, operations)


def pretraining_step(args: argparse.Namespace, stage: str, as_official: bool) -> Built:
    """Forward and backward of a step: 4 images of 256 px or audio of 2 and 15 s, with texts.

    Args:
        args: of the command line.
        stage: vl or al.
        as_official: features are computed for each view, each view is encoded separately, and
            padding is computed.
    """
    generator = torch.Generator().manual_seed(0)
    other, batch, fractions = {
        "vl": ("image", 4, {"text": 0.6, "image": 0.25}),
        "al": ("audio", 2, {"text": 0.6, "audio": 0.45}),
    }[stage]
    backbone = dict(
        arch=args.arch,
        modalities=("text", other),
        final_norm=True,
        layer_scale_init=LAYER_SCALE_INIT,
    )
    cls = SeparatePretrainer if as_official else OnePeacePretrainer
    model = cls(backbone, stage).train().to(args.device)
    lengths = torch.randint(8, 71, (batch,), generator=generator).tolist()
    samples = {"text": [torch.randint(4, VOCAB_SIZE, (n,)) for n in lengths]}
    if stage == "vl":
        samples["image"] = [torch.zeros(3, 256, 256, dtype=torch.uint8)] * batch
        counts = {"image": [256] * batch}
    else:
        lengths = [2 * SAMPLE_RATE, 15 * SAMPLE_RATE]
        samples["audio"] = [torch.randn(n) for n in lengths]
        counts = {"audio": [num_audio_frames(n) for n in lengths]}
    counts["text"] = [len(x) for x in samples["text"]]

    def kept(count: int, fraction: float) -> np.ndarray:
        chosen = torch.randperm(count, generator=generator)[: max(1, int(count * fraction))]
        return np.concatenate([[0], chosen.sort().values.numpy() + 1])

    keeps = {
        view: {name: [kept(n, fractions[name]) for n in counts[name]] for name in ("text", other)}
        for view in ("alone", "joint")
    }
    data = MultimodalDataPreprocessor()({"inputs": samples, "keeps": keeps})
    if as_official:
        pad(model)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        losses = model(data["inputs"], keeps=data["keeps"], mode="loss")
        model.parse_losses(losses)[0].backward()

    return Built(run, None if as_official else partial(operations_of, run))


def embedder(
    args: argparse.Namespace,
    modality: str,
    from_files: bool = True,
    size: tuple[int, int] = (640, 480),
    **options: Any,
) -> Built:
    """16 images of a size, or 8 audio clips of 2 to 9 s, from files or from memory."""
    model = OnePeaceRetriever(
        dict(arch=args.arch, modalities=(modality,), final_norm=True, layer_scale_init=0.1)
    )
    encoder = Embedder(model.to(args.device), progress=False, batch_size=8, **options)
    folder = tempfile.TemporaryDirectory()
    if modality == "image":
        from PIL import Image

        random = np.random.default_rng(0)
        items = [random.integers(0, 255, (15, 20, 3), np.uint8) for _ in range(16)]
        items = [np.asarray(Image.fromarray(x).resize(size)) for x in items]
    else:
        items = [torch.randn(n * SAMPLE_RATE).numpy() * 0.1 for n in range(2, 10)]
    encode = getattr(encoder, f"encode_{modality}")
    if not from_files:
        given = items if modality == "image" else [(x, SAMPLE_RATE) for x in items]
        return Built(lambda: encode(given))
    paths = []
    for i, item in enumerate(items):
        path = Path(folder.name) / f"{i}.{'jpg' if modality == 'image' else 'wav'}"
        if modality == "image":
            Image.fromarray(item).save(path)
        else:
            import soundfile

            soundfile.write(path, item, SAMPLE_RATE)
        paths.append(str(path))
    return Built(lambda folder=folder: encode(paths))


# ---------------------------------------------------------------------------------------- the list


def workloads(args: argparse.Namespace) -> Mapping[str, Workload]:
    """Name -> what is measured; the command line has the batch at 256 px and more sizes."""
    peers = {
        "timm BEiT": timm_beit,
        "transformers BEiT": transformers_beit,
        "mmseg BEiT": mmseg_beit,
    }

    def against(*names: str, **options: Any) -> dict[str, Way]:
        chosen = {"ours": ours} | {name: peers[name] for name in names}
        return {name: partial(way, **options) for name, way in chosen.items()}

    everyone, found = tuple(peers), {}
    for size in (256, 896, *args.sizes):
        encode = dict(size=size, batch=args.batch if size == 256 else 1, train=False)
        found[f"encode-{size}"] = Workload(
            f"image encode, {size} px, batch {encode['batch']}",
            against(*everyone, **encode)
            | {"ours, bf16": partial(ours, **encode, dtype=torch.bfloat16)},
            quick=size == 256,
        )
    for size in (512, 896, *args.sizes):
        step = dict(size=size, batch=1, train=True)
        names = everyone if size <= 512 else ("timm BEiT",)  # others keep too much for 24 GB
        found[f"step-{size}"] = Workload(
            f"fine-tuning step, {size} px, batch 1, RPB of each block",
            against(*names, **step)
            | {
                "ours, activation checkpointing": partial(ours, **step, with_cp=True),
                "ours, bf16 autocast": under_autocast(partial(ours, **step)),
            },
            quick=size == 512,
        )
    found["step-upernet"] = Workload(
        "fine-tuning step, UPerNet of 512 channels, 512 px, batch 2",
        {
            "ours": segmentation_step,
            "ours, bf16 autocast": under_autocast(segmentation_step),
            "ours, mmseg's head and loss": partial(segmentation_step, kind=MMSEG_SEGMENTOR),
            "mmseg BEiT": partial(segmentation_step, kind=MMSEG_SEGMENTOR, beit=True),
        },
    )
    for modality, what in (("text", "8 to 70 tokens"), ("audio", "1 to 15 s")):
        found[modality] = Workload(
            f"{modality} encode, {what}",
            {
                "ours": partial(ragged, modality=modality, by_length=True),
                "ours, bf16 autocast": under_autocast(
                    partial(ragged, modality=modality, by_length=True)
                ),
                "padded to the longest": partial(ragged, modality=modality, by_length=False),
            },
            quick=True,
        )
    for stage, what in (("vl", "4 images"), ("al", "audio of 2 and 15 s")):
        found[f"pretrain-{stage}"] = Workload(
            f"pretraining step, {what} with texts",
            {
                "ours": partial(pretraining_step, stage=stage, as_official=False),
                "ours, bf16 autocast": under_autocast(
                    partial(pretraining_step, stage=stage, as_official=False)
                ),
                "padded, each view separately": partial(
                    pretraining_step, stage=stage, as_official=True
                ),
            },
        )
    found["predict-upernet"] = Workload(
        "labels of one image, UPerNet of 512 channels, 512 px",
        {
            "ours": prediction,
            "ours, bf16 autocast": under_autocast(prediction),
            "ours, mmseg's head": partial(prediction, kind=MMSEG_SEGMENTOR),
            "mmseg BEiT": partial(prediction, kind=MMSEG_SEGMENTOR, beit=True),
        },
    )
    found["sliding-window"] = Workload(
        "sliding window, UPerNet of 64 channels, 1024 x 2048 px",
        {
            "ours": partial(sliding_window, kind=OUR_SEGMENTOR),
            "mmseg's window": partial(sliding_window, kind=MMSEG_SEGMENTOR),
        },
    )
    for modality, what in (("image", "16 images of 640 x 480 px"), ("audio", "8 audio clips")):
        found[f"embedder-{modality}"] = Workload(
            f"Embedder, {what}",
            {
                "ours, files": partial(embedder, modality=modality, from_files=True),
                "ours, from memory": partial(embedder, modality=modality, from_files=False),
            },
        )
    photos = partial(embedder, modality="image", size=(4000, 3000))
    found["embedder-photos"] = Workload(
        "Embedder, 16 JPEG files of 12 megapixels",
        {"ours": photos, "ours, fast_jpeg": partial(photos, fast_jpeg=True)},
    )
    for size in (256, 512, 768, 1024):
        tokens = (size // 16) ** 2 + 1
        found[f"tokens-{tokens}"] = Workload(
            f"image encode, {tokens} tokens, batch 1",
            against(*everyone, size=size, batch=1, train=False),
            curve=("tokens", tokens),
        )
    for number in (1, 2, 4, 8, 16):
        found[f"batch-{number}"] = Workload(
            f"image encode, 256 px, batch {number}",
            against(*everyone, size=256, batch=number, train=False),
            curve=("batch", number),
        )
    return found
