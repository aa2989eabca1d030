"""Work for a sandbox that goes wrong in every way."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

from mrdist.errors import DataError

WARMED: list[int] = []


def warm() -> None:
    WARMED.append(os.getpid())


def fail_to_warm() -> None:
    raise RuntimeError("no kernel compiles here")


def start_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()


def work(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do `request["deed"]`, a function of this module; what it returns is the result."""
    deeds = {name.removeprefix("_"): deed for name, deed in globals().items() if name.startswith("_") and callable(deed)}
    found: tuple[dict[str, Any], dict[str, Any]] = deeds[request["deed"]](request)
    return found


def _arrays(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    grid = np.arange(24, dtype=np.float64).reshape(4, 6)
    arrays = {"turned": grid.T, "every other": grid[::2], "none": np.zeros((0, 3), np.float16), "bytes": np.arange(5, dtype=np.uint8)}
    return arrays | {"truth": grid > 3, "number": np.array(3)}, {"said": request["said"]}


def _surroundings(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    with open("/proc/self/statm") as file:
        already = int(file.read().split()[0]) * resource.getpagesize()
    names = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES")
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE")}
    about = {"environment": {name: os.environ.get(name) for name in names}, "limits": limits, "already": already}
    return {}, about | {"warmed": WARMED, "zygote": os.getppid(), "open": len(os.listdir("/proc/self/fd"))}


def _crash(request: dict[str, Any]) -> None:
    ctypes.string_at(0)


def _abort(request: dict[str, Any]) -> None:
    os.abort()


def _spin(request: dict[str, Any]) -> None:
    while True:
        pass


def _sleep(request: dict[str, Any]) -> None:
    time.sleep(1000)


def _allocate(request: dict[str, Any]) -> None:
    np.ones(1 << 36, np.uint8)


def _grow(request: dict[str, Any]) -> None:
    held = []
    while True:
        held.append(bytearray(1 << 22))


def _recurse(request: dict[str, Any]) -> None:
    _recurse(request)


def _refuse(request: dict[str, Any]) -> None:
    raise DataError(what="chair.glb", got="0 faces", wanted="at least 1 face", try_="re-export the mesh")


def _leave(request: dict[str, Any]) -> None:
    os._exit(7)


def _leave_quietly(request: dict[str, Any]) -> None:
    os._exit(0)


def _stop_politely(request: dict[str, Any]) -> None:
    sys.exit("enough")


def _shout(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    for _ in range(2000):
        os.write(2, b"libpng warning: " * 64)
    sys.stdout.write("a frame? " * 100)
    sys.stdout.flush()
    return {}, {}


def _shout_and_crash(request: dict[str, Any]) -> None:
    os.write(2, b"x" * 100_000 + b"the last words")
    os.abort()


def _litter(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    with open(request["path"], "wb", buffering=0) as file:
        file.write(b"a byte")
    return {}, {}


def _leave_a_child(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if os.fork() == 0:
        time.sleep(1000)
    return {}, {}


def _say_nothing_sensible(request: dict[str, Any]) -> None:
    return None


def _garble(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    sys.modules["__main__"].save = lambda *_, **__: b"\xff" * 64  # type: ignore[attr-defined]
    return {}, {}


def _cut_off(request: dict[str, Any]) -> None:
    for fd in range(3, 32):
        try:
            os.write(fd, b"+" + (1000).to_bytes(8, "little") + b"only this")
        except OSError:
            continue
    os._exit(0)


def _kill_the_zygote(request: dict[str, Any]) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
