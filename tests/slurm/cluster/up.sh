#!/bin/bash
# up.sh FOLDER [NODES]   a real Slurm on this one machine, until this process is killed: then all of it ends.
#
# FOLDER, which must not be there yet, holds configuration, state and logs; a node is up when FOLDER/NODE/pid is there.
# `on.sh FOLDER login sbatch ...` uses the cluster; `kill -KILL $(cat FOLDER/node2/pid)` pulls the plug of a node;
# `on.sh FOLDER login bash node.sh FOLDER node2` starts it again.
#   SHARED   colon list of folders under /tmp that all nodes see; the rest of /tmp is each node's own
# Wanted: root, unshare, nsenter, setpriv, ip; packages slurmctld slurmd slurm-client munge.
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
here=$(cd "$(dirname "$0")" && pwd)
root=$1 nodes=${2:-3} gpus=8
net=198.51.100   # TEST-NET-2; it exists inside the namespaces alone

mkdir "$root" "$root"/{log,login,munge,statesave,dev}
root=$(cd "$root" && pwd)
for ((i = 0; i < gpus; i++)); do mknod "$root/dev/gpu$i" c 1 3; done

# Names come from this file alone: no look-up waits for a DNS server that cannot answer.
{
    printf '127.0.0.1 localhost\n%s.254 login\n' "$net"
    for ((i = 1; i <= nodes; i++)); do printf '%s.%d node%d\n' "$net" "$i" "$i"; done
} >"$root/hosts"
sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf >"$root/nsswitch.conf"

# On real clusters processes are tracked by cgroup, and that decides who hears a signal; where there is no v1 freezer, by parents.
tracking=linuxproc
if [ -w /sys/fs/cgroup/freezer/cgroup.procs ]; then tracking=cgroup; fi
# Slurm 22.05 loads a cgroup plugin even where none is used; later ones can do without.
case $(slurmd -V) in *" 2"[12].*) plugin=cgroup/v1 ;; *) plugin=disabled ;; esac
echo "CgroupPlugin=$plugin" >"$root/cgroup.conf"
sed -e "s|@ROOT@|$root|g" -e "s|@NET@|$net|g" -e "s|@NODES@|node[1-$nodes]|g" -e "s|@TRACKING@|$tracking|g" -e "s|@GPUS@|$gpus|g" \
    -e "s|@FIRST@|$(($(date +%s%3N) % 60000 * 1000 + 1000))|g" \
    "$here/slurm.conf" >"$root/slurm.conf"
echo "NodeName=node[1-$nodes] Name=gpu Type=h100 File=$root/dev/gpu[0-$((gpus - 1))]" >"$root/gres.conf"
for ((i = 1; i <= nodes; i++)); do
    echo "NodeName=node$i NodeAddr=$net.$i Gres=gpu:h100:$gpus" >>"$root/slurm.conf"
done

echo "$root:${SHARED:-}" >"$root/shared"

# One process namespace holds everything: its first process ends with this one, which ends with whoever started it.
export NODES=$nodes NET=$net
exec setpriv --pdeathsig KILL unshare -n -u -m -p -f --kill-child=KILL -- bash "$here/login.sh" "$root" >"$root/log/login" 2>&1 </dev/null
