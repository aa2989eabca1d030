"""One start of all ranks: Ray Train places them and lets them meet; each is a rank of an unchanged `mrdist train`."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from mrdist.errors import MrdistError


def train(run: Path, ranks: int, resources: dict[str, float]) -> None:
    """Train the run of a folder on so many ranks until they end: it is done, or was asked to stop. Ranks are not started again here.

    Args:
        resources: what Ray must keep for each rank, as {"CPU": 4, "GPU": 1}.

    Raises:
        MrdistError: what a rank says is wrong.
        Exception: a rank died, or not all came up.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    from mrdist.recipe import load

    on_gpu = resources.get("GPU", 0) > 0
    # Ray's types are those of its Train before V2.
    never = FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0)  # type: ignore[call-arg]
    fit = TorchTrainer(
        one_rank,
        train_loop_config={"run": str(run)},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=math.ceil(load(run).watch.deadline)),
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=on_gpu, resources_per_worker=resources, placement_strategy="PACK"),
        run_config=RunConfig(name="ray", storage_path=str(run / "ranks"), failure_config=never),
    ).fit
    try:
        fit()
    except WorkerGroupError as fell:
        raise said_by(fell.worker_failures) or fell from None


def placed(*, within: float) -> bool:
    """Wait until all ranks of a start have their places; False if that takes longer than `within` seconds."""
    from ray.util import placement_group_table

    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if any(group["state"] == "CREATED" for group in placement_group_table().values()):
            return True
        time.sleep(0.2)
    return False


def said_by(failures: dict[int, Exception]) -> MrdistError | None:
    """What the first rank that knows says is wrong: the others only see that it went away."""
    for _, failure in sorted(failures.items()):
        wrong = getattr(failure, "_base_exc", failure)  # Ray keeps a rank's exception behind the text of its traceback
        if isinstance(wrong, MrdistError):
            return wrong
    return None


def one_rank(told: dict[str, Any]) -> None:
    """What Ray calls in the process of each rank, whose number and meeting point are in the environment by then."""
    from ray.train import get_context

    from mrdist.cli.main import Flags, log_to_screen
    from mrdist.cli.train import carry_out
    from mrdist.recipe import load

    run = Path(told["run"])
    _speak_into(run / "ranks" / f"{get_context().get_world_rank():04d}.log")
    # command.txt is for people: how Ray starts a process is not what they would type.
    sys.orig_argv[:] = ["mrdist", "train", str(run)]
    logging.getLogger().handlers.clear()
    log_to_screen()
    try:
        carry_out(load(run), run, Flags())
    except BaseException:
        traceback.print_exc()
        raise


def _speak_into(log: Path) -> None:
    """Let all that this process says, in Python or below it, follow in a file."""
    log.parent.mkdir(exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
