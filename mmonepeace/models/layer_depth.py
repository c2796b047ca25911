"""Layer depth of a parameter, for layer-wise learning rate decay."""

import re


def layer_depth(name: str, depth: int, decoupled: bool) -> tuple[int, int]:
    """(Depth of a parameter of `OnePeace`, number of depths).

    The depth is 0 for adapters, i + 1 for block i, and the last one for everything after the
    blocks. With `decoupled` RPB tables, each has the depth of its block.
    """
    table = re.fullmatch(r"adapters\.\w+\.rpb\.tables\.(\d+)", name)
    block = re.match(r"layers\.(\d+)\.", name) or (table if decoupled else None)
    if block:
        return int(block[1]) + 1, depth + 2
    return (0 if name.startswith("adapters.") else depth + 1), depth + 2
