# What every job does alike: hears what is asked of it, tries its nodes, begins its run folder, goes back to the queue.
# Sourced by the job scripts, with $here = this folder. README.md says why each line is there.

restart=${SLURM_RESTART_COUNT:-0} most=${MAX_RESTARTS:-50}
gate_seconds=120
save_seconds=240   # of the 300 that USR1 comes before the end
ask_seconds=90     # a controller that restarts must not cost a run
say() { echo "$(date +%FT%T) $SLURM_JOB_ID.$restart: $*"; }
slurm() { timeout --signal=KILL 20 scontrol "$@"; }   # once TERM is ignored here, what we start ignores it, too
field() { ask slurm show job "$SLURM_JOB_ID" | sed -nE "s/(.* )?$1=([^ ]*).*/\2/p" | head -n 1; }
part() { local name=$1${SLURM_HET_SIZE:+_HET_GROUP_$2}; echo "${!name}"; }   # a variable of one part of a heterogeneous job
source "$here/env.sh" || exit 1
export GATE=${GATE:-bash $here/gate.sh} RUN=${RUNS:-runs}/$SLURM_JOB_NAME-$SLURM_JOB_ID

nodes() { # each node of the job, and behind it what makes srun start one task there, beside what runs there
    local group
    for ((group = 0; group < ${SLURM_HET_SIZE:-1}; group++)); do
        scontrol show hostnames "$(part SLURM_JOB_NODELIST $group)" |
            sed "s/.*/& --nodelist=& --nodes=1 --ntasks=1 --overlap --mem=0${SLURM_HET_SIZE:+ --het-group=$group}/"
    done
}

ask() { # ask COMMAND ...: again and again, until Slurm grants it
    local end=$((SECONDS + ask_seconds))
    until "$@"; do
        if ((SECONDS >= end)); then say "Slurm refuses for $ask_seconds s: $*" >&2; return 1; fi
        sleep 2
    done
}

# --- what may be asked of this shell
asked='' ended=''
trap 'asked=${asked:-$SECONDS}; say "USR1: the time is nearly up, or somebody else needs the nodes"' USR1
trap 'ended=1; say "TERM: cancelled, or preempted"' TERM

follow() { # follow PID [OTHER]: until PID ends, with $code; it is killed when OTHER ends. What is asked of this shell becomes a file
    code=''
    while kill -0 "$1" 2>/dev/null; do
        if ! kill -0 "${2:-$1}" 2>/dev/null; then kill -KILL "$1" 2>/dev/null; fi
        if [ -n "$asked" ]; then
            touch "$RUN/stop"   # again and again: a run that only now begins takes it away
            if ((SECONDS - asked > save_seconds)); then say "it does not end: requeued as it is"; return; fi
        fi
        sleep 1 & wait $!
    done
    wait "$1"; code=$?
}

back_to_the_queue() { # back_to_the_queue [NODES]: a bounded number of times, and not to NODES again
    if ((restart >= most)); then say "restart $restart of $most: no more"; exit 1; fi
    trap '' TERM   # with which Slurm ends this shell as soon as the job is requeued
    local all='' group
    if [ -n "${1:-}" ]; then all=$(field ExcNodeList | grep -v null),$1; fi
    ask requeue || exit 1
    if [ -n "$all" ]; then   # Slurm refuses that while the job runs, and begins none whose shell is still there
        for ((group = 0; group < ${SLURM_HET_SIZE:-1}; group++)); do
            ask slurm update "JobId=$(part SLURM_JOB_ID $group)" "ExcNodeList=${all#,}" || say "not left out: $1"
        done
    fi
    sleep 60
    exit 0
}

requeue() { # unless the job is in the queue by now, and only the answer was lost: it completes until this shell has gone
    slurm requeue "$SLURM_JOB_ID" || [[ $(slurm show job "$SLURM_JOB_ID") = *JobState=@(PENDING|COMPLETING)* ]]
}

leave_the_unfit() { # a node that does not say that it is fit is not
    local fit unfit
    fit=$(nodes | xargs -P 64 -L 1 timeout --kill-after=10 $gate_seconds \
        bash -c 'exec srun "$@" bash -c '\''eval "$GATE" >&2 && echo "$SLURMD_NODENAME"'\' | sort)
    unfit=$(nodes | cut -d' ' -f1 | sort | comm -23 - <(echo "$fit") | paste -sd,)
    if [ -z "$unfit" ] || [ -n "$ended" ]; then return; fi
    leave_it_to_slurm   # a preemption may begin with TERM to the tasks alone, and the gates die of it
    say "unfit: $unfit"
    if [ -z "$fit" ]; then say "that is all of them: look at the gate"; exit 1; fi
    back_to_the_queue "$unfit"
}

preempted() { # since this start: Slurm remembers the last time for ever
    local when; when=$(field PreemptTime)
    [[ $when = 2* && $when > $(field StartTime) ]]
}

leave_it_to_slurm() { # if it takes the nodes away: to end now would be the job's own end
    if ! preempted; then return; fi
    say "preempted: Slurm requeues the job when its grace is over"
    trap '' TERM
    sleep 600
    exit 1
}

begin() { # begin RECIPE [key=value ...]: the run folder begins with its recipe; from then on it is the recipe
    if [ ! -e "$RUN/recipe.yaml" ]; then
        local recipe; recipe=$(mrdist config show "$@") || exit 1
        mkdir -p "$RUN" && printf '%s\n' "$recipe" >"$RUN/recipe.new" && mv "$RUN/recipe.new" "$RUN/recipe.yaml" || exit 1
    fi
    if [ -e "$RUN/done" ]; then say "$RUN is done"; exit 0; fi
    say "$RUN on $SLURM_JOB_NODELIST${SLURM_HET_SIZE:+ and $SLURM_JOB_NODELIST_HET_GROUP_1}"
    leave_the_unfit
}

conclude() { # what becomes of the job: the run folder and what was asked decide, exit codes do not
    if [ -e "$RUN/done" ]; then say "$RUN is done"; exit 0; fi
    if [ -n "$asked" ] && [ -z "$ended" ]; then back_to_the_queue; fi
    leave_it_to_slurm
    if [ -z "$ended" ]; then leave_the_unfit; fi   # a node may have died of it, and Slurm not know yet
    exit 1
}
