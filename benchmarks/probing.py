"""Probes of the features of a tiny pretraining, compared with the same model untrained.

Run:    python benchmarks/probing.py --data-root DIR --pretrained 'CKPT of seed {seed}'
Needs:  DIR/{emoji,esc10,fsdd}/{train,val}.tsv; checkpoints of benchmarks/pretraining.py
Makes:  WORK_DIR/REPORT.md, to be kept as benchmarks/probing_HARDWARE_DATE.md

As `tools/probe.py`: settings are chosen on a fifth of train, the probe is measured on val.
"""

import argparse
import json
import platform
import statistics
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.apis.probe import KINDS, probe_files
from mmonepeace.apis.sources import read_labelled_files
from mmonepeace.models import OnePeaceRetriever

# Name -> folder, modality, column of the labels.
DATA = {
    "emoji, 8 groups, a new artist": ("emoji", "image", "group"),
    "ESC-10, 10 environmental sounds": ("esc10", "audio", "label"),
    "spoken digits, 10": ("fsdd", "audio", "label"),
}
MODELS = ("pretrained", "untrained")


def probe_all(embedder: Embedder, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Top-1 in per cent of each kind of probe on each data set, and chance."""
    scores = {}
    for name, (folder, modality, label) in DATA.items():
        splits = [
            read_labelled_files(
                split, args.data_root / folder / f"{split}.tsv", modality, label, None, {}
            )
            for split in ("train", "val")
        ]
        for kind in KINDS:
            probed = probe_files(
                embedder, modality, kind, splits, args.work_dir / "cache", seed=seed
            )
            val = next(trial for trial in probed.trials if trial.chosen).evaluations["val"]
            scores[f"{name}: {kind}"] = 100 * val.top1
            scores[f"{name}: chance"] = 100 * val.majority
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--pretrained", required=True, metavar="CKPT", help="{seed} is filled in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark_probing"))
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    for seed in args.seeds:
        file = args.work_dir / f"result-{seed}.json"
        if not file.is_file():  # otherwise from an interrupted benchmark
            file.parent.mkdir(parents=True, exist_ok=True)
            path = args.pretrained.format(seed=seed)
            trained = Embedder.from_checkpoint(path, progress=False)
            torch.manual_seed(seed)
            read = checkpoint.read_own(path)
            untrained = OnePeaceRetriever(checkpoint.infer_config(read.weights, read.meta))
            models = (trained, Embedder(untrained, progress=False))
            scores = {
                name: probe_all(model, seed, args)
                for name, model in zip(MODELS, models, strict=True)
            }
            file.write_text(json.dumps(scores))
        for name, result in json.loads(file.read_text()).items():
            runs[name].append(result)
        print(f"seed {seed}", file=sys.stderr, flush=True)

    def cell(model: str, key: str) -> str:
        values = [run[key] for run in runs[model]]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.1f} ± {spread:.1f}"

    seeds = " ".join(map(str, args.seeds))
    lines = f"""# Probes of frozen features: a tiny pretraining and the same model untrained

- Date: {date.today().isoformat()}
- Command: `python benchmarks/probing.py --data-root DIR --pretrained '{args.pretrained}' --seeds {seeds}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, torch {torch.__version__}
- Top-1 in per cent on val, mean and standard deviation over seeds; chance is the most frequent class

| files, classes | chance | model | k-NN | linear | attentive |
|---|---|---|---|---|---|""".splitlines()
    for name in DATA:
        for model in MODELS:
            cells = " | ".join(cell(model, f"{name}: {kind}") for kind in KINDS)
            chance = runs[model][0][f"{name}: chance"]
            lines.append(f"| {name} | {chance:.1f} | {model} | {cells} |")
    report = args.work_dir / "REPORT.md"
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())


if __name__ == "__main__":
    main()
