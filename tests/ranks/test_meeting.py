"""How ranks meet, in real processes at a real port."""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mrdist.ranks import Ranks
from mrdist.training.zero import deepspeed_for


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def on_port(size: int, who: list[int], work: Callable[[], Any]) -> list[Any]:
    """What `work()` returned, or the exception it raised, on those of `size` ranks that come at all."""
    context, port = mp.get_context("forkserver"), free_port()
    mail = context.Queue()
    processes = [context.Process(target=_member, args=(rank, size, port, mail, work), daemon=True) for rank in who]
    for process in processes:
        process.start()
    held = dict(mail.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(10)
        process.kill()
    return [held[rank] for rank in who]


def _member(rank: int, size: int, port: int, mail: Any, work: Callable[[], Any]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu")
    try:
        mail.put((rank, work()))
    except Exception as wrong:
        mail.put((rank, wrong))


def patience() -> list[timedelta]:
    ranks = Ranks.from_environment(device="cpu", deadline=777)
    row, column = ranks.grid(2)
    deepspeed_for(torch.device("cpu"))
    from deepspeed.utils.groups import _clone_world_group

    groups: list[Any] = [ranks.group, row.group, column.group, _clone_world_group()]
    found = [group._get_backend(torch.device("cpu")).options._timeout for group in groups if group is not None]
    ranks.wait()
    dist.destroy_process_group()
    return found


def test_every_group_of_ranks_waits_as_long_deepspeeds_too() -> None:
    for found in on_port(4, [0, 1, 2, 3], patience):
        assert found == [timedelta(seconds=777)] * 4
