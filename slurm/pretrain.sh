#!/bin/bash
# Trains a recipe from prepared shards on any nodes x GPUs, or on CPUs: srun and torchrun, no Ray. README.md says why each line is there.
#
#   sbatch --nodes 4 --gpus-per-node 8 --time 24:00:00 slurm/pretrain.sh mrd/base data.path=FOLDER
#
#   RUNS          where the run folder, JOBNAME-JOBID, is made          (runs)
#   RANKS         ranks per node                                        (its GPUs in this job; 1 if it has none)
#   GATE          a command that fails on a node that is unfit to train (slurm/gate.sh)
#   MAX_RESTARTS  how often the job may go back to the queue            (50)
#
#SBATCH --job-name=mrdist --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1
#SBATCH --requeue --signal=B:USR1@300
set -uo pipefail
if [ $# = 0 ]; then echo "usage: sbatch [--nodes N] [--gpus-per-node G] slurm/pretrain.sh RECIPE [key=value ...]" >&2; exit 1; fi
here=$(scontrol show job "$SLURM_JOB_ID" | sed -nE 's,^ *Command=([^ ]*)/.*,\1,p')   # Slurm runs a copy of this file
ranks=${RANKS:-${SLURM_GPUS_ON_NODE:-1}}
source "$here/job.sh" || exit 1
begin "$@"

meeting=$(scontrol show hostnames | head -n 1):$((20000 + SLURM_JOB_ID % 10000))
srun --label --kill-on-bad-exit=1 --wait=60 bash -c 'exec torchrun --log-dir="$RUN/ranks/$SLURMD_NODENAME" "$@"' torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="$ranks" --max-restarts=0 --tee=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$meeting" --rdzv-id="$SLURM_JOB_ID.$restart" --no-python bash "$here/rank.sh" &
follow $!
if [ -n "$code" ]; then say "the ranks ended with $code"; fi
conclude
