"""Speed, share of the machine's peak and memory of the main workloads, next to peers.

Run:  python benchmarks/bench.py [--suite quick|full] [--only NAME ...] [--device cpu|cuda]
      [--against timm,mmseg] [--arch base] [--rounds 7] [--json OUT]

All ways of a workload run in turns in one process, with a matrix product of the same dtypes between
them, whose speed is the peak that shares refer to. Memory is what a process of its own holds above
its weights (and gradients) at most. Operations are those of the blocks: linear layers and attention in
the forward pass, and twice that for the backward pass; stems, what is computed again, and padding do
not count. Makes a table, and with --json all numbers.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn

from mmonepeace.models import MultimodalDataPreprocessor, OnePeace
from mmonepeace.models.onepeace import as_arguments
from mmonepeace.spec import VOCAB_SIZE, get_arch, num_audio_frames

Run = Callable[[], object]
PEAK_SIDE = 2048  # of the matrices whose product is the peak


class Workload(NamedTuple):
    """What is measured.

    Attributes:
        title: for the table.
        suites: that it belongs to.
        ways: name of a way, or of a peer -> function of the command line that builds the model and
            gives (one run, operations of it, dtype); None where the peer is not installed.
    """

    title: str
    suites: tuple[str, ...]
    ways: dict[str, Callable[[argparse.Namespace], tuple[Run, float, torch.dtype] | None]]


# ------------------------------------------------------------------------------------- operations


def dense_operations(model: nn.Module, prefixes: tuple[str, ...] = ("",)) -> int:
    """Operations of the linear layers of a model for one token."""
    return sum(
        2 * module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefixes)
    )


def attention_operations(depth: int, dim: int, tokens: int) -> int:
    """Operations of q k^T and of weights times values for one sequence."""
    return 4 * depth * dim * tokens**2


# ------------------------------------------------------------------------------------------- images


def vit_operations(model: nn.Module, depth: int, dim: int, size: int, batch: int) -> float:
    """Of the forward pass of a vision transformer with patches of 16 px; the stem is left out."""
    tokens = (size // 16) ** 2 + 1
    return batch * (
        tokens * dense_operations(model, ("layers", "blocks"))
        + attention_operations(depth, dim, tokens)
    )


def backward_of(model: nn.Module, images: Tensor) -> Run:
    """A step without the optimiser; gradients are there before it, as in all steps but the first."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        out = model(images)
        (out[0] if isinstance(out, (tuple, list)) else out).square().mean().backward()

    return run


def inference_of(model: nn.Module, *inputs: Any) -> Run:
    """A forward pass."""
    return torch.inference_mode()(lambda: model(*inputs))


