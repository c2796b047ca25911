"""Peak memory of converting a full checkpoint: to one file, to shards, and back.

Run:  python benchmarks/convert_memory.py [--gigabytes 2.2] [--dtype bfloat16] [--folder DIR]

Makes an official full file of the released widths, with as many blocks as the size asks for, and
converts it as tools/convert_checkpoint.py does, each time in a process of its own. The limit is the
mapped source, 1.3 times the largest tensor, and 1 GB.
"""

import argparse
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GB = 10**9
WIDTHS = dict(dim=1536, heads=24, ffn_dim=6144, vocab_size=50264, feature_dim=512, side=16)
CASES = (
    ("--to full", "full.pt", "own.safetensors", "full", None),
    ("--to full --shard-size 500MB", "full.pt", "many.safetensors", "full", GB // 2),
    ("--to official-full", "own.safetensors", "back.pt", "official-full", None),
    ("--to official-full, from shards", "many.safetensors", "back.pt", "official-full", None),
    ("--to vision", "full.pt", "vision.safetensors", "vision", None),
    ("--to official-vision", "vision.safetensors", "raw.pkl", "official-vision", None),
    ("--to vision, from .pkl", "raw.pkl", "vision.safetensors", "vision", None),
)


def make(path: Path, gigabytes: float, dtype_name: str) -> int:
    """Write the official full file; returns the bytes of its largest tensor."""
    import torch

    from tests.checkpoint import official

    dtype = getattr(torch, dtype_name)
    with torch.device("meta"):
        one, two = (
            sum(value.nbytes for value in official.full(depth=d, dtype=dtype, **WIDTHS).values())
            for d in (1, 2)
        )
    depth = max(1, math.ceil(1 + (gigabytes * GB - one) / (two - one)))
    weights = official.full(depth=depth, dtype=dtype, **WIDTHS)
    torch.save({"args": None, "cfg": {"task": {"max_duration": 15}}, "model": weights}, path)
    return max(value.nbytes for value in weights.values())


def measure(source: Path, out: Path, target: str, shard_size: int | None) -> tuple[int, float]:
    """Convert; returns the peak of this process in bytes, and the seconds."""
    from mmonepeace.checkpoint import convert_file

    start = time.perf_counter()
    convert_file(source, out, target, shard_size)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024, seconds


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--folder", type=Path, help="where there is room for three such files")
    args = parser.parse_args()
    import safetensors
    import torch

    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `python benchmarks/convert_memory.py {' '.join(sys.argv[1:])}`")
    print(f"- Hardware: {platform.machine()}, {torch.get_num_threads()} threads")
    print(
        f"- Versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"safetensors {safetensors.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        largest = in_own_process(make, folder / "full.pt", args.gigabytes, args.dtype)
        print(f"- Largest tensor: {largest / GB:.2f} GB\n")
        print("| conversion | source, GB | limit, GB | peak, GB | seconds |\n|---|---|---|---|---|")
        for title, source, out, target, shard_size in CASES:
            files = [p for p in folder.glob("*") if p.name.startswith(Path(source).stem)]
            size = sum(p.stat().st_size for p in files)
            limit = size + 1.3 * largest + GB
            peak, seconds = in_own_process(
                measure, folder / source, folder / out, target, shard_size
            )
            verdict = "" if peak < limit else " **over**"
            print(
                f"| `{title}` | {size / GB:.2f} | {limit / GB:.2f} | {peak / GB:.2f}{verdict} | "
                f"{seconds:.1f} |"
            )


if __name__ == "__main__":
    main()
