"""Ask a fine-tuned model: classes of images and sounds, answers to questions, boxes of phrases.

Run:  mmonepeace predict CKPT --images DIR
      mmonepeace predict CKPT --audios a.ogg b.ogg --top-k 3 --out classes.tsv
      mmonepeace predict CKPT --videos clips --out classes.tsv
      mmonepeace predict CKPT --images photo.jpg --text "how many dogs?" "is it raining?"
      mmonepeace predict CKPT --images photos --text "the red car" --html boxes.html
      mmonepeace predict CKPT --images left.jpg --images-2 right.jpg --text "both show a cat"
      mmonepeace predict CKPT --audios a.ogg --text "What is it?" --candidates "dog|cat|rain|car"
      mmonepeace predict CKPT --table val.tsv --columns image=image text=question --html page.html

CKPT is an official fine-tuned file or one of ours, or a folder with one; what it was trained for is
read off it. One text is asked about all files, several are asked about one file, or one about each.
In a table, the text of candidates is the official one: question&&&a&&&b&&&c&&&d&&&0. Of a table, --out
has all columns as they are, and then the predictions.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mmonepeace import apis, checkpoint, visualization
from mmonepeace.apis.sources import list_files, read_numbered_rows
from mmonepeace.choices import Dtype
from mmonepeace.commands.options import (
    add_option,
    device,
    exit_code,
    list_failed,
    make_parser,
    positive,
)
from mmonepeace.console import printable, table
from mmonepeace.datasets.manifest import read_records

if TYPE_CHECKING:
    from mmonepeace.apis import Predictor
    from mmonepeace.visualization import Answered

SHOWN, DRAWN = 20, 12  # rows in the terminal, items in a picture
BOX = ("x0", "y0", "x1", "y1")


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="file, or folder with one")
    parser.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="files, folders")
    parser.add_argument(
        "--images-2", nargs="+", type=Path, metavar="PATH", help="the second of two"
    )
    parser.add_argument("--audios", nargs="+", type=Path, metavar="PATH", help="files, folders")
    parser.add_argument("--videos", nargs="+", type=Path, metavar="PATH", help="files, animations, folders of them")  # fmt: skip
    parser.add_argument("--text", nargs="+", help="questions, phrases or statements")
    parser.add_argument("--candidates", metavar="A|B|C", help="answers to choose from")
    parser.add_argument("--table", type=Path, help="a .tsv, .csv or .jsonl, instead of these")
    parser.add_argument("--columns", nargs="+", metavar="NAME=COLUMN", help="of the table: image, image_2, audio, video, text")  # fmt: skip
    parser.add_argument("--num", type=positive, help="only the first rows of the table")
    add_option(parser, "--data-root", "--root", type=Path, help="of the table's paths")
    parser.add_argument("--classes-file", type=Path, metavar="FILE", help="a name per line")
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside CKPT")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="LoRA to merge into CKPT")
    parser.add_argument("--device", type=device, help="default: a GPU if there is one")
    parser.add_argument("--dtype", default="fp32", choices=get_args(Dtype))
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--top-k", type=positive, default=3, help="classes or answers of each item")
    parser.add_argument("--out", type=Path, metavar="TSV", help="write all predictions")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="draw them on a page")
    parser.add_argument("--png", type=Path, metavar="PICTURE", help="draw the first 12 in a grid")
    args = parser.parse_args()
    if not all(map(str.strip, args.text or [])):
        parser.error("--text has an empty text, expected some words")
    if wrong := [c for c in args.columns or [] if not all(c.partition("="))]:
        parser.error(f"--columns {wrong[0]}: expected NAME=COLUMN, such as text=question")
    if (args.table is None) is not (args.columns is None):
        parser.error("--table and --columns go together")
    if args.table and (args.images or args.audios or args.videos or args.text or args.images_2):
        parser.error("name a table, or files and texts")
    if not (args.table or args.images or args.audios or args.videos):
        parser.error("name what to look at or listen to: --images, --audios, --videos or --table")
    for path in (args.out, args.html, args.png):
        if path and path.is_dir():
            parser.error(f"{path} is a folder, expected the name of a file to write")
    return args


def read_items(
    args: argparse.Namespace, unread: dict[str, str]
) -> tuple[dict[str, list[str]], list[dict[str, str]]]:
    """The items of a table: modality -> values; and all columns of their rows."""
    columns = dict(column.partition("=")[::2] for column in args.columns)
    rows, records = (
        read_numbered_rows(args.table, columns, args.data_root),
        read_records(args.table),
    )
    whole = [(row, records[line]) for line, row in rows if len(row) == len(columns)]
    if not whole:
        raise ValueError(f"{args.table}: no row has {' and '.join(columns.values())}.")
    if lacking := len(rows) - len(whole):
        wanted = " or ".join(columns.values())
        unread[str(args.table)] = f"{args.table}: {lacking:,} rows that lack {wanted}."
    whole = whole[: args.num]
    return {name: [row[name] for row, _ in whole] for name in columns}, [r for _, r in whole]


def gather(args: argparse.Namespace, unread: dict[str, str]) -> dict[str, list[str]]:
    """Modality -> values, all of one length."""
    files = {
        "image": list_files(args.images or [], "image", unread),
        "image_2": list_files(args.images_2 or [], "image", unread),
        "audio": list_files(args.audios or [], "audio", unread),
        "video": list_files(args.videos or [], "video", unread),
        "text": args.text or [],
    }
    given = {name: list(map(str, values)) for name, values in files.items() if values}
    if not given.keys() - {"text"}:
        raise ValueError("no file was found in what was named.")
    longest = max(map(len, given.values()))
    for name, values in given.items():
        if len(values) not in (1, longest):
            counts = ", ".join(f"{len(v)} of {n}" for n, v in given.items())
            raise ValueError(f"{counts}: expected one, or as many of each.")
        given[name] = values * (longest if len(values) == 1 else 1)
    return given


def ask(
    predictor: "Predictor",
    items: dict[str, list[str]],
    args: argparse.Namespace,
    errors: dict[int, str],
) -> list["Answered"]:
    """What the model says of each item."""
    from mmonepeace.visualization import Answered

    if set(items) != set(predictor.inputs):
        raise ValueError(
            f"the model takes {' and '.join(predictor.inputs)}; {' and '.join(items)} given. Name "
            "each with --images, --images-2, --audios, --videos, --text, or in --columns of a table."
        )
    if "video" in items and (args.png or args.html):
        raise ValueError("pages and pictures show no videos: write a table, with --out.")
    if args.png and "image" not in items:
        raise ValueError("a picture shows images: write a page of audio clips, with --html.")
    count = len(next(iter(items.values())))
    shown = [{name: values[i] for name, values in items.items()} for i in range(count)]
    images, audio, video, text = (items.get(x) for x in ("image", "audio", "video", "text"))
    if predictor.task == "ground":
        boxes = predictor.ground(items["image"], items["text"], errors)
        return [Answered(item, box=box.tolist()) for item, box in zip(shown, boxes, strict=True)]
    if predictor.task == "compare":
        found = predictor.compare(items["image"], items["image_2"], items["text"], errors)
    elif text:
        text, candidates = split_candidates(predictor.model.num_candidates, text, args)
        shown = [item | {"text": question} for item, question in zip(shown, text, strict=True)]
        found = predictor.answer(text, images, audio, candidates, args.top_k, errors)
    else:
        found = predictor.classify(images, audio, args.top_k, errors, video)
    return [Answered(item, answers) for item, answers in zip(shown, found, strict=True)]


def split_candidates(
    wanted: int, texts: list[str], args: argparse.Namespace
) -> tuple[list[str], list[list[str]] | None]:
    """Questions, and the candidates of each, if the model ranks candidates: `wanted` of them."""
    if wanted == 1:
        if args.candidates:
            raise ValueError("this model does not rank candidates: leave --candidates out.")
        return texts, None
    if args.candidates:
        named = args.candidates.split("|")
        if len(named) != wanted:
            form = "|".join("abcdefgh"[:wanted])
            raise ValueError(
                f"--candidates names {len(named)}, the model ranks {wanted}: expected '{form}'."
            )
        return texts, [named] * len(texts)
    parts = [text.split("&&&") for text in texts]
    if wrong := [text for text, p in zip(texts, parts, strict=True) if len(p) != wanted + 2]:
        form = "&&&".join(["question", *"abcdefgh"[:wanted], "0"])
        where = f"{args.table}: the column of text is" if args.table else "--text is"
        other = "" if args.table else "name them with --candidates, or "
        raise ValueError(
            f"this model ranks {wanted} candidates: {other}write '{form}'; {where} {wrong[0]!r:.80}."
        )
    return [p[0] for p in parts], [p[1:-1] for p in parts]


def as_rows(answered: list["Answered"], what: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the predictions; `what` an answer is."""
    if answered[0].box is not None:
        return [*BOX], [[f"{x:.1f}" for x in a.box or ()] for a in answered]
    most = max(len(a.answers) for a in answered)
    header = [f"{name}{i}" for i in range(1, most + 1) for name in (what, "score")]
    return header, [[x for p in a.answers for x in (p.label, f"{p.score:.3f}")] for a in answered]


