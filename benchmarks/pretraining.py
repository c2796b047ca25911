"""What pretraining learns on small real data: with and without its parts, compared with chance.

Stage one, three ways with the same data, steps and optimiser: ONE-PEACE; contrast only (no masked
students: a CLIP-style run of the same encoder); contrast only with a separate encoder for each
modality. Stage two starts from ONE-PEACE's first. Then retrieval is measured on the validation sets,
also from audio to images, which no step has seen together.

Run:    python benchmarks/pretraining.py --data-root DIR --seeds 0 1 2
Needs:  DIR/{emoji,flickr1k,tuxpaint,gm_instruments,esc10,fsdd}/{train,val}.tsv, see the recipes
        configs/tiny/onepeace-tiny_{vl_mixed-64,al_mixed}.py
Makes:  WORK_DIR/REPORT.md
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmonepeace import checks
from mmonepeace.checkpoint import read
from mmonepeace.engine import PretrainRunner, run_options
from mmonepeace.evaluation import RecallAtK
from mmonepeace.layers.tokens import Tokens
from mmonepeace.models import OnePeace
from mmonepeace.registry import DATASETS, MODELS

VARIANTS = {
    "full": "ONE-PEACE: shared attention, contrast and denoising",
    "contrast": "contrast only",
    "separate": "contrast only, separate encoders",
}
CAPTIONS = (
    "emoji/train.tsv", "flickr1k/train.tsv", "tuxpaint/train.tsv", "gm_instruments/train.tsv:label",
    "esc10/train.tsv", "fsdd/train.tsv",
)  # fmt: skip
# Name of a measurement -> table, columns, direction.
STAGE_ONE = {
    "emoji, group": ("emoji/val.tsv", "image=image", "text=group"),
    "emoji": ("emoji/val.tsv", "image=image", "text=caption"),
    "flickr1k": ("flickr1k/val.tsv", "image=image", "text=caption"),
    "tuxpaint": ("tuxpaint/val.tsv", "image=image", "text=caption"),
}
STAGE_TWO = {
    "gm_instruments, label": ("gm_instruments/val.tsv", "audio=audio", "text=label"),
    "esc10, label": ("esc10/val.tsv", "audio=audio", "text=label"),
    "fsdd, label": ("fsdd/val.tsv", "audio=audio", "text=label"),
    "tuxpaint, its sound": ("tuxpaint/val.tsv", "audio=effect", "image=image"),
    "tuxpaint, French": ("tuxpaint/val.tsv", "audio=speech_fr", "image=image"),
    "tuxpaint, Spanish": ("tuxpaint/val.tsv", "audio=speech_es", "image=image"),
    "tuxpaint, all sounds": (
        "tuxpaint/val.tsv",
        "audio=effect,speech_en,speech_fr,speech_es",
        "image=image",
    ),
    # Trained with their names, never with each other.
    "tuxpaint of training, all sounds": (
        "tuxpaint/train.tsv",
        "audio=effect,speech_en,speech_fr,speech_es",
        "image=image",
    ),
}


@MODELS.register_module()
class SeparateEncoders(nn.Module):
    """A separate `OnePeace` for each modality, behind the interface of one.

    Args:
        modalities: name -> options of its adapter.
        kwargs: of each `OnePeace`.
    """

    def __init__(self, modalities: dict[str, Any], **kwargs: Any) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                name: OnePeace(modalities={name: options}, **kwargs)
                for name, options in modalities.items()
            }
        )
        one = next(iter(self.encoders.values()))
        self.arch, self.init_std = one.arch, one.init_std

    @property
    def adapters(self) -> dict[str, nn.Module]:
        return {name: encoder.adapters[name] for name, encoder in self.encoders.items()}

    def init_weights(self) -> None:
        for encoder in self.encoders.values():
            encoder.init_weights()

    def embed(self, inputs: dict[str, Any]) -> Tokens:
        ((name, _),) = inputs.items()
        return self.encoders[name].embed(inputs)

    def encode(self, tokens: Tokens) -> dict[str, Tensor]:
        (name,) = tokens.lengths
        return self.encoders[name].encode(tokens)

    def metadata(self) -> dict[str, str]:
        return {"format": "separate"}


def stage_one_config(variant: str) -> Config:
    """The recipe of stage one, without what the variant leaves out."""
    cfg = Config.fromfile(ROOT / "configs/tiny/onepeace-tiny_vl_mixed-64.py")
    if variant != "full":
        cfg.model.type = "mmonepeace.OnePeaceRetriever"
        cfg.model.pop("stage"), cfg.model.pop("decoder")
        for pipeline in (cfg.train_pipeline, cfg.train_dataloader.dataset.pipeline):
            pipeline[:] = [step for step in pipeline if step.type != "mmonepeace.MaskTokens"]
    if variant == "separate":
        cfg.model.backbone.type = "mmonepeace.SeparateEncoders"
    return cfg


@torch.no_grad()
def measure(model: nn.Module, cfg: Config, sets: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Recall and chance of each direction on each validation set, in per cent."""
    tokenize = next(step for step in checks.text_steps(cfg) if step.type.endswith("Tokenize"))
    load = {
        "image": dict(type="mmonepeace.LoadImage", size=cfg.model.backbone.img_size),
        "text": dict(tokenize),
        "audio": next((step for step in cfg.val_pipeline if "LoadAudio" in step.type), None),
    }
    model.eval()
    results = {}
    for name, (table, *pair) in sets.items():
        (a, columns), (b, column) = (item.split("=") for item in pair)
        dataset = DATASETS.build(
            dict(
                type="mmonepeace.PairDataset",
                data_root=cfg.val_dataloader.dataset.data_root,
                ann_file=[
                    dict(path=table, columns={a: one, b: column}) for one in columns.split(",")
                ],
                pipeline=[load[a], load[b], dict(type="mmonepeace.PackModalities")],
                test_mode=True,
            )
        )
        metric = RecallAtK()
        for batch in DataLoader(dataset, 64, collate_fn=pseudo_collate):
            metric.process(batch, [sample.to_dict() for sample in model.val_step(batch)])
        results[name] = metric.evaluate(len(dataset))
    return results


