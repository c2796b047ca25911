#!/usr/bin/env bash
# Pretrain under Slurm.
# Run: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5] tools/slurm_pretrain.sh PARTITION JOB CONFIG [options of pretrain.py]
set -eu
[ $# -ge 3 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
TOOL=pretrain.py exec "$(dirname "$0")/slurm_train.sh" "$@"
