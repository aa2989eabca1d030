"""Wait until the nodes of a job are in its Ray: `python handshake.py SECONDS NODE=PID ...`, the head's node first.

PID is the process that starts Ray there. The names of nodes that do not come in time, or that cannot come because that process has ended,
go to stdout; none of them is success.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from pathlib import Path

import ray


def listens(address: str) -> bool:
    """Whether somebody does, there: where nobody does Ray itself would ask for half a minute."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def lives(pid: str) -> bool:
    return Path("/proc", pid).exists()


def come(address: str) -> set[str]:
    """The names of the nodes that are there."""
    if not ray.is_initialized():
        if not listens(address):
            return set()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def main(seconds: float, starts: dict[str, str]) -> int:
    began, head = time.monotonic(), next(iter(starts))
    while True:
        here, why = set[str](), ""
        try:
            if lives(starts[head]):  # for one that has ended Ray would wait a minute, and then end this process
                here = come(os.environ["RAY_ADDRESS"])
        except Exception as wrong:  # Ray has many words for a head that is not all there yet, or no more
            why = f" ({type(wrong).__name__}: {wrong})"
            ray.shutdown()
        absent = [node for node in starts if node not in here]
        if not absent:
            print(f"{len(starts)} nodes after {time.monotonic() - began:.0f} s", file=sys.stderr)
            return 0
        hopeless = [node for node in absent if not lives(starts[node])]
        if hopeless or time.monotonic() - began > seconds:
            break
        time.sleep(0.5)
    missing = [head] if head in absent else hopeless or absent  # without a head nobody can come
    verb = "is" if len(missing) == 1 else "are"
    print(f"wanted {len(starts)} nodes within {seconds:g} s, got {len(here)}: {', '.join(missing)} {verb} missing{why}", file=sys.stderr)
    print(",".join(missing))
    return 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), dict(word.split("=") for word in sys.argv[2:])))
