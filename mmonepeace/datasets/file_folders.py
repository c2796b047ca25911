"""Images, audio files and videos of folders, told by their suffixes."""

import os
from pathlib import Path

SUFFIXES = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm"},
    "audio": {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"},
    "video": {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".gif", ".webp", ".apng"},
}


def find_files(folder: str | Path, modality: str, errors: dict[str, str]) -> list[Path]:
    """The images or audio files in a folder and its subfolders, sorted, without hidden ones.

    `errors` takes path -> reason for subfolders that cannot be entered.

    Raises:
        ValueError: if it is no folder, or has no such file.
    """
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is not a folder.")
    files = []

    def note(error: OSError) -> None:
        errors[str(error.filename)] = f"{error.filename}: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        files += [path for path in paths if path.suffix.lower() in SUFFIXES[modality]]
    if not files:
        wanted = " ".join(sorted(SUFFIXES[modality]))
        raise ValueError(f"{folder} has no {modality} files: none ends with one of {wanted}.")
    return sorted(files)
