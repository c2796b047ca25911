"""A tiny data set in COCO's layout: ellipses, rectangles and triangles with boxes and masks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("ellipse", "rectangle", "triangle")
COLOURS = ((230, 60, 60), (60, 200, 80), (70, 90, 230))


def make_coco(root: Path, train: int = 8, val: int = 4) -> Path:
    """Write ROOT/{train,val}/N.png of different sizes and ROOT/annotations/instances_*.json."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            height, width = 90 + 10 * i, 150
            image = Image.fromarray(rng.integers(90, 150, (height, width, 3), np.uint8))
            draw = ImageDraw.Draw(image)
            for column in range(3):  # one beside the other: none hides another
                label = int(rng.integers(3))
                w, h = (int(v) for v in rng.integers(24, 44, 2))
                x, y = 50 * column + 2, int(rng.integers(0, height - h))
                corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
                if label == 0:
                    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
                    corners = [
                        (x + w / 2 * (1 + np.cos(t)), y + h / 2 * (1 + np.sin(t))) for t in turns
                    ]
                elif label == 2:
                    corners = [(x, y + h), (x + w / 2, y), (x + w, y + h)]
                draw.polygon(corners, fill=COLOURS[label])
                polygon = [float(v) for corner in corners for v in corner]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=10 * (label + 1),
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[polygon],
                    )
                )
            image.save(root / split / f"{i}.png")
            images.append(dict(id=i, file_name=f"{i}.png", width=width, height=height))
        categories = [dict(id=10 * (i + 1), name=name) for i, name in enumerate(CLASSES)]
        text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
        (root / f"annotations/instances_{split}.json").write_text(text)
    return root