def write_table(
    path: Path, items: list[dict[str, str]], header: list[str], rows: list[list[str]]
) -> None:
    """Write items and what was predicted of them; a column of an earlier run is replaced."""
    names = [
        name for name in dict.fromkeys(x for item in items for x in item) if name not in header
    ]
    given = [[item.get(name, "") for name in names] for item in items]
    lines = [[*a, *b] for a, b in zip(given, rows, strict=True)]
    apis.write_table(path, [*names, *header], lines)
    print(f"{len(rows):,} predictions are in {printable(str(path))}")


def run(args: argparse.Namespace) -> None:
    """Ask, list, write."""
    unread: dict[str, str] = {}
    errors: dict[int, str] = {}
    items, records = read_items(args, unread) if args.table else (gather(args, unread), [])
    path = checkpoint.find(args.checkpoint)
    predictor = apis.Predictor.from_checkpoint(
        path, args.device, args.dtype, args.tokenizer, args.classes_file, args.adapter,
        batch_size=args.batch_size,
    )  # fmt: skip
    everything = ask(predictor, items, args, errors)
    kept = [i for i in range(len(everything)) if i not in errors]
    answered = [everything[i] for i in kept]
    if not answered:
        raise ValueError(f"none of {len(everything)} items can be read; the first: {errors[0]}")
    header, rows = as_rows(answered, "class" if predictor.task == "classify" else "answer")
    shown = [[*a.item.values(), *r] for a, r in zip(answered, rows[:SHOWN], strict=False)]
    print(table([*answered[0].item, *header], shown))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN:,} more")
    if args.out:
        given = [records[i] for i in kept] if records else [dict(a.item) for a in answered]
        write_table(args.out, given, header, rows)
    if args.html:
        visualization.write_predictions(
            args.html, answered, {"checkpoint": str(path), "task": predictor.task}
        )
        print(f"the page is {printable(str(args.html))}")
    if args.png:
        visualization.draw_predictions(answered[:DRAWN]).save(args.png)
        print(f"the picture is {printable(str(args.png))}")
    list_failed([*unread.values(), *errors.values()])


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
