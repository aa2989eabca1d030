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

restart=${SLURM_RESTART_COUNT:-0} most=${MAX_RESTARTS:-50}
gate_seconds=120
save_seconds=240   # of the 300 that USR1 comes before the end
say() { echo "$(date +%FT%T) $SLURM_JOB_ID.$restart: $*"; }
field() { scontrol show job "$SLURM_JOB_ID" | sed -nE "s/(.* )?$1=([^ ]*).*/\2/p"; }
here=$(dirname "$(field Command)")   # Slurm runs a copy of this file
ranks=${RANKS:-${SLURM_GPUS_ON_NODE:-1}}
source "$here/env.sh" || exit 1
export GATE=${GATE:-bash $here/gate.sh} RUN=${RUNS:-runs}/$SLURM_JOB_NAME-$SLURM_JOB_ID

# --- what may be asked of this shell
asked='' ended=''
trap 'asked=${asked:-$SECONDS}; say "USR1: the time is nearly up, or somebody else needs the nodes"' USR1
trap 'ended=1; say "TERM: cancelled, or preempted"' TERM

back_to_the_queue() { # back_to_the_queue [NODES]: a bounded number of times, and not to NODES again
    if ((restart >= most)); then say "restart $restart of $most: no more"; exit 1; fi
    trap '' TERM   # with which Slurm ends this shell as soon as the job is requeued
    if [ -z "${1:-}" ]; then
        scontrol requeue "$SLURM_JOB_ID" || exit 1
    else
        local all; all=$(field ExcNodeList | grep -v null)${1:+,$1}
        scontrol requeuehold "$SLURM_JOB_ID" && scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=${all#,}" &&
            scontrol release "$SLURM_JOB_ID" || exit 1
    fi
    sleep 60
}

leave_the_unfit() { # a node that does not say that it is fit is not
    local fit unfit
    fit=$(scontrol show hostnames | xargs -P 64 -I{} timeout --kill-after=10 $gate_seconds srun --nodelist={} --nodes=1 --ntasks=1 \
        --overlap --mem=0 bash -c 'eval "$GATE" >&2 && echo "$SLURMD_NODENAME"' | sort)
    unfit=$(scontrol show hostnames | sort | comm -23 - <(echo "$fit") | paste -sd,)
    if [ -z "$unfit" ] || [ -n "$ended" ]; then return; fi
    say "unfit: $unfit"
    if [ -z "$fit" ]; then say "that is all of them: look at the gate"; exit 1; fi
    back_to_the_queue "$unfit"
}

preempted() { # since this start: Slurm remembers the last time for ever
    local when; when=$(field PreemptTime)
    [[ $when > $(field StartTime) && $when = 2* ]]
}

# --- the run folder begins with its recipe; from then on it is the recipe
if [ ! -e "$RUN/recipe.yaml" ]; then
    recipe=$(mrdist config show "$@") || exit 1
    mkdir -p "$RUN" && printf '%s\n' "$recipe" >"$RUN/recipe.new" && mv "$RUN/recipe.new" "$RUN/recipe.yaml" || exit 1
fi
if [ -e "$RUN/done" ]; then say "$RUN is done"; exit 0; fi
say "$RUN on $SLURM_JOB_NODELIST, $ranks ranks each"

leave_the_unfit

# --- the ranks
meeting=$(scontrol show hostnames | head -n 1):$((20000 + SLURM_JOB_ID % 10000))
srun --label --kill-on-bad-exit=1 --wait=60 bash -c 'exec torchrun --log-dir="$RUN/ranks/$SLURMD_NODENAME" "$@"' torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="$ranks" --max-restarts=0 --tee=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$meeting" --rdzv-id="$SLURM_JOB_ID.$restart" --no-python bash "$here/rank.sh" &
launch=$!
while kill -0 $launch 2>/dev/null; do
    if [ -n "$asked" ]; then
        touch "$RUN/stop"   # again and again: a run that only now begins takes it away
        if ((SECONDS - asked > save_seconds)); then say "it does not end: requeued as it is"; break; fi
    fi
    sleep 1 & wait $!
done
if ! kill -0 $launch 2>/dev/null; then wait $launch; say "the ranks ended with $?"; fi

# --- what becomes of the job: the run folder and what was asked decide, exit codes do not
if [ -e "$RUN/done" ]; then say "$RUN is done"; exit 0; fi
if [ -n "$asked" ] && [ -z "$ended" ]; then back_to_the_queue; fi
if preempted; then
    say "preempted: Slurm requeues the job when its grace is over"
    trap '' TERM
    sleep 600
fi
if [ -z "$ended" ]; then leave_the_unfit; fi   # a node may have died of it, and Slurm not know yet
exit 1
