# The only exports: threads, faults, and what is special about a site. job.sh sources it, with $ranks = ranks per node.

# Every rank computes with its share of the node's cores; Ray itself gives each process as many threads as it has cores.
# Threads that wait sleep, and leave theirs to the loader.
if [ -n "${ranks:-}" ]; then
    threads=$((SLURM_CPUS_ON_NODE / ranks))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
fi
export OMP_WAIT_POLICY=passive

# A crash in C says where in Python it was; what a rank says is in the log at once, behind its number.
export PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1
export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='rank ${rank}: '

# Ray tells nobody that it runs, ends at once, and writes logs without colours; a process that asks for no GPU sees none.
export RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_COLOR_PREFIX=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1

# From Slurm 22.05 on srun does not inherit the job's --cpus-per-task.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

# A checkout with its environment beside this folder; otherwise whichever mrdist the submitter's PATH has.
if [ -x "$here/../.venv/bin/mrdist" ]; then export PATH=$(cd "$here/.." && pwd)/.venv/bin:$PATH; fi

# A site's choices. NCCL finds a network by itself; say so only where it finds the wrong one.
#   module load cuda
#   export NCCL_SOCKET_IFNAME=ib0            # which interface ranks meet on
#   export GLOO_SOCKET_IFNAME=ib0
#   export NCCL_IB_HCA=mlx5                  # which cards carry the data
#   export FI_PROVIDER=efa                   # Amazon's network
#   export NCCL_DEBUG=WARN                   # when something is wrong, not always
#   export TORCH_NCCL_TRACE_BUFFER_SIZE=2000 TORCH_NCCL_DUMP_ON_TIMEOUT=1   # who was last in which collective
