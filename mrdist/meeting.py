"""How the ranks of a run find one another: first at a meeting point, by number; then through the network they talk over."""

from __future__ import annotations

import os
import platform
import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mrdist.errors import INTERFACES, RanksError

IN_TIME = 600.0
"""Seconds in which all ranks must have come to the meeting point, and then again in which they must have heard from one another."""


def meet(device: torch.device, *, deadline: float, within: float = IN_TIME) -> None:
    """Make torch's process group of all ranks; every rank has heard from every other when it returns.

    Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and whether torchrun is the one who waits there.

    Args:
        device: NCCL for a GPU, gloo for a CPU.
        deadline: seconds after which a collective gives up, from then on.

    Raises:
        RanksError: not all came, and who is missing; or all came, and did not hear from one another.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _come(rank, size, within)
    backend = "nccl" if device.type == "cuda" else "gloo"
    wrong: list[BaseException] = []

    def connect() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # each thread has its own
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=deadline))
            dist.all_reduce(torch.zeros(1, device=device))  # NCCL looks for its peers only now
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        except BaseException as error:  # raised below
            wrong.append(error)

    # A thread of its own, because NCCL may look for its peers for ever, and nothing interrupts it.
    connecting = threading.Thread(target=connect, name="connect", daemon=True)
    connecting.start()
    connecting.join(within)
    if connecting.is_alive() or wrong:
        said = str(wrong[0]).strip().splitlines()[0] if wrong and str(wrong[0]).strip() else f"silence for {within:g} s"
        raise RanksError(
            what=f"{backend} of rank {rank} on {platform.node()}",
            got=f"{said}, after all {size} ranks had come to {_point()}",
            wanted="to hear from every other rank",
            try_=INTERFACES,
        ) from (wrong[0] if wrong else None)


def _come(rank: int, size: int, within: float) -> Any:
    """Come to the meeting point and wait for the others; returns its store."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun keeps the meeting point itself
    patience = timedelta(seconds=within)
    stores: Any = dist  # torch does not tell type checkers of them
    store = None
    try:
        there = stores.TCPStore(address, port, size, rank == 0 and not theirs, patience, wait_for_workers=False, multi_tenant=True)
        store = stores.PrefixStore(f"mrdist/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", there)
        store.set(f"here/{rank}", platform.node())
        if store.add("come", 1) == size:
            store.set("all", "")
        store.wait(["all"], patience)
        return store
    except dist.DistError as wrong:
        missing = _missing(store, size) if store is not None else None
        if not missing:
            raise RanksError(
                what=f"rank {rank} on {platform.node()}",
                got=str(wrong).splitlines()[0],
                wanted=f"to meet {size} ranks at {_point()} within {within:g} s",
                try_="has rank 0 begun, does its node answer at that name and port, and is the port nobody else's?",
            ) from wrong
        named = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise RanksError(
            what=f"the meeting at {_point()}",
            got=f"{size - len(missing)} of {size} ranks within {within:g} s; missing: {named}",
            wanted="all of them",
            try_="what they said last is in ranks/ of the run folder and in the job's log: still at work, or unable to reach that address?",
        ) from wrong


def _missing(store: Any, size: int) -> list[int]:
    """Ranks that have not come; none if nobody answers."""
    try:
        return [rank for rank in range(size) if not store.check([f"here/{rank}"])]
    except dist.DistError:
        return []


def _point() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