def train_one(args: argparse.Namespace) -> None:
    """One run, in this process; its results are written to a file.

    A run whose checkpoint is there is measured again, not trained again.
    """
    torch.set_num_threads(1)
    (seed,) = args.seeds
    if args.run == "al":
        cfg = Config.fromfile(ROOT / "configs/tiny/onepeace-tiny_al_mixed.py")
        cfg.stage_one = str(args.work_dir / f"full-{seed}/iter_{args.steps}.pth")
    else:
        cfg = stage_one_config(args.run)
    cfg.work_dir = str(args.work_dir / f"{args.run}-{seed}")
    run_options.set_data_root(cfg, str(args.data_root))
    run_options.set_tokenizer(cfg, str(args.work_dir / "tokenizer.json"))
    steps = args.steps_two if args.run == "al" else args.steps
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = steps
    cfg.param_scheduler[1].end = cfg.default_hooks.checkpoint.interval = steps
    cfg.default_hooks.checkpoint.pop("save_best")
    tested = copy.deepcopy(cfg)
    cfg.randomness.seed = seed
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    result = Path(cfg.work_dir, "result.json")
    checkpoint = Path(cfg.work_dir, f"iter_{steps}.pth")
    if checkpoint.is_file():
        minutes = json.loads(result.read_text())["minutes"]
        model = MODELS.build(cfg.model)
        model.load_state_dict(read(checkpoint)[0])
    else:
        start = time.monotonic()
        model = PretrainRunner.from_cfg(cfg).train()
        minutes = (time.monotonic() - start) / 60
    scores = measure(model, tested, STAGE_TWO if args.run == "al" else STAGE_ONE)
    result.write_text(json.dumps({"minutes": minutes, "scores": scores}, indent=1))


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run, in a process of its own with one thread."""
    command = [
        sys.executable, __file__, "--data-root", str(args.data_root), "--seeds", str(seed),
        "--steps", str(args.steps), "--steps-two", str(args.steps_two),
        "--work-dir", str(args.work_dir), "--run", name,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (args.work_dir / f"{name}-{seed}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    print(f"{name}, seed {seed}: done", flush=True)
    return json.loads((args.work_dir / f"{name}-{seed}/result.json").read_text())


def spread(values: list[float]) -> str:
    """Mean, and standard deviation of the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def rows(runs: list[dict[str, Any]], label: str) -> list[str]:
    """A line for each set and direction."""
    lines = []
    for name, first in runs[0]["scores"].items():
        for direction in (key.removesuffix("_R@10_chance") for key in first if "R@10_ch" in key):
            cells = []
            for k in (1, 5, 10):
                metric = f"{direction}_R@{k}"
                values = [run["scores"][name][metric] for run in runs]
                cells.append(f"{spread(values)} ({first[f'{metric}_chance']:.1f})")
            words = direction.removeprefix("retrieval/").replace("_", " ")
            lines.append(f"| {name} | {words} | {label} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of stage one")
    parser.add_argument("--steps-two", type=int, default=300, help="of stage two")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark_pretraining"))
    parser.add_argument("--run", choices=[*VARIANTS, "al"], help="one run, in this process")
    args = parser.parse_args()
    if args.run:
        train_one(args)
        return
    args.work_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = args.work_dir / "tokenizer.json"
    captions = [str(args.data_root / name) for name in CAPTIONS]
    subprocess.run(
        [sys.executable, str(ROOT / "tools/train_tokenizer.py"), *captions, str(tokenizer),
         "--vocab-size", "2000"],
        check=True,
    )  # fmt: skip
    with ThreadPoolExecutor(args.jobs) as pool:
        first = {v: [pool.submit(run, v, seed, args) for seed in args.seeds] for v in VARIANTS}
        results = {v: [job.result() for job in jobs] for v, jobs in first.items()}
        second = [pool.submit(run, "al", seed, args) for seed in args.seeds]
        results["al"] = [job.result() for job in second]

    seeds = " ".join(map(str, args.seeds))
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "onedl-mmengine", "onedl-mmcv"))
    lines = f"""# Pretraining on small real data: what it learns, and which component helps

- Date: {date.today().isoformat()}
- Command: `python benchmarks/pretraining.py --data-root DIR --seeds {seeds} --steps {args.steps}
  --steps-two {args.steps_two}`
- Hardware: {platform.machine()} CPU, {args.jobs} runs at a time, one thread each
- Versions: Python {platform.python_version()}, {versions}
- Recipes: `configs/tiny/onepeace-tiny_{{vl_mixed-64,al_mixed}}.py`, {args.steps} steps of 128 pairs
  and {args.steps_two} steps of 48 pairs

Recall in per cent, mean ± standard deviation over the seeds, chance in brackets. Sets are held out,
except where the name says otherwise: emoji by artists, instruments by a sound bank,
photographs, noises, digits and stamps that training had not.
R@1 from images or audio to groups and labels is zero-shot accuracy.

## Stage one: images and texts

| set | direction | model | R@1 | R@5 | R@10 |
|---|---|---|---|---|---|""".splitlines()
    for variant, label in VARIANTS.items():
        lines += rows(results[variant], label)
    times = ", ".join(
        f"{label} {spread([r['minutes'] for r in results[v]])}" for v, label in VARIANTS.items()
    )
    lines += [
        "",
        f"Minutes of a run: {times}.",
        "",
        "## Stage two: audio, from the first line's runs",
    ]
    lines += ["", "| set | direction | trained on this pair | R@1 | R@5 | R@10 |"]
    lines += ["|---|---|---|---|---|---|"]
    for line in rows(results["al"], "?"):
        lines.append(line.replace("| ? |", "| never |" if "image" in line else "| yes |"))
    report = args.work_dir / "REPORT.md"
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())


if __name__ == "__main__":
    main()
