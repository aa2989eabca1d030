#!/bin/bash
# Is this node fit to train? Exit 0 if it is; why it is not goes to the job's log. Runs once on every node before anything starts.
set -euo pipefail
# The shared folder is there, and lets this node write.
touch "$RUN/.gate-$SLURMD_NODENAME"
rm "$RUN/.gate-$SLURMD_NODENAME"
gpus=${SLURM_GPUS_ON_NODE:-0}
((gpus)) || exit 0
# Every GPU multiplies, and gets the same result each time: what a prolog rarely tries.
exec python - "$gpus" <<'END'
import sys, torch
wanted, found = int(sys.argv[1]), torch.cuda.device_count()
if found != wanted:
    sys.exit(f"{found} GPUs instead of {wanted}")
for number in range(found):
    torch.manual_seed(0)
    a = torch.randn(4096, 4096, dtype=torch.bfloat16, device=f"cuda:{number}")
    first = a @ a
    if not first.isfinite().all() or not all(torch.equal(first, a @ a) for _ in range(20)):
        sys.exit(f"GPU {number} multiplies wrongly")
END
