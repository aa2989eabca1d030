#!/bin/bash
# ray_node.sh head|join   Ray on one node of the job, until the job's shell says USR2. ray.sh starts it and exports what it reads.
set -uo pipefail
part=$1 over='' ray=''
echo "$(date +%FT%T) $SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}: $part"

# Slurm sends TERM to this task alone: cancelled, or preempted. Until it kills, the ranks may save.
trap 'touch "$RUN/stop"' TERM
trap 'over=1; [ -z "$ray" ] || kill "$ray"' USR2

# Whose Ray is alive, and whose was killed with all it had spilled, the kernel knows: it gives up a lock with the last process that holds it.
# This shell and its Ray share ours; whoever can take another job's alone removes what that job left.
for try in 1 2 3 4 5; do   # again, if somebody removed it just before we held it
    if [ -L "$RAY_TEMP.lock" ] || ! exec {mine}>>"$RAY_TEMP.lock"; then break; fi   # without a lock nobody removes what is ours
    flock --shared --timeout 30 $mine && [ "$RAY_TEMP.lock" -ef /dev/fd/$mine ] && break
done
for lock in "${RAY_TEMP%"$SLURM_JOB_ID"}"*.lock; do
    job=${lock#"${RAY_TEMP%"$SLURM_JOB_ID"}"} job=${job%.lock}
    if [[ -z $job || $job = *[!0-9]* || $job = "$SLURM_JOB_ID" || -L $lock || ! -f $lock || ! -O $lock ]]; then continue; fi
    (flock --exclusive --nonblock 9 && [ "$lock" -ef /dev/fd/9 ] && echo "job $job left ${lock%.lock}: removed" &&
        rm -rf "${lock%.lock}" "$lock") 9<"$lock"
done

# Blocks of shapes wait in shared memory: a third of what the job has of the node, if Slurm counts memory.
store=$(($(df --output=avail --block-size=M /dev/shm | tr -dc 0-9) * 9 / 10))
memory=$((${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_ON_NODE))} / 3))
if ((memory > 0 && memory < store)); then store=$memory; fi

# The node's name in Slurm; what the job has of it, never what the machine has; ports that no other job's Ray uses.
words=(--block --log-color=false --node-name="$SLURMD_NODENAME" --temp-dir="$RAY_TEMP"
    --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --object-store-memory=$((store << 20))
    --dashboard-agent-listen-port=$((RAY_PORTS + 3)) --dashboard-agent-grpc-port=$((RAY_PORTS + 4))
    --runtime-env-agent-port=$((RAY_PORTS + 5)) --metrics-export-port=$((RAY_PORTS + 6))
    --node-manager-port=$((RAY_PORTS + 7)) --object-manager-port=$((RAY_PORTS + 8))
    --min-worker-port=0 --max-worker-port=0)
if [ "$part" = head ]; then
    words+=(--head --node-ip-address="$RAY_HEAD" --port="$RAY_PORTS"
        --ray-client-server-port=$((RAY_PORTS + 1)) --dashboard-port=$((RAY_PORTS + 2)))
else
    words+=(--address="$RAY_HEAD:$RAY_PORTS")
fi
there() { [ "$part" = head ] || (exec 3<>"/dev/tcp/$RAY_HEAD/$RAY_PORTS") 2>/dev/null; }

# A Ray that dies here is begun again here; the head's cannot be, the others belong to it.
for life in 1 2 3; do
    rm -rf "$RAY_TEMP"
    until [ -n "$over" ] || there; do sleep 1; done
    if [ -n "$over" ]; then break; fi
    ray start "${words[@]}" & ray=$!
    [ -z "$over" ] || kill "$ray"   # told just before its number was known
    while kill -0 $ray 2>/dev/null; do wait $ray; done
    if [ -n "$over" ]; then break; fi
    mkdir -p "$RUN/ray/$SLURMD_NODENAME"
    cp "$RAY_TEMP"/session_latest/logs/{gcs_server,raylet,ray_process_exit}* "$RUN/ray/$SLURMD_NODENAME" 2>/dev/null
    if [ "$part" = head ]; then break; fi
done
rm -rf "$RAY_TEMP" "$RAY_TEMP.lock"
[ -n "$over" ]
