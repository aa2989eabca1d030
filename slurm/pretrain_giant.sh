#!/bin/bash
# Trains a recipe while its data are made, on any nodes x GPUs, or on CPUs: a Ray of the job's own renders, teaches and trains.
# README.md says why each line is there.
#
#   sbatch --nodes 4 --gpus-per-node 8 --time 24:00:00 slurm/pretrain_giant.sh mrd/giant data.path=FOLDER
#   sbatch --nodes 4 --gpus-per-node 8 : --nodes 8 --cpus-per-task 64 slurm/pretrain_giant.sh ...   # behind the colon: nodes without GPUs, to render
#
#   RUNS          where the run folder, JOBNAME-JOBID, is made          (runs)
#   RAY_SECONDS   in which all nodes must have come together            (300)
#   GATE          a command that fails on a node that is unfit to train (slurm/gate.sh)
#   MAX_RESTARTS  how often the job may go back to the queue            (50)
#
#SBATCH --job-name=mrdist --output=%x-%j.out --open-mode=append
#SBATCH --nodes=1 --ntasks-per-node=1
#SBATCH --requeue --signal=B:USR1@300
set -uo pipefail
if [ $# = 0 ]; then echo "usage: sbatch [--nodes N] [--gpus-per-node G] slurm/pretrain_giant.sh RECIPE [key=value ...]" >&2; exit 1; fi
here=$(scontrol show job "$SLURM_JOB_ID" | sed -nE 's,^ *Command=([^ ]*)/.*,\1,p' | head -n 1)   # Slurm runs a copy of this file
source "$here/job.sh" || exit 1
source "$here/ray.sh" || exit 1
begin "$@"

for life in 1 2 3 4 5; do
    if [ -z "$asked$ended" ] && ! ray_is_up; then ray_up; fi
    if [ -n "$asked$ended" ]; then break; fi
    python -m mrdist_cluster train "$RUN" &
    follow $! "${launches[0]}"   # without its Ray it would wait for a minute
    if [ -n "$code" ]; then say "the driver ended with $code"; fi
    if [ -e "$RUN/done" ] || [ -n "$asked$ended" ]; then break; fi
    # What it said itself stands. It begins again only if it was killed, or its Ray was.
    if ((code <= 128)) && ray_is_up; then break; fi
done
ray_down
conclude
