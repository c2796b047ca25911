"""Convert a checkpoint between the official layouts and ours.

Run:  python tools/convert_checkpoint.py one-peace.pt onepeace-vision.safetensors --to vision
      python tools/convert_checkpoint.py onepeace-vision.safetensors back.pkl --to official-vision

IN is the official full file (.pt), the official vision branch (.pkl), an official segmentation or
classification file (.pth), or one of ours. OUT ends with .safetensors or .pth; the official layout
may also be a .pkl. No code from IN is ever run.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmonepeace.checkpoint import CheckpointError, convert_file, key_table


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--to", required=True, choices=["vision", "official-vision"])
    parser.add_argument("--dry-run", action="store_true", help="print the keys, write nothing")
    args = parser.parse_args()
    try:
        converted = convert_file(args.source, None if args.dry_run else args.out, args.to)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [(key, name or "-", why) for key, name, why in converted.rows]
    if args.dry_run:
        print(key_table(("in the file", "becomes", "left out because"), rows))
    count = sum(v.numel() for v in converted.weights.values() if v.is_floating_point())
    left_out = sum(name is None for _, name, _ in converted.rows)
    print(
        f"{args.source} -> {'(nothing written)' if args.dry_run else args.out}: "
        f"{len(converted.weights)} tensors, {count:,} parameters, {left_out} keys left out."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
