#!/usr/bin/env bash
# Train under Slurm.
# Run: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5] tools/slurm_train.sh PARTITION JOB CONFIG [options of train.py]
set -eu
[ $# -ge 3 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
partition=$1 job=$2 config=$3
shift 3
exec srun --partition="$partition" --job-name="$job" --gres="gpu:${GPUS_PER_NODE:-8}" \
  --ntasks="${GPUS:-8}" --ntasks-per-node="${GPUS_PER_NODE:-8}" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  python -u "$(dirname "$0")/${TOOL:-train.py}" "$config" --launcher slurm "$@"
