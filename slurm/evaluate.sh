#!/bin/bash
# Measures a run's best student: zero-shot and retrieval, on the run's own splits or on another catalogue.
#
#   sbatch --gpus-per-node 8 slurm/evaluate.sh runs/mrdist-4711 [SPLIT ...] [data=folder data.path=FOLDER]
#
#   RANKS  ranks per node (its GPUs in this job; 1 if it has none)
#
#SBATCH --job-name=evaluate --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1
set -euo pipefail
if [ $# = 0 ]; then echo "usage: sbatch [--gpus-per-node G] slurm/evaluate.sh RUN [SPLIT ...] [key=value ...]" >&2; exit 1; fi
here=$(scontrol show job "$SLURM_JOB_ID" | sed -nE 's,^ *Command=([^ ]*)/.*,\1,p')   # Slurm runs a copy of this file
ranks=${RANKS:-${SLURM_GPUS_ON_NODE:-1}}
source "$here/env.sh"
exec srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$ranks" --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$(scontrol show hostnames | head -n 1):$((20000 + SLURM_JOB_ID % 10000))" --no-python mrdist evaluate "$@"
