#!/bin/bash
# on.sh FOLDER HOST CMD...   run a command on the login host or on a node, outside of Slurm.
folder=$1 host=$2
shift 2
exec nsenter -t "$(cat "$folder/$host/pid")" -n -u -m -p --wd="$PWD" -- env SLURM_CONF="$folder/slurm.conf" "$@"
