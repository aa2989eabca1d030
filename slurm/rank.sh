#!/bin/bash
# One rank. To have stopped when asked (75) is no failure here: torchrun would print a traceback, and end the ranks beside this one.
trap : TERM   # torchrun sends it to all of us; this shell waits for Python, which saves
echo "rank $RANK of $WORLD_SIZE on $HOSTNAME"   # by which mrdist logs knows whose words these are
mrdist train "$RUN"
code=$?
exit $((code == 75 ? 0 : code))