def ours(
    args: argparse.Namespace,
    size: int,
    batch: int,
    train: bool,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[Run, float, torch.dtype] | None:
    """The vision backbone; trained, it has a table for each block. None for a dtype that is slow."""
    if dtype != torch.float32 and not is_fast(dtype, args.device):
        return None
    rpb = "per_block" if train else "shared"
    model = OnePeace(args.arch, img_size=size, rpb=rpb, **options).to(args.device, dtype)
    images = torch.randn(batch, 3, size, size, device=args.device, dtype=dtype)
    arch = get_arch(args.arch)
    operations = vit_operations(model, arch.depth, arch.embed_dim, size, batch)
    if train:
        return backward_of(model.train(), images), 3 * operations, dtype
    return inference_of(model.eval(), images), operations, dtype


def timm_beit(
    args: argparse.Namespace, size: int, batch: int, train: bool, dtype: torch.dtype = torch.float32
) -> tuple[Run, float, torch.dtype] | None:
    """timm's BEiT of the base size, whose blocks have a table of relative positions each."""
    try:
        import timm
    except ImportError:
        return None
    # features alone: no pooling, no classifier
    model = timm.create_model("beit_base_patch16_224", img_size=size, num_classes=0)
    model.forward = model.forward_features
    model = model.to(args.device, dtype).train(train)
    images = torch.randn(batch, 3, size, size, device=args.device, dtype=dtype)
    operations = vit_operations(model, len(model.blocks), model.embed_dim, size, batch)
    if train:
        return backward_of(model, images), 3 * operations, dtype
    return inference_of(model, images), operations, dtype


def mmseg_beit(
    args: argparse.Namespace, size: int, batch: int, train: bool
) -> tuple[Run, float, torch.dtype] | None:
    """mmsegmentation's BEiT of the base size."""
    try:
        from mmseg.models.backbones import BEiT
    except ImportError:
        return None
    model = BEiT(img_size=(size, size), embed_dims=768, num_layers=12, num_heads=12)
    model.to(args.device).train(train)
    images = torch.randn(batch, 3, size, size, device=args.device)
    operations = vit_operations(model, 12, 768, size, batch)
    if train:
        return backward_of(model, images), 3 * operations, torch.float32
    return inference_of(model, images), operations, torch.float32


# ----------------------------------------------------------------------------------- text and audio


def ragged(
    args: argparse.Namespace, modality: str, by_length: bool
) -> tuple[Run, float, torch.dtype]:
    """64 texts of 8 to 70 tokens, or 16 sounds of 1 to 15 s; batches of 16 and 4.

    Args:
        args: of the command line.
        modality: text or audio.
        by_length: neighbours of like length share a batch, as the Embedder does it; or all
            are padded to the longest, as the official code does it.
    """
    generator = torch.Generator().manual_seed(0)
    model = OnePeace(args.arch, (modality,), final_norm=True).eval().to(args.device)
    arch = get_arch(args.arch)
    if modality == "text":
        lengths = torch.randint(8, 71, (64,), generator=generator).tolist()
        together, tokens = 16, [length + 1 for length in lengths]
        items = [torch.randint(4, VOCAB_SIZE, (n,), generator=generator) for n in lengths]
    else:
        lengths = torch.randint(16_000, 240_001, (16,), generator=generator).tolist()
        together, tokens = 4, [num_audio_frames(n) + 1 for n in lengths]
        items = [torch.randn(n, generator=generator) for n in lengths]
    pack, order, longest = MultimodalDataPreprocessor(), list(range(len(items))), []
    if by_length:
        order.sort(key=lambda i: lengths[i])
    else:
        longest = [max(items, key=len)]  # pads the others; its row is dropped
    batches = []
    for start in range(0, len(items), together):
        chosen = [items[i] for i in order[start : start + together]] + longest
        padded = as_arguments(pack({"inputs": {modality: chosen}})["inputs"][modality])
        count = len(chosen) - len(longest)
        batches.append({modality: tuple(x[:count].to(args.device) for x in padded)})

    @torch.inference_mode()
    def run() -> None:
        for inputs in batches:
            model.encode(model.embed(inputs), skip_padding=by_length)

    operations = sum(
        n * dense_operations(model, ("layers",))
        + attention_operations(arch.depth, arch.embed_dim, n)
        for n in tokens
    )
    return run, operations, torch.float32


def workloads(batch: int) -> dict[str, Workload]:
    """Name -> what is measured."""
    found = {
        "encode-256": Workload(
            f"image encode, 256 px, batch {batch}",
            ("quick", "full"),
            {
                "ours": partial(ours, size=256, batch=batch, train=False),
                "ours, bf16": partial(
                    ours, size=256, batch=batch, train=False, dtype=torch.bfloat16
                ),
                "timm BEiT": partial(timm_beit, size=256, batch=batch, train=False),
            },
        ),
    }
    for size, suites in ((512, ("quick", "full")), (896, ("full",))):
        found[f"step-{size}"] = Workload(
            f"fine-tuning step, {size} px, batch 1, RPB of each block",
            suites,
            {
                "ours": partial(ours, size=size, batch=1, train=True),
                "ours, recomputed": partial(ours, size=size, batch=1, train=True, with_cp=True),
                "timm BEiT": partial(timm_beit, size=size, batch=1, train=True),
                "mmseg BEiT": partial(mmseg_beit, size=size, batch=1, train=True),
            },
        )
    found["infer-896"] = Workload(
        "image encode, 896 px, batch 1",
        ("full",),
        {
            "ours": partial(ours, size=896, batch=1, train=False),
            "timm BEiT": partial(timm_beit, size=896, batch=1, train=False),
        },
    )
    for modality, what in (("text", "8 to 70 tokens"), ("audio", "1 to 15 s")):
        found[modality] = Workload(
            f"{modality} encode, {what}",
            ("quick", "full"),
            {
                "ours": partial(ragged, modality=modality, by_length=True),
                "padded to the longest": partial(ragged, modality=modality, by_length=False),
            },
        )
    return found


# ----------------------------------------------------------------------------------------- measuring


def seconds(run: Run, device: str) -> float:
    """Of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_product(dtype: torch.dtype, device: str) -> Run:
    """The run that the peak is measured with."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    return lambda: a @ a


def is_fast(dtype: torch.dtype, device: str) -> bool:
    """Whether the machine multiplies numbers of a dtype at least as fast as float32."""
    small, taken = torch.randn(256, 256, device=device), []
    for kind in (torch.float32, dtype):
        a = small.to(kind)
        a @ a
        taken.append(min(seconds(lambda a=a: a @ a, device) for _ in range(3)))
    return taken[1] <= taken[0]


def measure(workload: Workload, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time all ways in turns: a row for each."""
    built = {
        name: found
        for name, way in workload.ways.items()
        if wanted(name, args) and (found := way(args))
    }
    dtypes = {dtype for _, _, dtype in built.values()}
    runs = {name: run for name, (run, _, _) in built.items()}
    runs |= {dtype: matrix_product(dtype, args.device) for dtype in dtypes}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for turn in range(args.rounds + 1):
        for key, run in runs.items():
            taken = seconds(run, args.device)
            if turn:  # warm-up
                times[key].append(taken)
    for name, (_, operations, dtype) in built.items():
        middle = statistics.median(times[name])
        peak = 2 * PEAK_SIDE**3 / statistics.median(times[dtype])
        low, _, high = statistics.quantiles(times[name], n=4)
        yield {
            "workload": workload.title,
            "way": name,
            "seconds": middle,
            "quartiles": [low, high],
            "gflops": operations / middle / 1e9,
            "peak_gflops": peak / 1e9,
            "share": operations / middle / peak,
            "dtype": str(dtype).removeprefix("torch."),
        }


def wanted(way: str, args: argparse.Namespace) -> bool:
    """Whether a way is ours, or a peer that was asked for."""
    peer = way.split()[0]
    return peer not in ("timm", "mmseg") or peer in args.against


def memory_of(name: str, way: str, args: argparse.Namespace) -> float | None:
    """GB above the weights that one run in a process of its own holds at most; Linux."""
    command = [sys.executable, __file__, "--memory-of", name, way, "--device", args.device]
    command += ["--arch", args.arch, "--batch", str(args.batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout else None


def print_memory(name: str, way: str, args: argparse.Namespace) -> None:
    """What `memory_of` reads."""
    found = workloads(args.batch)[name].ways[way](args)
    if found is None:
        return
    run = found[0]
    if args.device == "cuda":
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        print((torch.cuda.max_memory_allocated() - before) / 1e9)
        return
    print_peak(run)


def print_peak(run: Run) -> None:
    """GB that a run holds at most, above what is there before it; Linux."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run()
    print((resident("VmHWM") - before) / 1e9)


def resident(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with the speed of each way against ours."""
    lines = [
        "| workload | way | s | quartiles | GFLOP/s | share of peak | time / ours | GB above weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for row in rows:
        base = first.setdefault(row["workload"], row["seconds"])
        memory = "" if row.get("memory") is None else f"{row['memory']:.2f}"
        low, high = row["quartiles"]
        lines.append(
            f"| {row['workload']} | {row['way']} | {row['seconds']:.3f} | {low:.3f} to {high:.3f} | "
            f"{row['gflops']:.0f} | {row['share']:.0%} | {row['seconds'] / base:.2f} | {memory} |"
        )
    return "\n".join(lines)


def header(args: argparse.Namespace) -> str:
    """Where and with what."""
    versions = []
    for package in ("torch", "timm", "onedl-mmsegmentation"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    where = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine() + " CPU"
    return "\n".join(
        [
            f"# Speed and memory, {args.arch}",
            "",
            f"- Date: {date.today().isoformat()}",
            f"- Command: `python benchmarks/bench.py {' '.join(sys.argv[1:])}`",
            f"- Hardware: {where}, {torch.get_num_threads()} threads",
            f"- Versions: Python {platform.python_version()}, {', '.join(versions)}",
            "",
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=("quick", "full"), default="quick")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--against", default="timm,mmseg", type=lambda text: text.split(","))
    parser.add_argument("--arch", default="base")
    parser.add_argument("--batch", type=int, default=4, help="of image encode at 256 px")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.memory_of:
        print_memory(*args.memory_of, args)
        return
    known = workloads(args.batch)
    unknown = sorted(set(args.only or ()) - set(known))
    if unknown:
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(known)}")
    names = args.only or [name for name, load in known.items() if args.suite in load.suites]
    rows = []
    for name in names:
        for row in measure(known[name], args):
            row["memory"] = memory_of(name, row["way"], args)
            rows.append(row)
            print(f"{row['workload']}: {row['way']} {row['seconds']:.3f} s", file=sys.stderr)
    print(header(args) + "\n" + table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
