#!/usr/bin/env bash
# Pretrain on several GPUs of one or more machines; without a GPU, in as many processes of the CPU.
# Run: [NNODES=.. NODE_RANK=.. MASTER_ADDR=.. PORT=..] tools/dist_pretrain.sh CONFIG GPUS [options of pretrain.py]
set -eu
[ $# -ge 2 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
TOOL=pretrain.py exec "$(dirname "$0")/dist_train.sh" "$@"
