"""Number the label maps of COCO-Stuff-164K or Cityscapes as mmsegmentation and our recipes do.

Run:    python tools/dataset_converters/label_maps.py coco_stuff164k data/coco_stuff164k
        python tools/dataset_converters/label_maps.py cityscapes data/cityscapes
Needs:  the official files, unpacked: COCO-Stuff's stuffthingmaps_trainval2017.zip in
        FOLDER/annotations/{train2017,val2017}; gtFine_trainvaltest.zip of Cityscapes in FOLDER/gtFine
Makes:  *_labelTrainIds.png beside each label map; those that are there already are kept

ADE20K and COCO's boxes and masks need no step: unpack them where the recipe says.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import numpy as np
    from downloads import DataError
    from PIL import Image
    from tqdm import tqdm

    from mmonepeace.exit_status import exit_status

IGNORED = 255
SUFFIX = "_labelTrainIds.png"


class Numbering(NamedTuple):
    """Where the label maps of a set are, and what becomes of their values.

    Args:
        pattern: of the label maps in the folder.
        ending: of their names; `SUFFIX` takes its place.
        classes: value of each class, in the order of the new numbers.
        ignored: values that belong to no class.
        published: number of label maps.
    """

    pattern: str
    ending: str
    classes: tuple[int, ...]
    ignored: tuple[int, ...]
    published: int

    def table(self) -> np.ndarray:
        """New number of each of the 256 values, -1 for those that should not occur."""
        table = np.full(256, -1, np.int16)
        table[list(self.ignored)] = IGNORED
        table[list(self.classes)] = range(len(self.classes))
        return table


# Categories that COCO lists and nobody annotated, from 0.
_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
# The 19 classes of the benchmark, of 34 labels.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
SETS = {
    "coco_stuff164k": Numbering(
        "annotations/*2017/*.png", ".png", tuple(i for i in range(182) if i not in _UNUSED),
        (*_UNUSED, 255), 123_287,
    ),
    "cityscapes": Numbering(
        "gtFine/*/*/*_gtFine_labelIds.png", "_labelIds.png", _CITYSCAPES,
        # 255: the licence plate, -1, in eight bits.
        (*(i for i in range(34) if i not in _CITYSCAPES), 255), 5_000,
    ),
}  # fmt: skip


def renumber(numbering: Numbering, path: Path) -> str:
    """Write the numbered label map of one label map.

    Returns:
        what is wrong with it, empty if nothing is.
    """
    target = path.with_name(path.name.removesuffix(numbering.ending) + SUFFIX)
    if target.is_file():
        return ""
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                return f"{path} is {image.mode}, expected one channel of 8 bits"
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path} cannot be read ({error})"
    numbers = numbering.table()[values]
    if (numbers < 0).any():
        return f"{path} has the value {values[numbers < 0][0]}, which is no label"
    with atomic_file(target) as temporary:
        Image.fromarray(numbers.astype(np.uint8)).save(temporary, "png")
    return ""


def run() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", choices=SETS, help=", ".join(SETS))
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args()
    numbering = SETS[args.name]
    paths = sorted(p for p in args.folder.glob(numbering.pattern) if not p.name.endswith(SUFFIX))
    if not paths:
        raise DataError(
            f"{args.folder} has no {numbering.pattern}. Unpack the official files there first."
        )
    with ProcessPoolExecutor(max(1, args.jobs)) as pool:
        results = pool.map(partial(renumber, numbering), paths, chunksize=16)
        problems = list(filter(None, tqdm(results, "numbering", total=len(paths), unit="map")))
    if problems:
        raise DataError(
            f"{len(problems):,} of {len(paths):,} label maps: {problems[0]}. Unpack them again; the "
            "others are done."
        )
    if len(paths) != numbering.published:
        print(
            f"warning: {len(paths):,} label maps, published are {numbering.published:,}.",
            file=sys.stderr,
        )
    print(f"{args.folder}: {len(paths):,} label maps, {len(numbering.classes)} classes.")


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        run, DataError, OSError, interrupted="stopped. Run again: finished files are kept."
    )


if __name__ == "__main__":
    sys.exit(main())
