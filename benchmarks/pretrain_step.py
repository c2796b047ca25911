"""What a pretraining step gains by shared features, one pass for all views, and matrix products.

Run:  python benchmarks/pretrain_step.py [--arch tiny] [--batch 32] [--threads 1]

"shared": complete inputs and both masked views use the same input features (patches, embeddings,
audio frames); before, each computed its own. "one pass": all masked views go through encoder and
decoder together, without padding; before, one after the other, padded. "extractor": its layers as
matrix products over windows; before, torch's convolutions; forward and backward, for one second of
audio per sample. Times are CPU time of the process, so that other work on the machine matters less;
runs alternate, and the table has medians and their ratio.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from mmonepeace.layers.adapters import AudioAdapter
from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models import OnePeacePretrainer
from mmonepeace.spec import PAD_ID, get_arch, num_audio_frames

Inputs = dict[str, Any]


class SeparatePretrainer(OnePeacePretrainer):
    """Computes the features of the inputs again for each view."""

    def forward(self, inputs: Inputs, *args: Any, **kwargs: Any) -> Any:
        """As `OnePeacePretrainer.forward`."""
        self.inputs = inputs
        return super().forward(inputs, *args, **kwargs)

    def reconstruct(self, keeps: Sequence[Inputs], *_: Any) -> list[Inputs]:
        """As `OnePeacePretrainer.reconstruct`."""
        views = []
        for keep in keeps:
            features = self.backbone.features({name: self.inputs[name] for name in keep})
            views += super().reconstruct([keep], features)
        return views


def pad(model: OnePeacePretrainer) -> OnePeacePretrainer:
    """Let a model encode and decode each batch separately, padding included."""

    def encode(stack: FusionEncoder, views: Sequence[Tokens]) -> list[torch.Tensor]:
        return [stack(view, [len(stack) - 1])[0] for view in views]

    for stack in (model.backbone.layers, model.decoder.layers):
        stack.encode_packed = partial(encode, stack)
    return model


def build(cls: type[OnePeacePretrainer], stage: str, arch: str) -> OnePeacePretrainer:
    """A model of the tiny recipes."""
    torch.manual_seed(0)
    other = {"vl": dict(image={}), "al": dict(audio=dict(feature_dim=64))}[stage]
    modalities = dict(text=dict(vocab_size=2000), **other)
    backbone = dict(
        arch=arch, modalities=modalities, img_size=64, final_norm=True, layer_scale_init=0.1
    )
    return cls(backbone, stage, dict(embed_dim=192, depth=1, num_heads=3, ffn_dim=768)).train()


def data(stage: str, batch: int) -> tuple[Inputs, dict[str, Inputs]]:
    """Inputs of the tiny recipes' size, and about the fraction of positions that they keep."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(4, 2000, (batch, 8), generator=generator)
    ends = torch.randint(3, 9, (batch, 1), generator=generator)
    inputs: Inputs = {"text": texts.masked_fill(torch.arange(8) >= ends, PAD_ID)}
    lengths, kept = {"text": 9}, {"text": 0.7}
    if stage == "vl":
        inputs["image"] = torch.randn(batch, 3, 64, 64, generator=generator)
        lengths["image"], kept["image"] = 17, 0.3
    else:
        frames = num_audio_frames(24_000)
        waves = torch.randn(batch, 24_000, generator=generator)
        inputs["audio"] = (waves, torch.zeros(batch, frames, dtype=torch.bool))
        lengths["audio"], kept["audio"] = frames + 1, 0.45

    def keep(name: str) -> torch.Tensor:
        others = lengths[name] - 1
        chosen = torch.rand(batch, others, generator=generator).argsort(1)
        chosen = chosen[:, : int(others * kept[name])].sort(1).values + 1
        return torch.cat([torch.zeros(batch, 1, dtype=torch.long), chosen], 1)

    return inputs, {view: {name: keep(name) for name in inputs} for view in ("alone", "joint")}


def compare(runs: Sequence[Callable[[], None]], steps: int) -> list[float]:
    """Median times, in seconds."""
    times: list[list[float]] = [[] for _ in runs]
    for step in range(steps + 1):
        for run, values in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            if step:  # warm-up
                values.append(time.process_time() - start)
    return [statistics.median(values) for values in times]


def train(model: OnePeacePretrainer, inputs: Inputs, keeps: dict[str, Inputs]) -> None:
    """Forward and backward of a step."""
    model.zero_grad()
    model.parse_losses(model(inputs, keeps=keeps, mode="loss"))[0].backward()


def extract(layers: torch.nn.Sequential, waves: torch.Tensor, as_products: bool) -> None:
    """Forward and backward of the audio extractor."""
    if as_products:
        x = layers(waves[..., None])
    else:
        x = waves[:, None]
        for layer in layers:
            x = F.conv1d(x, layer.conv.weight, stride=layer.conv.stride).transpose(1, 2)
            x = F.gelu(layer.norm(x)).transpose(1, 2)
    x.square().mean().backward()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `python benchmarks/pretrain_step.py {' '.join(sys.argv[1:])}`")
    print(f"- Hardware: {platform.machine()}, cpu, {args.threads} threads")
    print(f"- Versions: Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| stage | way | before, s | after, s | after / before |\n|---|---|---|---|---|")
    for stage in ("vl", "al"):
        inputs, keeps = data(stage, args.batch)
        separate, padded, ours = (
            pad(build(SeparatePretrainer, stage, args.arch)),
            pad(build(OnePeacePretrainer, stage, args.arch)),
            build(OnePeacePretrainer, stage, args.arch),
        )
        for way, models in (("shared", (separate, padded)), ("one pass", (padded, ours))):
            runs = [partial(train, model, inputs, keeps) for model in models]
            show(stage, way, *compare(runs, args.steps))
    for channels, batch in ((32, 48), (512, 2)):
        adapter = AudioAdapter("audio", get_arch("tiny"), 1, feature_dim=channels)
        waves = torch.randn(batch, 16_000)
        runs = [partial(extract, adapter.extractor, waves, way) for way in (False, True)]
        show("al", f"extractor, {channels} channels", *compare(runs, args.steps))


def show(stage: str, way: str, before: float, after: float) -> None:
    """A row of the table."""
    print(f"| {stage} | {way} | {before:.3f} | {after:.3f} | {after / before:.2f} |", flush=True)


if __name__ == "__main__":
    main()
