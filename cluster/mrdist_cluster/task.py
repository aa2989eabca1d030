"""One task of a submitted job: a rank of an unchanged run. The first one sends the job back to the queue when its time is up."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from mrdist_cluster import slurm
from mrdist_cluster.node import check

GRACE = 300
"""Seconds of warning that a job has before its end."""

SAVE = 240
"""Of them, seconds in which the ranks must have saved; after that the job is sent back as it is, from its last checkpoint."""

logger = logging.getLogger("submitit")


@dataclass(frozen=True)
class Task:
    """What submitit calls in each task, at the first start and after each return from the queue."""

    run: Path
    gpus: int = 0  # that each node must have

    def __call__(self) -> None:
        """Train the run; a run that is done is left alone.

        Raises:
            SystemExit: with the exit code of `mrdist train`, where the run is not done, and the job does not go back to the queue.
        """
        from mrdist.cli.main import DONE, STOPPED

        if (self.run / "done").exists():
            return
        here = JobEnvironment()
        first = here.global_rank == 0
        _speak_into(self.run / "ranks" / f"{here.global_rank:04d}.out")
        logger.info("%s on %s", here, here.hostname)
        # Every rank sees all GPUs of its node, and takes its own by number: ranks that see one cannot reach their neighbours' memory.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if here.cluster == "local":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # until the run listens itself
        if not first:
            code = self._train(here)
            # To have stopped is no failure here: a task that fails takes the first one along, which has to send the job back.
            sys.exit(DONE if code == STOPPED else code)
        with Ear(self.run / "stop", SAVE) as ear:
            code = self._train(here)
        if code == STOPPED and ear.heard:
            ear.send_back()
        if code == STOPPED and here.cluster == "slurm" and slurm.preempted(here.job_id):
            logger.info("preempted: Slurm sends the job back when its grace is over; to end now would be its own end")
            time.sleep(2 * GRACE)
        sys.exit(code)

    def _train(self, here: JobEnvironment) -> int:
        from mrdist.cli.main import carefully, main

        def work() -> int:
            check(self.run, self.gpus, rank=here.global_rank, size=here.num_tasks, host=here.hostname)
            return main(["train", str(self.run)])

        return carefully(work, verbose=False)

    def checkpoint(self) -> DelayedSubmission:
        """What goes on in the next window: the same. All that changes is in the run folder."""
        return DelayedSubmission(self)


class Ear:
    """Hears submitit's signal while the main thread trains, and has the run stop after its step.

    submitit's own answer is to send the job back at once, in the middle of a step. Python runs handlers in the main thread, which
    may hang in a collective: this one listens where the C handler writes, and needs no main thread.
    """

    def __init__(self, stop: Path, patience: float) -> None:
        """
        Args:
            stop: the file that makes the run stop.
            patience: seconds after which the job is sent back, whatever the run does.
        """
        self.heard = False
        self._stop, self._patience = stop, patience
        self._signal = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        self._listening, self._ringing = socket.socketpair()
        self._ringing.setblocking(False)
        self._over = threading.Event()

    def __enter__(self) -> Self:
        # At every moment either we listen or submitit does: a signal that nobody hears is not sent again.
        self._before = signal.set_wakeup_fd(self._ringing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="ear", daemon=True).start()
        self._answer: Any = signal.signal(self._signal, lambda *_: None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        signal.signal(self._signal, self._answer)
        signal.set_wakeup_fd(self._before)

    def send_back(self) -> None:
        """What submitit does at its signal: note the windows used up, requeue the job, leave. A Slurm that refuses is asked again.

        Raises:
            SystemExit: the job is in the queue again.
            submitit.core.utils.UncompletedJobError: it was there too often.
            subprocess.SubprocessError: Slurm has refused for a while.
        """
        deadline = time.monotonic() + slurm.ASK
        while True:
            try:
                self._answer(self._signal, None)
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as refused:
                if time.monotonic() > deadline:
                    raise
                logger.warning("%s: asked again", refused)
                time.sleep(slurm.AGAIN)

    def _listen(self) -> None:
        while self._signal not in self._listening.recv(64):
            pass
        self.heard = True
        logger.info("%s: the time is nearly up, or somebody else needs the nodes", self._signal.name)
        end = time.monotonic() + self._patience
        while not self._over.wait(1):
            self._stop.touch()  # again and again: a run that only now begins takes it away
            if time.monotonic() > end:
                logger.warning("it does not stop: sent back as it is")
                self.send_back()


def _speak_into(file: Path) -> None:
    """Send all that this process says, C included, to the run folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(out, number)
    os.close(out)
