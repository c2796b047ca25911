"""Draw predictions of a segmentor on its test images: image | truth | prediction, with a legend.

Run:  python tools/show_predictions.py CONFIG CHECKPOINT [--num 8] [--out predictions.png]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS

from mmonepeace.checkpoint import CheckpointError
from mmonepeace.engine import preflight


def paint(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Label map (H, W) to colours (H, W, 3); labels outside the classes are white."""
    colours = np.full((*labels.shape, 3), 255, np.uint8)
    inside = labels < len(palette)
    colours[inside] = palette[labels[inside]]
    return colours


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="file, or work directory with one")
    parser.add_argument("--num", type=int, default=8, help="images, evenly spread")
    parser.add_argument("--out", type=Path, default=Path("predictions.png"))
    parser.add_argument("--data-root", help="folder of the data set, instead of the config's")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    try:
        path = preflight.find_checkpoint(args.checkpoint)
        if args.data_root:
            preflight.set_data_root(cfg, args.data_root)
        preflight.check_data(cfg, ("test_dataloader",))
    except (CheckpointError, preflight.PreflightError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    init_default_scope(cfg.default_scope)
    dataset_cfg = cfg.test_dataloader.dataset
    dataset = DATASETS.build(dataset_cfg)
    load = TRANSFORMS.build(
        next(s for s in dataset_cfg.pipeline if s["type"].endswith("LoadAnnotations"))
    )
    picks = np.linspace(0, len(dataset) - 1, min(args.num, len(dataset))).astype(int)
    infos = [load(dataset.get_data_info(int(i))) for i in picks]

    model = init_model(cfg, path, device=args.device)
    results = inference_model(model, [info["img_path"] for info in infos])

    classes, palette = (model.dataset_meta[key] for key in ("classes", "palette"))
    palette = np.array(palette, np.uint8)
    figure, axes = plt.subplots(len(infos), 3, figsize=(8, 2.6 * len(infos)), squeeze=False)
    for row, info, result in zip(axes, infos, results, strict=True):
        predicted = result.pred_sem_seg.data[0].cpu().numpy()
        scores = (predicted == info["gt_seg_map"])[info["gt_seg_map"] != 255]
        pictures = {
            Path(info["img_path"]).name: plt.imread(info["img_path"]),
            "truth": paint(info["gt_seg_map"], palette),
            f"prediction ({scores.mean():.0%} of pixels right)": paint(predicted, palette),
        }
        for axis, (title, picture) in zip(row, pictures.items(), strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    handles = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="grey", label=name)
        for name, colour in zip(classes, palette, strict=True)
    ]
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.6 / (2.6 * len(infos))))
    figure.legend(handles=handles, loc="upper center", ncols=5, fontsize=9)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(f"{len(infos)} predictions of {path} are drawn in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
