# A Ray of the job's own on all its nodes, and nothing of it when the job ends. pretrain_giant.sh sources it after job.sh.

ray_seconds=${RAY_SECONDS:-300}
launches=()   # the srun of each node; first the head's, which is the node of this shell

ray_is_up() { [ ${#launches[@]} -gt 0 ] && kill -0 "${launches[0]}" 2>/dev/null; }

ray_up() { # returns when all nodes have come together, or something is asked of this shell
    ray_down
    mkdir -p "$RUN/ray" || exit 1
    (umask 077; head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$RUN/ray/token") || exit 1
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH; RAY_AUTH_TOKEN_PATH=$(realpath "$RUN/ray/token")
    # Ten ports by the job's id: two jobs on one node do not meet. Workers, which are many, listen where the kernel lets them.
    export RAY_PORTS=$((10000 + SLURM_JOB_ID % 1000 * 10)) RAY_TEMP=/tmp/ray-$SLURM_JOB_ID RAY_HEAD RAY_ADDRESS
    # Many a machine's own list of names says that its name is 127.0.1.1.
    RAY_HEAD=$({ getent ahostsv4 "$SLURMD_NODENAME"; hostname -I | xargs -n 1; } | awk 'NF && !/^127\./ {print $1; exit}')
    RAY_ADDRESS=$RAY_HEAD:$RAY_PORTS

    local node words part wanted=()
    while read -r node words; do
        part=join
        if [ ${#launches[@]} = 0 ]; then part=head; fi
        srun $words --cpu-bind=none bash "$here/ray_node.sh" $part </dev/null >>"$RUN/ray/$node.log" 2>&1 &
        launches+=($!) wanted+=("$node=$!")
    done < <(nodes)

    python "$here/handshake.py" "$ray_seconds" "${wanted[@]}" >"$RUN/ray/missing" & local handshake=$!
    if wait $handshake; then rm -f "$RUN/ray/missing" "$RUN/ray/failed"; return; fi
    if [ -n "$asked$ended" ]; then kill $handshake 2>/dev/null; return; fi
    without_the_missing
}

without_the_missing() { # back to the queue, a few times: if nobody can come together, it is not the nodes
    local missing node; missing=$(tail -n 1 "$RUN/ray/missing")
    for node in ${missing//,/ }; do tail -n 5 "$RUN/ray/$node.log" | sed "s/^/$node: /"; done
    ray_down
    if [ -z "$missing" ]; then say "the nodes could not be counted"; fi
    echo "$missing" >>"$RUN/ray/failed"
    if (($(wc -l <"$RUN/ray/failed") >= 3)); then rm "$RUN/ray/failed"; say "the third time in a row: look at $RUN/ray/*.log"; exit 1; fi
    back_to_the_queue "$missing"
}

ray_down() { # Ray's own way of ending, on all nodes at once; what has not ended after ten seconds is killed with its srun
    local end=$((SECONDS + 10))
    if [ ${#launches[@]} = 0 ]; then return; fi
    kill -USR2 "${launches[@]}" 2>/dev/null
    while kill -0 "${launches[@]}" 2>/dev/null && ((SECONDS < end)); do sleep 0.2; done
    kill "${launches[@]}" 2>/dev/null
    launches=()
}
