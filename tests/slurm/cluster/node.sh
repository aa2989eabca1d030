#!/bin/bash
# node.sh FOLDER NAME   switch a node on. On the login host only: up.sh does it at first, and on.sh after a power failure.
# A node has its own host name, address, processes, /tmp and /dev/shm. To kill its first process is to pull its plug.
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
here=$(cd "$(dirname "$0")" && pwd)
root=$1 name=$2 place=$1/$2

if [ "${3:-}" != inside ]; then
    # Never touch a machine's own network and mounts.
    [ "$(hostname)" = login ] || { echo "node.sh: not on the login host" >&2; exit 1; }
    rm -rf --one-file-system "$place"
    mkdir -p "$place"/{spool,tmp}
    ip link delete "v$name" 2>/dev/null || true
    setsid unshare -n -u -m -p -f --kill-child=KILL -- bash "$here/node.sh" "$root" "$name" inside </dev/null >>"$root/log/$name" 2>&1 &
    for _ in $(seq 500); do [ -e "$place/pid.new" ] && break; sleep 0.02; done
    ip link add "v$name" type veth peer name eth0 netns "/proc/$(cat "$place/pid.new")/ns/net"
    ip link set "v$name" master br0 up
    for _ in $(seq 500); do [ -e "$place/pid" ] && exit 0; sleep 0.02; done
    echo "node.sh: $name did not start: $(tail -n 3 "$root/log/$name")" >&2
    exit 1
fi

read -r pid _ </proc/self/stat
hostname "$name"
mount --make-rprivate /
mount -t tmpfs -o size=4g tmpfs /dev/shm
chmod 1777 "$place/tmp"
IFS=: read -ra shared <"$root/shared"
for folder in "${shared[@]}"; do
    case $folder in /tmp/*) mkdir -p "$place/tmp${folder#/tmp}"; mount --bind "$folder" "$place/tmp${folder#/tmp}" ;; esac
done
mount --rbind "$place/tmp" /tmp
mount -t proc proc /proc
echo "$pid" >"$place/pid.tmp" && mv "$place/pid.tmp" "$place/pid.new"   # now the cable may be plugged in
for _ in $(seq 500); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.02; done
ip link set lo up
ip addr add "$(awk -v name="$name" '$2 == name {print $1}' /etc/hosts)/24" dev eth0
ip link set eth0 up
env -i PATH="$PATH" SLURM_CONF="$root/slurm.conf" slurmd -N "$name" -f "$root/slurm.conf"
mv "$place/pid.new" "$place/pid"
while :; do sleep 3600 & wait $! || true; done   # reaps what ends here
