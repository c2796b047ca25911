"""Download official files of ONE-PEACE, or say where to get them and where to put them.

Run:    mmonepeace download one-peace.pt dict.txt vocab.bpe encoder.json --out checkpoints
        mmonepeace download --list
Makes:  OUT/FILE. A stopped download is resumed, a failed one is tried again; a file that is there is
        kept once its checksum is right

The authors publish neither sizes nor checksums of their checkpoints: the size is compared with what the
server says, and the SHA-256 is printed, for you to compare with that of others. The three vocabulary
files have known checksums. Without a network the exit status is 2, after a list of what to get
elsewhere and where to put it.
"""

import argparse
import hashlib
import shutil
import socket
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mmonepeace.exit_status import DISK_ERRORS, UserError, exit_status
from mmonepeace.official_release import FILES, OfficialFile

_BLOCK = 2**20  # bytes
_TIMEOUT = 60  # seconds without a byte
_TRIES = 5


def _progress_bar(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(unit="B", unit_scale=True, **options)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, with a progress bar."""
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        _progress_bar(total=path.stat().st_size, desc=f"checking {path.name}") as bar,
    ):
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _fetch(url: str, part: Path) -> None:
    """Append to a partial file what it lacks.

    Raises:
        OSError, HTTPException: if the connection or the server fails, or the file ends too early.
        UserError: if the disk has too little room.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise ConnectionError("a web page came in place of the file")
        if response.status != 206:  # the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise UserError(
                f"{part.parent} has {free / 1e9:.1f} GB free, {part.stem} needs "
                f"{(total - have) / 1e9:.1f} GB more. Make room, or choose another --out."
            )
        with (
            part.open("ab" if have else "wb") as file,
            _progress_bar(initial=have, total=total, desc=part.stem) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
        if total is not None and part.stat().st_size < total:
            raise ConnectionError(f"ended after {part.stat().st_size:,} of {total:,} bytes")


def download(file: OfficialFile, folder: Path, tries: int = _TRIES, wait: float = 2.0) -> str:
    """Download a file unless it is there, and check it.

    Args:
        file: what to get.
        folder: where to put it; a partial file beside it is resumed.
        tries: failures in a row after which to give up.
        wait: seconds before the second try; doubled for each more.

    Returns:
        its SHA-256.

    Raises:
        ConnectionError: if it cannot be had: no network, or no such file on the server.
        UserError: if its checksum is wrong.
    """
    target = folder / file.name
    part = folder / f"{file.name}.part"
    failures = 0
    while not target.exists():
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(file.url, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the partial file is complete, or of another version
                if error.headers.get("Content-Range", "").endswith(f"/{before}"):
                    break
                part.unlink()
                continue
            if error.code < 500:
                raise ConnectionError(f"the server says {error.code} {error.reason}") from None
            problem: Exception = error
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            reason = getattr(error, "reason", None)
            if isinstance(reason, socket.gaierror):  # no network
                raise ConnectionError(str(reason)) from None
            problem = error
        else:
            break
        progress = part.exists() and part.stat().st_size > before
        failures = 1 if progress else failures + 1
        if failures >= tries:
            raise ConnectionError(str(getattr(problem, "reason", problem)))
        time.sleep(wait * 2 ** (failures - 1))
    path = target if target.exists() else part
    digest = hash_of(path)
    if file.sha256 and digest != file.sha256:
        path.unlink()
        raise UserError(
            f"{path} had SHA-256 {digest}, expected {file.sha256}; it is removed. Run again. If it stays "
            "so, the published file has changed."
        )
    if path is part:
        part.replace(target)
    return digest


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", metavar="FILE", nargs="*", help="names, see --list")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--list", action="store_true", help="list the official files")
    args = parser.parse_args()
    if not args.files and not args.list:
        parser.error("name some files, or --list")
    return args


def run(args: argparse.Namespace) -> None:
    """Download what the command line names."""
    if args.list:
        for file in FILES:
            print(
                f"{file.name}: {file.content}; for {file.loads_into.replace('`', '')}\n    {file.url}"
            )
        return
    names = [file.name for file in FILES]
    if unknown := [name for name in args.files if name not in names]:
        raise UserError(f"{unknown[0]} is no official file. There are {', '.join(names)}.")
    args.out.mkdir(parents=True, exist_ok=True)
    lost: list[tuple[OfficialFile, str]] = []
    for file in FILES:
        if file.name not in args.files:
            continue
        try:
            digest = download(file, args.out, tries=1 if lost else _TRIES)
        except ConnectionError as error:
            lost.append((file, str(error)))
            continue
        print(f"{args.out / file.name}: SHA-256 {digest}; for {file.loads_into.replace('`', '')}")
    if lost:
        places = [f"{file.url} to {args.out / file.name}" for file, _ in lost]
        raise UserError(
            f"{lost[0][0].name} could not be downloaded: {lost[0][1]}. Run again, or get on another "
            f"machine: {'; '.join(places)}."
        )


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        lambda: run(parse_args()), interrupted="stopped. Run again: the download is resumed."
    )
