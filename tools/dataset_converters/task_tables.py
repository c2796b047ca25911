"""Make the tables of a task from a data set as its authors publish it.

Run:    python tools/dataset_converters/task_tables.py NAME SOURCE [SOURCE ...] --out OUT
        python tools/dataset_converters/task_tables.py --list
Needs:  the official files, see --list, in the folders SOURCE: at any depth, unpacked or in .zip and
        .tar archives. Nothing is downloaded
Makes:  OUT/SPLIT.tsv, and OUT/classes.txt with the classes in their official order

Unpacked files are used where they are; from archives, those of the samples are unpacked into OUT, and
those that are there already are kept, so a stopped run can be resumed. --subset 100 takes 100 files
of each table, always the same ones; of ESC-50, 100 of all and their folds. What is checked: files that the annotations name and the folders
lack, files in two splits, published sizes, boxes, labels, texts. The same files give the same tables.

| NAME | tables | columns |
|---|---|---|
| coco, flickr30k | train, val, test | image, caption |
| audiocaps, clotho | train, val, test | audio, caption |
| macs | train | audio, caption |
| esc50 | all, and train and val of each fold | audio, label, fold |
| fsd50k | train, val, test | audio, labels |
| vggsound | train, test | audio, label |
| avqa | train, val | audio, text |
| refcoco, refcoco+ | train, val, testA, testB | image, text, region_coord |
| refcocog | train, val, test | image, text, region_coord |
| vqa | train, val, trainval, minival, test, test-dev | question_id, image, question, refs, answers |
| nlvr2 | train, val, test | text, image1, image2, label |

To train on AudioCaps, Clotho and MACS together, name the three tables in a ConcatDataset.

Label maps of COCO-Stuff and Cityscapes: label_maps.py. ADE20K and COCO detection need no step.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import caption_sets
    import grounding_sets
    import question_sets
    import sound_label_sets
    from downloads import DataError
    from official_files import Source
    from official_tables import Options, convert, read_classes

    from mmonepeace.exit_status import exit_status

SETS = {
    **caption_sets.SETS, **sound_label_sets.SETS, **grounding_sets.SETS, **question_sets.SETS,
}  # fmt: skip


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", nargs="?", choices=SETS, help=", ".join(SETS))
    parser.add_argument("sources", metavar="SOURCE", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="default: data/NAME, of coco data/coco_karpathy")
    parser.add_argument("--list", action="store_true", help="list the sets and their files")
    parser.add_argument(
        "--subset", type=int, metavar="N", help="files of each table; of ESC-50, of all"
    )
    help = "ready list of classes or answers, in its order: .txt with a name per line, or .json"
    parser.add_argument("--classes", type=Path, metavar="FILE", help=help)
    help = "part of the rows whose files may be missing; default: 0, or 0.2 for clips of YouTube"
    parser.add_argument("--max-missing", type=float, metavar="PART", help=help)
    help = "warn about files that are in two splits, in place of an error"
    parser.add_argument("--allow-overlap", action="store_true", help=help)
    args = parser.parse_args()
    if not args.list and not (args.name and args.sources):
        parser.error("NAME and SOURCE are needed, or --list")
    if args.subset is not None and args.subset < 1:
        parser.error(f"--subset is {args.subset}, expected 1 or more; leave it out for all files")
    if args.max_missing is not None and not 0 <= args.max_missing <= 1:
        parser.error("--max-missing must be between 0 and 1")
    return args


def run() -> None:
    """Convert one set, or list all."""
    args = parse()
    if args.list:
        for name, task_set in SETS.items():
            print(f"{name}: {task_set.needs}")
        return
    task_set = SETS[args.name]
    limit = task_set.max_missing if args.max_missing is None else args.max_missing
    classes = read_classes(args.classes) if args.classes else []
    options = Options(classes, args.subset, limit, args.allow_overlap)
    out = args.out or Path("data", task_set.folder or args.name)
    convert(task_set.read, Source(args.sources, out), options)


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        run, DataError, OSError, interrupted="stopped. Run again: finished files are kept."
    )


if __name__ == "__main__":
    sys.exit(main())
