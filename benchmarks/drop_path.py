"""What skipping the dropped samples saves: a training step of one block, compared with masking.

Run:  python benchmarks/drop_path.py [--arch tiny] [--batch 16] [--grid 16] [--device cpu]

Both ways draw the same samples; times alternate, the table gives medians and their ratio.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from mmonepeace.layers.encoder import DropPath, EncoderLayer
from mmonepeace.spec import get_arch


class MaskedDropPath(DropPath):
    """The usual way: compute everything, then multiply by the mask."""

    def forward(
        self, x: Tensor, branch: Callable[[Tensor, Tensor | None], Tensor], scale: Tensor
    ) -> Tensor:
        """As `DropPath.forward`."""
        kept = (torch.rand(len(x), device="cpu") < 1 - self.rate).to(x)
        return x + branch(x, None) * scale * kept[:, None, None] / (1 - self.rate)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--grid", type=int, default=16, help="side, in patches")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    arch, length = get_arch(args.arch), args.grid**2 + 1
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `python benchmarks/drop_path.py {' '.join(sys.argv[1:])}`")
    print(f"- Hardware: {platform.machine()}, {args.device}, {torch.get_num_threads()} threads")
    print(f"- Versions: Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| rate | masked, ms | skipped, ms | skipped / masked |\n|---|---|---|---|")
    for rate in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        torch.manual_seed(0)
        layer = EncoderLayer(arch, ["image"], rate, 0.1).to(args.device).train()
        ways = {"masked": MaskedDropPath(rate), "skipped": DropPath(rate)}
        x = torch.randn(args.batch, length, arch.embed_dim, device=args.device, requires_grad=True)
        bias = torch.randn(1, arch.num_heads, length, length, device=args.device)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for step in range(args.steps + 3):
            for name, way in ways.items():
                layer.drop_path = way.train()
                torch.manual_seed(step)
                start = time.perf_counter()
                layer(x, {"image": length}, bias).sum().backward()
                if args.device != "cpu":
                    torch.cuda.synchronize()
                if step >= 3:  # warm-up
                    times[name].append(time.perf_counter() - start)
        masked, skipped = (statistics.median(times[name]) * 1e3 for name in ways)
        print(f"| {rate} | {masked:.1f} | {skipped:.1f} | {skipped / masked:.2f} |")


if __name__ == "__main__":
    main()
