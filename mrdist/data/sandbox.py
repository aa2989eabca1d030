"""Work on files of strangers, each in a throw-away child with limits: a crash, a hang or a bomb costs one request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from mrdist.data.zygote import Json, read_exactly, receive, send
from mrdist.errors import DataError
from mrdist.recipe import Limits

_START_SECONDS = 300.0  # imports and warming: kernels may have to be compiled
_GRACE_SECONDS = 30.0  # beyond a request's own limit, for a zygote on a busy machine

# The same numbers on every machine, one thread (a fork copies only one), and no GPU: CUDA does not survive a fork.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1") | {
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    `reason` says why it failed: "DataError: ...", "crash SIGSEGV", "timeout after 30 s". `arrays` are read-only; `notes` of a
    failure hold the end of what the child wrote to stderr, if anything.
    """

    ok: bool
    reason: str = ""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: Json = field(default_factory=dict)
    seconds: float = 0.0


class Sandbox:
    """A single-threaded process that has imported `work`, and forks one child per request.

    It is spawned, not forked, so it may be made in any process: one with threads, with CUDA, inside Ray. It ends with its parent.
    One request at a time: a worker has a sandbox of its own.

    A child gets `limits.seconds` of wall clock, `limits.memory_mb` on top of what the imports take, and may write no file. What it
    returns crosses as safetensors, never as a pickle.
    """

    def __init__(self, work: str, limits: Limits, warm: str | None = None) -> None:
        """Start the zygote.

        Args:
            work: "module:function" of `work(request) -> (arrays, notes)`: JSON in, named arrays and JSON out.
            limits: of each request.
            warm: "module:function" called once without arguments, before the first request: compile kernels, fill caches.

        Raises:
            DataError: `work` or `warm` cannot be imported or fails, or starts threads.
        """
        self._settings: Json = {"work": work, "warm": warm, "seconds": limits.seconds, "memory_mb": limits.memory_mb}
        self._lock = threading.Lock()
        self._closed = False
        self._zygote: subprocess.Popen[bytes] | None = self._started()

    @property
    def pid(self) -> int:
        """The process that children are forked from; another one after it had to be replaced; 0 if there is none now."""
        return self._zygote.pid if self._zygote is not None else 0

    def run(self, request: Json) -> Outcome:
        """Do `request` in a child. Never raises for what the child does; a zygote that died is replaced, twice at most.

        Raises:
            DataError: the sandbox is closed, perhaps just now by another thread; or the zygote cannot be started again.
        """
        with self._lock:
            for _ in range(2):
                if self._closed:
                    raise DataError(what="sandbox", got="a request after close()", wanted="none", try_="make another Sandbox")
                if self._zygote is None:
                    self._zygote = self._started()
                try:
                    return self._asked(self._zygote, request)
                except (EOFError, TimeoutError, OSError):
                    self._stop()
                except BaseException:
                    self._stop()  # an answer nobody waited for must not become the answer to the next request
                    raise
        return Outcome(ok=False, reason="the process that children are forked from died twice")

    def close(self) -> None:
        """End the zygote and its child, also while another thread waits in `run`."""
        self._closed = True
        zygote = self._zygote
        if zygote is not None:
            zygote.kill()
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _asked(self, zygote: subprocess.Popen[bytes], request: Json) -> Outcome:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        deadline = time.monotonic() + self._settings["seconds"] + _GRACE_SECONDS
        send(zygote.stdin.fileno(), request)
        answers = zygote.stdout.fileno()
        about = receive(answers, deadline)
        body = read_exactly(answers, about["bytes"], deadline)
        if not about["ok"]:
            notes = {"stderr": about["stderr"]} if about["stderr"] else {}
            return Outcome(ok=False, reason=about["reason"], notes=notes, seconds=about["seconds"])
        try:
            return Outcome(ok=True, arrays=load(body), notes=_notes(body), seconds=about["seconds"])
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            return Outcome(ok=False, reason=f"malformed result: {error}", seconds=about["seconds"])

    def _started(self) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        zygote = subprocess.Popen(
            # -P: what lies in the current folder must not stand in for a module.
            [sys.executable, "-P", "-m", "mrdist.data.zygote", json.dumps({**self._settings, "parent": os.getpid()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for the parent, who then ends us
        )
        assert zygote.stdout is not None
        try:
            about = receive(zygote.stdout.fileno(), time.monotonic() + _START_SECONDS)
        except (EOFError, TimeoutError) as error:
            about = {"ready": False, "reason": f"{type(error).__name__} before it was ready"}
        if about["ready"]:
            return zygote
        _end(zygote)
        raise DataError(
            what=f"sandbox for {self._settings['work']}",
            got=f"{about['reason']} (exit status {zygote.returncode})",
            wanted="work and warm that import, run, and start no threads",
            try_="import them in a plain Python and read its traceback",
        )

    def _stop(self) -> None:
        if self._zygote is not None:
            _end(self._zygote)
            self._zygote = None


def _end(zygote: subprocess.Popen[bytes]) -> None:
    """It has nothing to save; its child dies with it."""
    zygote.kill()
    zygote.wait()
    for pipe in (zygote.stdin, zygote.stdout):
        if pipe is not None:
            pipe.close()


def _notes(body: bytes) -> Json:
    """The notes in the header of a safetensors file, which its numpy reader does not show."""
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    notes = json.loads(header["__metadata__"]["notes"])
    if not isinstance(notes, dict):
        raise TypeError("notes that are no JSON object")
    return notes
