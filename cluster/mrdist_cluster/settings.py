"""How mrdist joins a Ray cluster, or starts one of its own; the one place that knows Ray's environment."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mrdist_cluster.book import Node

STORE = 8 << 30
"""Bytes of a private cluster's object store at most; otherwise 30 % of the machine's memory. What is not used is not taken."""

TRAIN = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",  # metrics.jsonl has them
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # how soon a dead rank is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a node that is taken away is one that died
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # for places, not processes; then we look again at what the cluster has
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a rank says goes to its own log
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path of a recipe means the same in a rank
}
"""What Ray Train reads from the environment of the driver, and hands on to the ranks."""

_LONGEST = 40
"""Letters of a folder below which Ray can still name its sockets: the kernel allows 107."""


class Fill(NamedTuple):
    """How full the object stores of all nodes are, in bytes."""

    used: int = 0
    has: int = 0
    spilled: int = 0  # written to disks since the cluster began


@contextmanager
def joined() -> Iterator[None]:
    """Be on a Ray cluster: the one that RAY_ADDRESS names (it is set inside a job, too), else a private one that ends with the block.

    Inside of it nothing is done a second time.
    """
    _speak()
    import ray

    if ray.is_initialized():
        yield
        return
    same: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": worker_environment()}, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**same)
        try:
            yield
        finally:
            ray.shutdown()
        return
    folder = _folder()
    try:
        ray.init(
            address="local", include_dashboard=False, object_store_memory=_store(), _temp_dir=str(folder),
            num_cpus=int(here().cores), **same,
        )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def worker_environment() -> dict[str, str]:
    """What every process of ours on a cluster has in its environment, beside what its node gives it."""
    # Threads that wait asleep: spinning, they slow down whoever has the core next.
    return {"OMP_WAIT_POLICY": "passive", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_DATA_LOG_LEVEL": "WARNING"}


def here() -> Node:
    """This machine, as a private cluster would have it."""
    import torch

    return Node(platform.node(), len(os.sched_getaffinity(0)), torch.cuda.device_count())


def nodes() -> list[Node]:
    """The living nodes of the cluster we are on."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(str(node["NodeName"]), node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in found if node["Alive"]
    ]


def fill() -> Fill:
    """How full the object stores of the cluster are."""
    import ray
    from ray._private import internal_api

    known: Any = internal_api  # Ray has no public way to ask
    stats = known.get_memory_info_reply(known.get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    return Fill(int(stats.object_store_bytes_used), int(stats.object_store_bytes_avail), int(stats.spilled_bytes_total))


def _speak() -> None:
    """What Ray reads when it is imported, and not again: nothing is sent to its makers, and who was given no GPU sees none."""
    said = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", **TRAIN, **worker_environment()}
    if "ray" not in sys.modules and not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & os.environ.keys():
        # Nobody else on this machine may send us work: the token is in no file, only in the environment of our own processes.
        said |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in said.items():
        os.environ.setdefault(name, value)


def _store() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(STORE, int(0.3 * memory))


def _folder() -> Path:
    place = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="mrdist-ray-", dir=place if len(place) <= _LONGEST else "/tmp"))
