"""How ranks meet, in real processes at a real port."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mrdist.cli import train
from mrdist.errors import INTERFACES, RanksError
from mrdist.meeting import meet
from mrdist.ranks import Ranks
from mrdist.recipe import load
from mrdist.training.zero import deepspeed_for
from mrdist_cluster.blame import first, witnesses
from tests.waiting import LATE

PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """One that nobody listens at, and that the kernel gives to nobody who asks for any."""
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", random.randrange(10_000, max(20_000, int(PORTS.read_text().split()[0])))))
            return int(free.getsockname()[1])


def on_port(size: int, who: list[int], work: Callable[[], Any]) -> list[Any]:
    """What `work()` returned, or the exception it raised, in those of `size` ranks that are started at all."""
    context, port = mp.get_context("forkserver"), free_port()
    # The server that forks them may be the first of this session: others' ranks must find in it what they need.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    context.set_forkserver_preload(["mrdist.testing", "deepspeed"])
    mail, begin = context.Queue(), context.Barrier(len(who))
    processes = [context.Process(target=_member, args=(rank, size, port, mail, begin, work), daemon=True) for rank in who]
    for process in processes:
        process.start()
    held = dict(mail.get(timeout=LATE) for _ in processes)
    for process in processes:
        process.join(10)
        process.kill()
    return [held[rank] for rank in who]


def _member(rank: int, size: int, port: int, mail: Any, begin: Any, work: Callable[[], Any]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    begin.wait(LATE)  # a busy machine starts them one after the other
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


def meet_soon() -> str:
    meet(torch.device("cpu"), deadline=60, within=5)
    return "met"


def meet_soon_but_rank_2_looks_elsewhere() -> str:
    if os.environ["RANK"] == "2":
        os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
    return meet_soon()


def test_ranks_that_do_not_come_are_named() -> None:
    found = on_port(4, [0, 2], meet_soon)
    assert all(isinstance(wrong, RanksError) for wrong in found)
    first = next(wrong for wrong in found if "missing" in wrong.got)  # with rank 0 the meeting point may go, before the others have asked
    assert first.got == "2 of 4 ranks within 5 s; missing: 1, 3"
    assert "ranks/" in first.try_


def test_a_rank_that_finds_nobody_at_the_meeting_point_says_where_it_looked() -> None:
    (wrong,) = on_port(2, [1], meet_soon)
    assert isinstance(wrong, RanksError)
    assert "meet 2 ranks at 127.0.0.1:" in wrong.wanted
    assert "rank 0" in wrong.try_


def test_ranks_that_come_and_do_not_hear_from_one_another_are_told_of_interfaces() -> None:
    found = on_port(3, [0, 1, 2], meet_soon_but_rank_2_looks_elsewhere)
    assert all(isinstance(wrong, RanksError) and "GLOO_SOCKET_IFNAME" in wrong.try_ for wrong in found)
    assert "nowhere0" in found[2].got
    assert "after all 3 ranks had come" in found[0].got


def look_elsewhere_in_a_run_folder() -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
    train._met(load("smoke", ["device=cpu"]), Path.cwd())


def test_why_ranks_did_not_meet_stands_in_their_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    on_port(2, [0, 1], look_elsewhere_in_a_run_folder)
    heard = witnesses(tmp_path / "why.txt")
    assert sorted((one.rank, one.size, one.place) for one in heard) == [(0, 2, "meeting"), (1, 2, "meeting")]
    verdict = first(heard, [], alive=False)
    assert verdict is not None
    assert "nowhere0" in verdict.error
    assert verdict.remedy == INTERFACES
