"""Do sounds find images that no step saw with them? Both stages by seeds, and the same with a control.

Run:    python benchmarks/sound_finds_images.py --data-root DIR --seeds 0 1 2
Needs:  DIR of tools/dataset_converters/common_names.py
Makes:  WORK_DIR/REPORT.md, to be kept as benchmarks/sound_finds_images_HARDWARE_DATE.md

The control has the same clips and captions, in another order: what finds images there is not the sound.
What has been done is not done again: the same command goes on after it was stopped.
"""

import argparse
import json
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

from seeds import run_tool, spread

VL = "configs/tiny/onepeace-tiny_vl_common-names-32.py"
AL = "configs/tiny/onepeace-tiny_al_common-names.py"
CONTROL = "train_dataloader.dataset.ann_file=sounds_train_shuffled.tsv"
DIRECTIONS = ("audio_to_image", "image_to_audio", "audio_to_text", "image_to_text")


def measure(args: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of a seed, of "names" and of "control"."""
    data, folder = args.data_root.resolve(), args.work_dir.resolve() / f"seed_{seed}"
    tokenizer = data / "tokenizer.json"
    if not tokenizer.exists():
        captions = (data / "images_train.tsv", data / "other_images_train.tsv")
        run_tool("train_tokenizer", *captions, tokenizer, "--vocab-size", 1000)
    common = ("--data-root", data, "--tokenizer", tokenizer)
    options = ("--cfg-options", f"randomness.seed={seed}")
    found = {}
    for way, ann_file in (("names", ()), ("control", (CONTROL,))):
        out = folder / f"{way}.json"
        if not out.exists():
            first, second = folder / "vl", folder / way
            if not (first / "last_checkpoint").exists():
                run_tool("pretrain", VL, *common, "--work-dir", first, *options)
            start = ("--stage-one", (first / "last_checkpoint").read_text().strip())
            run_tool("pretrain", AL, *common, *start, "--work-dir", second, *options, *ann_file)
            run_tool(
                "evaluate_retrieval", second, "--tokenizer", tokenizer,
                "--table", data / "sound_to_picture.tsv", "--columns", "audio=audio", "image=image",
                "--table", data / "images_val.tsv", "--columns", "image=image", "text=caption",
                "--table", data / "sounds_val.tsv", "--columns", "audio=audio", "text=caption",
                "--out", out,
            )  # fmt: skip
        found[way] = json.loads(out.read_text())["metrics"]
    return found


def report(args: argparse.Namespace, results: list[dict[str, dict[str, float]]]) -> str:
    """Tables of all seeds."""
    command = f"--data-root {args.data_root.name} --seeds {' '.join(map(str, args.seeds))}"
    lines = [
        "# Sounds find images that no step saw with them", "",
        f"- Date: {date.today()}",
        f"- Command: `python benchmarks/sound_finds_images.py {command}`",
        f"- Hardware: {platform.machine()} CPU",
        f"- Versions: Python {platform.python_version()}, torch {version('torch')}", "",
        "Per cent, mean ± standard deviation over the seeds, all values in brackets.", "",
        "| direction | chance R@1, R@5 | R@1 | R@5 | control, R@1 | control, R@5 |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for direction in DIRECTIONS:
        chance = [results[0]["names"][f"{direction}_R@{k}_chance"] for k in (1, 5)]
        cells = [
            each([result[way][f"{direction}_R@{k}"] for result in results])
            for way in ("names", "control")
            for k in (1, 5)
        ]
        name = direction.replace("_", " ")
        lines.append(f"| {name} | {chance[0]:.1f}, {chance[1]:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def each(values: list[float]) -> str:
    """Such as "48.1 ± 1.2 (47.0, 48.0, 49.3)"."""
    return f"{spread(values)} ({', '.join(f'{x:.1f}' for x in values)})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/sound_finds_images"))
    args = parser.parse_args()
    text = report(args, [measure(args, seed) for seed in args.seeds])
    (args.work_dir / "REPORT.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
