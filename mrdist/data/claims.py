"""Who is at work on what: small files that keep two processes from doing the same work twice."""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from mrdist.data.shards import Shards, unit_name
from mrdist.errors import DataError

_log = logging.getLogger(__name__)

SILENCE = 60.0
"""Seconds after which a claim that nobody renews is free: how long the work of a node that died waits for another."""


class Claims:
    """Claims of this process in one folder: `00012.claim` says who works on unit 00012.

    Of those who take a claim at once, one gets it. Where work is shared, a claim only saves some: whoever ignores it, or goes on after
    a long silence, does work twice and no harm (see `Shards`). A claim is free again when its owner released it, when its owner was a
    process of this machine that is dead, or when it has not been renewed for `silence` seconds; a thread renews the claims of a living
    process. Processes on whose behalf somebody hands out the work (`by`, a name) take over one another's: who is given a unit again
    follows one that died.
    """

    def __init__(self, folder: Path, *, silence: float = SILENCE, by: str = "") -> None:
        self.folder, self.silence, self.by = folder, silence, by
        self._held: dict[str, str] = {}  # by name, what tells my claim from any other of that name
        self._closing = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._renewer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._renewer.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Whether `name` is mine now."""
        # To look costs a file server less than to try, and most of what is looked at is somebody's.
        return (not self._path(name).exists() or self._removed(name)) and self._made(name)

    def release(self, name: str) -> None:
        """Let others have `name`; if it was taken over, it stays with whoever has it now."""
        if self._mine(name):
            self._path(name).unlink(missing_ok=True)
        self._held.pop(name, None)

    def owner(self, name: str) -> str:
        """Who holds `name`, in words; "" if nobody does."""
        who = _read(self._path(name))
        return f"process {who['pid']} on {who['host']}" if who else ""

    @contextmanager
    def hold(self, name: str, *, within: float) -> Iterator[None]:
        """Wait until `name` is mine, hold it for the length of the block.

        Raises:
            DataError: somebody else has held it for `within` seconds.
        """
        deadline, said = time.monotonic() + within, ""
        while not self.take(name):
            who = self.owner(name)
            if who != said:
                _log.info("waiting for %s, which is at work on %s", who or "somebody", name)
                said = who
            if time.monotonic() > deadline:
                raise DataError(
                    what=str(self._path(name)),
                    got=f"held by {who} for {within:g} s",
                    wanted="my turn",
                    try_="end that process, or remove the file if it is not alive",
                )
            time.sleep(0.2)
        try:
            yield
        finally:
            self.release(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _made(self, name: str) -> bool:
        """Whether there was no claim, and now there is mine."""
        path, mark = self._path(name), uuid4().hex
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump({**_myself(), "by": self.by, "mark": mark}, file)
        except FileExistsError:
            return False
        except OSError:  # a full disk: nobody's claim would be in everybody's way
            path.unlink(missing_ok=True)
            raise
        self._held[name] = mark
        return True

    def _removed(self, name: str) -> bool:
        """Whether there was an abandoned claim, and I removed it."""
        path, taking = self._path(name), self.folder / f".{name}.taking"
        if not _abandoned(path, self.silence, self.by):
            return False
        try:
            taking.touch(exist_ok=False)
        except FileExistsError:
            if _old(taking, self.silence):  # whoever was about to died just then
                taking.unlink(missing_ok=True)
            return False
        try:
            # Once more: what was abandoned may be somebody's by now. Who holds `taking`, and nobody else, removes what is not its own.
            abandoned = _abandoned(path, self.silence, self.by)
            if abandoned:
                path.unlink(missing_ok=True)
            return abandoned
        finally:
            taking.unlink(missing_ok=True)

    def _mine(self, name: str) -> bool:
        return name in self._held and _read(self._path(name)).get("mark") == self._held[name]

    def _renew(self) -> None:
        while not self._closing.wait(self.silence / 10):
            for name in list(self._held):
                with suppress(OSError, KeyError):  # KeyError: released just now
                    if self._mine(name):
                        os.utime(self._path(name))


class Worklist:
    """Missing units of a folder, each handed to one process at a time."""

    def __init__(self, missing: Iterable[int], shards: Shards, claims: Claims) -> None:
        self._waiting = deque(missing)
        self._shards, self._claims = shards, claims

    def __len__(self) -> int:
        """How many units are neither mine nor known to be done."""
        return len(self._waiting)

    def take(self) -> int | None:
        """A unit that is mine to do now; None while all others are in other hands. Should those die, their claims end."""
        for _ in range(len(self._waiting)):
            number = self._waiting.popleft()
            if not self._claims.take(unit_name(number)):
                self._waiting.append(number)
            elif self._shards.has(unit_name(number)):  # another process did it, meanwhile
                self.done(number)
            else:
                return number
        return None

    def done(self, number: int) -> None:
        """Let others see that a unit is done."""
        self._claims.release(unit_name(number))


def held(folder: Path, *, by: str = "") -> list[str]:
    """The names that somebody alive holds in a folder, which need not exist; not those held by whoever works for `by`."""
    return sorted(path.stem for path in folder.glob("*.claim") if path.exists() and not _abandoned(path, SILENCE, by))


def _abandoned(path: Path, silence: float, by: str = "") -> bool:
    """Whether a claim is there, and free."""
    if _old(path, silence):
        return True
    who = _read(path)
    return (by != "" and who.get("by") == by) or _dead(who)


def _old(path: Path, seconds: float) -> bool:
    """Whether a file is there that nobody has touched for so long."""
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False


def _myself() -> dict[str, str | int]:
    return {"host": platform.node(), "space": _space(), "pid": os.getpid(), "born": _born(os.getpid())}


def _read(path: Path) -> dict[str, str | int]:
    """The owner of a claim; empty while it is being written, and when it is gone."""
    try:
        who = json.loads(path.read_bytes())
        return {key: who[key] for key in _myself()} | {key: who.get(key, "") for key in ("by", "mark")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _dead(who: dict[str, str | int]) -> bool:
    """Whether an owner is known to be dead: numbered by the same kernel as we are, and not there."""
    mine = _myself()
    if not who or (who["host"], who["space"]) != (mine["host"], mine["space"]):
        return False
    return _born(int(who["pid"])) != who["born"]


def _space() -> str:
    """Who gives out the process numbers that we see: containers of one machine have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks: tells it from a later one with the same number. "" if there is none."""
    try:
        # The name, in brackets, may hold anything; after it come state (field 3) ... start time (field 22).
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] == "Z" else after_name[19]
