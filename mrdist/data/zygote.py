"""The process that throw-away children are forked from: one thread, warmed once, and never near a stranger's file.

`Sandbox` starts it as `python -m mrdist.data.zygote '{"work": ..., "warm": ..., "seconds": ..., "memory_mb": ..., "parent": ...}'`.
Frames go both ways: four bytes of length, JSON, and after an answer as many bytes of result as its JSON says.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import numpy as np
from safetensors.numpy import save

_RESULT_BYTES = 1 << 30
_STDERR_BYTES = 4096  # kept; the rest is read and forgotten, for a decoder may complain for ever
_FILES = 64  # open at once
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 1.0  # between two looks whether the parent lives
_LIBC = ctypes.CDLL(None)

Json = dict[str, Any]
Work = Callable[[Json], tuple[dict[str, Any], Json]]


def send(fd: int, about: Json, body: bytes | memoryview = b"") -> None:
    """Write one frame."""
    text = json.dumps(about).encode()
    for part in (struct.pack("<I", len(text)) + text, body):
        _write(fd, part)


def _write(fd: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def read_exactly(fd: int, count: int, deadline: float = math.inf) -> bytes:
    """`count` bytes.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: `deadline` (of time.monotonic) has passed.
    """
    parts, missing = [], count
    while missing:
        left = deadline - time.monotonic()
        if not select.select([fd], [], [], None if left == math.inf else max(0.0, left))[0]:
            raise TimeoutError
        part = os.read(fd, min(missing, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def receive(fd: int, deadline: float = math.inf) -> Json:
    """Read the JSON of one frame."""
    (length,) = struct.unpack("<I", read_exactly(fd, 4, deadline))
    about: Json = json.loads(read_exactly(fd, length, deadline))
    return about


def main(settings: Json) -> None:
    """Import and warm, then answer requests until the parent is gone."""
    parent = _Parent(settings["parent"], os.dup(0), os.dup(1))
    # What is imported may print: nothing but frames may enter the pipe.
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    try:
        work: Work = _named(settings["work"])
        if settings["warm"]:
            _named(settings["warm"])()
        threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        if threads > 1:
            raise RuntimeError(f"{threads} threads after importing {settings['work']}: a fork would copy locks that nobody opens")
    except BaseException:
        send(parent.answers, {"ready": False, "reason": traceback.format_exc()[-2000:]})
        return
    send(parent.answers, {"ready": True})
    # Children share these pages as long as no collector touches them.
    gc.collect()
    gc.freeze()
    try:
        while True:
            while not select.select([parent.requests], [], [], _LOOK_SECONDS)[0]:
                parent.must_live()
            send(parent.answers, *_serve(work, receive(parent.requests), settings, parent))
    except (EOFError, BrokenPipeError):
        return


@dataclass(frozen=True)
class _Parent:
    pid: int
    requests: int
    answers: int

    def must_live(self) -> None:
        """The pipe alone does not tell: a sibling that inherited it may hold it open."""
        if os.getppid() != self.pid:
            raise EOFError


def _named(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


def _serve(work: Work, request: Json, settings: Json, parent: _Parent) -> tuple[Json, memoryview]:
    """Do one request in a child; whatever happens to it is the answer."""
    began, zygote = time.monotonic(), os.getpid()
    (result, result_end), (errors, errors_end) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (parent.requests, parent.answers):  # only the zygote talks to the parent
            os.close(fd)
        _live_and_die(work, request, settings, zygote, result_end, errors_end)
    os.close(result_end)
    os.close(errors_end)
    try:
        data, complaint, stopped = _watch(child, result, errors, began + settings["seconds"], parent)
    finally:
        os.close(result)
        os.close(errors)
        _end(child)
    about = _judged(data, stopped, os.waitpid(child, 0)[1], settings["seconds"])
    about |= {"seconds": time.monotonic() - began, "stderr": complaint.decode("utf-8", "replace")}
    return about, memoryview(data)[_HEAD.size :] if about["ok"] else memoryview(b"")


def _watch(child: int, result: int, errors: int, deadline: float, parent: _Parent) -> tuple[bytearray, bytes, str]:
    """What the child wrote until it ended: its result, its complaints, and why it was stopped ("" if it was not)."""
    data, complaint, listening = bytearray(), b"", [result, errors, parent.requests]
    while result in listening:
        left = deadline - time.monotonic()
        if left <= 0:
            return data, complaint, "timeout"
        ready, _, _ = select.select(listening, [], [], min(left, _LOOK_SECONDS))
        parent.must_live()
        if parent.requests in ready:  # nobody sends a request while one is served: the pipe has ended, and the parent with it
            raise EOFError
        for fd in set(ready) & {result, errors}:
            part = os.read(fd, 1 << 20)
            if not part:
                listening.remove(fd)
            elif fd == errors:
                complaint = (complaint + part)[-_STDERR_BYTES:]
            else:
                data += part
        if len(data) > _RESULT_BYTES:
            return bytearray(), complaint, f"a result of more than {_RESULT_BYTES >> 20} MB"
    # It has closed its end; it should be gone within a moment.
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return bytearray(), complaint, "timeout"
        time.sleep(0.0005)
    return data, complaint, ""


def _end(child: int) -> None:
    """Kill a child and all that it started; it is still ours to wait for."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


_HEAD = struct.Struct("<cQ")  # "+" result or "-" reason, and its length


def _judged(data: bytearray, stopped: str, status: int, seconds: float) -> Json:
    """Whether the child did its work, and why not; and how many bytes of result follow."""

    def failed(reason: str) -> Json:
        return {"ok": False, "reason": reason, "bytes": 0}

    if stopped == "timeout" or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return failed(f"timeout after {seconds:g} s")
    if stopped:
        return failed(stopped)
    if os.WIFSIGNALED(status):
        return failed(f"crash {signal.Signals(os.WTERMSIG(status)).name}")
    if os.WEXITSTATUS(status):
        return failed(f"exit status {os.WEXITSTATUS(status)}")
    if len(data) < _HEAD.size:
        return failed("no result")
    kind, length = _HEAD.unpack_from(data)
    if length != len(data) - _HEAD.size:
        return failed(f"a result cut off after {len(data) - _HEAD.size} of {length} bytes")
    if kind != b"+":
        return failed(data[_HEAD.size :].decode("utf-8", "replace"))
    return {"ok": True, "reason": "", "bytes": length}


def _live_and_die(work: Work, request: Json, settings: Json, zygote: int, result: int, errors: int) -> NoReturn:
    """The child: bounds itself, works, writes what came of it, and leaves without tidying up."""
    try:
        os.setsid()
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:  # it died before we asked to die with it
            os._exit(1)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        _bound(settings)
        arrays, notes = work(request)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        kind, body = b"+", save(arrays, metadata={"notes": json.dumps(notes)})
    except BaseException as error:
        kind, body = b"-", f"{type(error).__name__}: {error!s:.1000}".encode("utf-8", "replace")
    try:
        _write(result, _HEAD.pack(kind, len(body)))
        _write(result, body)
    finally:
        os._exit(0)


def _bound(settings: Json) -> None:
    """Limits on top of what the process already is: LLVM and its like reserve address space that nobody uses."""
    seconds = math.ceil(settings["seconds"]) + 1
    with open("/proc/self/statm", "rb") as file:
        already = int(file.read().split()[0]) * resource.getpagesize()
    for which, value in (
        (resource.RLIMIT_AS, already + (settings["memory_mb"] << 20)),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),  # pipes are no files
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bounded, bounded))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
