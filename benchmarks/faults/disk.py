"""A disk that is full: what was there stays, and the message says what to do."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.material import STEPS, Journey, make_model
from benchmarks.faults.mutations import draw
from benchmarks.faults.processes import judge, run
from benchmarks.faults.report import Result
from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system in memory with some bytes.

    Raises:
        OSError: where it cannot be mounted, as without root.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def try_full_disk(
    journeys: dict[str, Journey], root: Path, seed: int, scale: float
) -> Iterator[Result]:
    """Train, convert and embed on a disk with too little room."""
    try:
        for journey in draw(list(journeys.values()), seed, scale):
            yield _train(journey, root)
        yield from _write(journeys["pretraining"], root)
    except OSError as error:
        print(f"full disk: SKIPPED, a small tmpfs cannot be mounted here ({error})")


def _train(journey: Journey, root: Path) -> Result:
    group = f"full disk: {journey.recipe.stem}"
    whole = root / journey.recipe.stem
    keep = ["--cfg-options", "default_hooks.checkpoint.max_keep_ckpts=-1"]
    run(*journey.arguments(whole, *keep))
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    with small_disk(root / f"{journey.recipe.stem}_disk", size * 6 // 10) as disk:
        done = run(*journey.arguments(disk / "run", *keep))
        outcome, held = judge(done)
        files = list((disk / "run").rglob("*"))
        if parts := [path.name for path in files if path.name.endswith((".part", ".partial"))]:
            return Result(group, "train", f"left {parts[0]}", False, done.stderr)
        last = (disk / "run/last_checkpoint").read_text().strip()
        try:
            checkpoint.read_run(last)
        except CheckpointError as error:
            return Result(group, "train", "a damaged checkpoint is noted", False, str(error))
        if held and Path(last).name not in done.stderr:
            outcome, held = "last whole file not named", False
        if not held:
            return Result(group, "train", outcome, held, done.stderr)
        shutil.copytree(disk / "run", root / f"{journey.recipe.stem}_moved")
    resumed = run(*journey.arguments(root / f"{journey.recipe.stem}_moved", "--resume", *keep))
    end = root / f"{journey.recipe.stem}_moved/iter_{STEPS}.pth"
    held = not resumed.returncode and end.exists()
    return Result(
        group, "train", "refused, then resumed" if held else "not resumed", held, resumed.stderr
    )


def _write(pretraining: Journey, root: Path) -> Iterator[Result]:
    model = make_model(root / "disk_model")
    pairs = Path(pretraining.options[1])
    with small_disk(root / "disk_tools", model.stat().st_size // 2) as disk:
        out = disk / "out.safetensors"
        for name, arguments in {
            "convert": ["convert_checkpoint.py", model, out, "--to", "full"],
            "embed": ["embed.py", model, "--images", pairs, "--out", out],
        }.items():
            filler = disk / "filler"
            free = shutil.disk_usage(disk).free
            filler.write_bytes(bytes(max(free - 4096, 0)))
            done = run(*arguments)
            outcome, held = judge(done)
            if [path for path in disk.iterdir() if path.is_file() and path != filler]:
                outcome, held = "left a part", False
            filler.unlink()
            yield Result("full disk: other tools", name, outcome, held, done.stderr)
