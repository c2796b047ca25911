"""Draw predictions of a segmentor or detector on its test images, beside the ground truth.

Run:  mmonepeace show-predictions CONFIG CHECKPOINT [--num 8] [--out predictions.png]
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmonepeace import checkpoint, checks, engine, visualization
from mmonepeace.atomic_file import atomic_file
from mmonepeace.console import printable
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mmengine.config import Config


def load_samples(cfg: "Config", num: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Some test samples with image and ground truth, evenly spread, and the data set's metainfo.

    In place of a sample that cannot be read, which is named, the one after it is taken.
    """
    import numpy as np
    from mmengine.registry import DATASETS, TRANSFORMS

    from mmonepeace.checks.config import type_name, walk
    from mmonepeace.datasets.guarded_loading import GuardedLoading
    from mmonepeace.datasets.sample_errors import SampleError

    dataset_cfg = cfg.test_dataloader.dataset
    steps = [step for step in walk(dataset_cfg.pipeline) if type_name(step).startswith("Load")]
    if not any(type_name(step).endswith("Annotations") for step in steps):
        raise checks.CheckError("the pipeline of test_dataloader has no LoadAnnotations.")
    load = [GuardedLoading(TRANSFORMS.build(step)) for step in steps]
    dataset = DATASETS.build(dataset_cfg)
    wanted = np.linspace(0, len(dataset) - 1, min(num, len(dataset))).astype(int).tolist()
    samples: dict[int, dict[str, Any]] = {}
    broken = set[int]()
    for start in wanted:
        for index in range(start, len(dataset)):
            if index in samples or index in broken or (index != start and index in wanted):
                continue
            sample: Any = dataset.get_data_info(index)
            try:
                for step in load:
                    sample = step(sample)
            except SampleError as error:
                print(f"left out: {printable(str(error))}", file=sys.stderr)
                broken.add(index)
            else:
                samples[index] = sample
                break
    if not samples:
        raise checks.CheckError(f"none of {len(broken)} test images can be read.")
    return list(samples.values()), dataset.metainfo


def draw(cfg: "Config", path: Path, num: int, device: str, score_thr: float) -> "Figure":
    """Draw image | ground truth | prediction, or image with ground-truth boxes | with predicted boxes."""
    from mmonepeace.apis.dense_prediction import load_dense_model, predict_dense
    from mmonepeace.visualization.predictions import predicted_instances, true_instances

    samples, metainfo = load_samples(cfg, num)
    model = load_dense_model(cfg, path, device)
    results = predict_dense(model, [sample["img_path"] for sample in samples])
    colours = visualization.class_colours(metainfo.get("palette"), len(metainfo["classes"]))
    detection, rows = checks.is_detection(cfg), []
    for sample, result in zip(samples, results, strict=True):
        if detection:
            pair = true_instances(sample), predicted_instances(result, score_thr)
        else:
            pair = sample["gt_seg_map"], result.pred_sem_seg.data[0].cpu().numpy()
        rows.append((Path(sample["img_path"]).name, sample["img"][..., ::-1], *pair))
    draw = visualization.draw_instances if detection else visualization.draw_label_maps
    return draw(rows, metainfo["classes"], colours)


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="file, or work directory with one")
    parser.add_argument("--num", type=int, default=8, help="images, evenly spread")
    parser.add_argument("--out", type=Path, default=Path("predictions.png"))
    parser.add_argument("--data-root", help="folder of the data set, instead of the config's")
    parser.add_argument("--score-thr", type=float, default=0.3, help="lowest score of a box")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Draw."""
    from mmengine.registry import init_default_scope

    cfg = checks.read_config(args.config)
    path = checkpoint.find(args.checkpoint)
    if args.data_root:
        engine.run_options.set_data_root(cfg, args.data_root)
    checks.check_settings(cfg, ("test_dataloader",))
    checks.check_data(cfg, ("test_dataloader",))
    init_default_scope(cfg.default_scope)
    with checks.explain(cfg):
        figure = draw(cfg, path, args.num, args.device, args.score_thr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(args.out) as temporary:
        figure.savefig(temporary, format=args.out.suffix[1:] or "png")
    print(f"predictions of {path} are drawn in {args.out}")


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()))
