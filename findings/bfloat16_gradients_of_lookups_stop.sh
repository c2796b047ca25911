#!/bin/sh
# Ways to look rows up in a table give different gradients in half precision: some stop growing.
#
# One would guess: table[index], F.embedding, index_select and gather are the same lookup, and their
# gradients add up what each use of a row contributes, up to rounding.
# What happens: on a CPU, indexing and F.embedding add up in the dtype of the table. A bfloat16 sum of
# ones stops at 256, a float16 one at 2,048, however often the row is used; gather and index_select reach
# the right sum. index_select stops as well, if its index is int32 instead of int64. Nothing warns.
# Who meets it: whoever trains a small table that is used often, such as relative position biases (each
# entry serves thousands of pairs of tokens), type embeddings or codebooks, in bfloat16.
# Versions: torch 2.13.0; seen on 2026-11-30.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$folder/venv/bin/python" -W ignore - > "$folder/seen" <<'PYTHON'
import torch
import torch.nn.functional as F

index = torch.zeros(4096, dtype=torch.long)  # one row, used 4,096 times
ways = {
    "table[index]": lambda table: table[index],
    "F.embedding": lambda table: F.embedding(index, table),
    "index_select, rows": lambda table: table.index_select(0, index),
    "index_select, int32": lambda table: table.index_select(0, index.int()),
    "gather": lambda table: table.gather(0, index[:, None].expand(-1, 2)),
}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for name, look_up in ways.items():
        table = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(look_up(table).sum(), table)
        print(f"{dtype}, {name}: {gradient[0, 0].item():.0f} of 4096")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
torch.float32, table[index]: 4096 of 4096
torch.float32, F.embedding: 4096 of 4096
torch.float32, index_select, rows: 4096 of 4096
torch.float32, index_select, int32: 4096 of 4096
torch.float32, gather: 4096 of 4096
torch.bfloat16, table[index]: 256 of 4096
torch.bfloat16, F.embedding: 256 of 4096
torch.bfloat16, index_select, rows: 4096 of 4096
torch.bfloat16, index_select, int32: 256 of 4096
torch.bfloat16, gather: 4096 of 4096
torch.float16, table[index]: 2048 of 4096
torch.float16, F.embedding: 2048 of 4096
torch.float16, index_select, rows: 4096 of 4096
torch.float16, index_select, int32: 2048 of 4096
torch.float16, gather: 4096 of 4096
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
