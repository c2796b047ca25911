"""What is to be embedded: the files of folders, the texts of a file, the rows of a table."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmonepeace.datasets.manifest import read_manifest

TABLES = (".tsv", ".jsonl")

SUFFIXES = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm"},
    "audio": {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"},
}


def find_files(folder: str | Path, modality: str, errors: dict[str, str]) -> list[Path]:
    """The images or sounds in a folder and its subfolders, sorted; hidden ones are left out.

    Args:
        folder: where to look.
        modality: a key of `SUFFIXES`.
        errors: takes path -> reason for subfolders that cannot be entered.

    Raises:
        ValueError: if there is no folder, or no such file in it.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder.")
    found = []

    def note(error: OSError) -> None:
        errors[str(error.filename)] = f"{error.filename}: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES[modality]]
    if not found:
        wanted = " ".join(sorted(SUFFIXES[modality]))
        raise ValueError(f"{folder} has no {modality} files: none ends with one of {wanted}.")
    return sorted(found)


def list_files(paths: Iterable[Path], modality: str, errors: dict[str, str]) -> list[Path]:
    """Files as they are, and those of folders, see `find_files`."""
    found = []
    for path in paths:
        found += find_files(path, modality, errors) if path.is_dir() else [path]
    return found


def read_texts(path: str | Path, column: str = "caption") -> list[str]:
    """Different texts of a file in its order: a line each, or the column of a table (.tsv, .jsonl).

    Raises:
        OSError: if there is no such file.
        ValueError: if it holds no text, is no UTF-8, or lacks the column.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TABLES:
            texts = [row["text"] for row in read_manifest(path, {"text": column})]
        else:
            texts = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}. Save it as UTF-8.") from None
    texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not texts:
        raise ValueError(f"{path} holds no text.")
    return texts


def read_rows(
    path: str | Path, columns: Mapping[str, str], root: str | Path | None = None
) -> list[dict[str, str]]:
    """Rows of a .tsv or .jsonl whose texts, images and sounds belong together.

    Args:
        path: the table.
        columns: modality -> its column, such as `dict(image="image", text="caption")`.
        root: what paths of images and sounds are relative to; by default the table's folder.

    Returns:
        modality -> text or path, for each row that has any; empty cells are left out.

    Raises:
        OSError: if there is no such file.
        ValueError: if it has no such columns or rows.
    """
    folder = Path(root or Path(path).parent)
    return [
        {name: str(folder / value) if name in SUFFIXES else value for name, value in row.items()}
        for row in read_manifest(path, columns, complete=False)
    ]


def read_table(
    path: str | Path, path_column: str, label_column: str, root: str | Path | None = None
) -> tuple[str, list[str], list[str]]:
    """Labelled files of a .tsv or .jsonl; rows that lack one of the two columns are left out.

    Args:
        path: the table.
        path_column: of paths relative to `root`.
        label_column: of names.
        root: by default the table's folder.

    Returns:
        the modality of the files, their paths and their labels.

    Raises:
        OSError: if there is no such file.
        ValueError: if it has no such columns or rows, or the files are neither images nor sounds.
    """
    columns = {"image": path_column, "text": label_column}  # or sounds, as their names will tell
    rows = read_manifest(path, columns)
    folder = Path(root or Path(path).parent)
    paths, labels = [str(folder / r["image"]) for r in rows], [r["text"] for r in rows]
    suffixes = {Path(p).suffix.lower() for p in paths}
    for modality, known in SUFFIXES.items():
        if suffixes <= known:
            return modality, paths, labels
    raise ValueError(
        f"{path}: files of column {path_column} end with {', '.join(sorted(suffixes)[:5])}; "
        "expected images only, or sounds only."
    )
