#!/bin/bash
# The first process of the login host: the network, the keys, the controller, and then the nodes. Started by up.sh in namespaces of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$1

mount --make-rprivate /
mount --bind "$root/hosts" /etc/hosts
mount --bind "$root/nsswitch.conf" /etc/nsswitch.conf
hostname login
ip link set lo up
ip link add br0 type bridge
ip addr add "$NET.254/24" dev br0
ip link set br0 up

# --force: the folder may lie where only root can go; munged would rather see it elsewhere.
(umask 077; head -c 128 /dev/urandom >"$root/munge/key")
munged --force --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/munge/pid" \
    --log-file="$root/log/munged" --seed-file="$root/munge/seed" --num-threads=4
SLURM_CONF=$root/slurm.conf slurmctld -f "$root/slurm.conf"

# As the rest of the machine counts processes: this file system of /proc is the machine's.
read -r pid _ </proc/self/stat
echo "$pid" >"$root/login/pid.new" && mv "$root/login/pid.new" "$root/login/pid"
for ((i = 1; i <= NODES; i++)); do bash "$here/node.sh" "$root" "node$i"; done
while :; do sleep 3600 & wait $! || true; done   # reaps what ends here
