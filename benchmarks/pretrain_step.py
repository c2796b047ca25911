"""What a pretraining step gains by sharing the extraction of its inputs, by audio convolutions as
matrix products, and what it could gain by merging its passes.

Run:  python benchmarks/pretrain_step.py [--arch tiny] [--batch 32] [--threads 1]

"shared": whole inputs and both masked views use one extraction (patches, embeddings, audio
frames), against one each. "merged": encoder passes of one token layout run as one batch of twice
the size, forward and backward, against one after the other: no merging of passes can gain more.
"extractor": its layers as matrix products over windows, against torch's convolutions, forward and
backward, for one second of sound a sample.
Times are those of the process, not of the clock, so that a busy machine tells little; they
alternate, the table gives medians and their ratio.
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
from mmonepeace.models import OnePeace, OnePeacePretrainer
from mmonepeace.spec import get_arch, num_audio_frames

Inputs = dict[str, Any]


class SeparatePretrainer(OnePeacePretrainer):
    """Extracts the inputs of each view anew."""

    def reconstruct(self, inputs: Inputs, keeps: Sequence[Inputs], *_: Any) -> list[Inputs]:
        """As `OnePeacePretrainer.reconstruct`."""
        found = []
        for keep in keeps:
            whole = {name: self.backbone.embed({name: inputs[name]}) for name in keep}
            found += super().reconstruct(inputs, [keep], None, whole)
        return found


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
    """Inputs of the tiny recipes' size, and positions of about their share."""
    generator = torch.Generator().manual_seed(0)
    inputs: Inputs = {"text": torch.randint(4, 2000, (batch, 8), generator=generator)}
    lengths, shares = {"text": 9}, {"text": 0.7}
    if stage == "vl":
        inputs["image"] = torch.randn(batch, 3, 64, 64, generator=generator)
        lengths["image"], shares["image"] = 17, 0.3
    else:
        frames = num_audio_frames(24_000)
        waves = torch.randn(batch, 24_000, generator=generator)
        inputs["audio"] = (waves, torch.zeros(batch, frames, dtype=torch.bool))
        lengths["audio"], shares["audio"] = frames + 1, 0.45

    def keep(name: str) -> torch.Tensor:
        others = lengths[name] - 1
        chosen = torch.rand(batch, others, generator=generator).argsort(1)
        chosen = chosen[:, : int(others * shares[name])].sort(1).values + 1
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


def encode(backbone: OnePeace, name: str, batches: Sequence[Any]) -> None:
    """Forward and backward of the blocks, one batch after the other."""
    for batch in batches:
        tokens = backbone.embed({name: batch})
        tokens.x_BLD = tokens.x_BLD.detach()
        backbone.encode(tokens)[name].sum().backward()


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


def twice(value: Any) -> Any:
    """A batch of every sample twice."""
    if isinstance(value, tuple):
        return tuple(map(twice, value))
    return torch.cat([value, value])


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
        models = [build(cls, stage, args.arch) for cls in (SeparatePretrainer, OnePeacePretrainer)]
        rows = {"shared": [partial(train, model, inputs, keeps) for model in models]}
        backbone = models[1].backbone
        for name, value in inputs.items():
            orders = [value, value], [twice(value)]
            rows[f"merged, {name}"] = [partial(encode, backbone, name, x) for x in orders]
        for way, runs in rows.items():
            if way != "shared":
                backbone.requires_grad_(True)  # stage two trains a part of it only
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
