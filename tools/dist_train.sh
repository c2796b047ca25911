#!/usr/bin/env bash
# Train on several GPUs of one or more machines.
# Run: [NNODES=.. NODE_RANK=.. MASTER_ADDR=.. PORT=..] tools/dist_train.sh CONFIG GPUS [options of train.py]
set -eu
[ $# -ge 2 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
config=$1 gpus=$2
shift 2
exec python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  --nproc_per_node="$gpus" "$(dirname "$0")/${TOOL:-train.py}" "$config" --launcher pytorch "$@"
