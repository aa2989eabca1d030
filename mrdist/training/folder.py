"""The run folder: what is written before anything starts, and what must not change when a run goes on."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import mrdist
from mrdist.errors import MrdistError, RecipeError
from mrdist.files import put
from mrdist.presets import layers
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe, plain, to_yaml
from mrdist.training.stopping import REGROUP, STOP

FREE = ("steps", "workers", "device", "runs", "store", "live", "pools", "engine", "watch", "evaluate")
"""Keys of a recipe that may change when a run goes on: they decide how long, where and how often, not what is learnt."""

SECONDS = 90.0
"""How long a shared file system may take to show a new file to every rank: NFS may believe for a minute that there is none."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys, in dots, of two plain recipes that differ and matter, each with both values."""
    found: list[str] = []

    def compare(a: Any, b: Any, key: str) -> None:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            for name in dict.fromkeys([*a, *b]):
                compare(a.get(name), b.get(name), f"{key}.{name}" if key else str(name))
        elif a != b:
            found.append(f"{key} ({a} before, {b} now)")

    compare({k: v for k, v in before.items() if k not in FREE}, {k: v for k, v in now.items() if k not in FREE}, "")
    return found


def enter(folder: Path, recipe: Recipe, ranks: Ranks) -> None:
    """Make the folder, or enter it again: recipe.yaml, command.txt, code.txt. Every rank calls; the first one works.

    Raises:
        RecipeError: the folder belongs to another recipe, is no run folder and not empty, or is not seen by all; on every rank.
    """
    trouble: Exception | None = None
    try:
        if ranks.first:
            _lay_out(folder, recipe)
    except (MrdistError, OSError) as wrong:
        trouble = wrong
    trouble = ranks.objects(trouble)[0]
    if trouble is not None:
        raise trouble
    deadline = time.monotonic() + SECONDS
    while not (folder / "recipe.yaml").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = [rank for rank, seen in enumerate(ranks.objects((folder / "recipe.yaml").is_file())) if not seen]
    if blind:
        raise RecipeError(
            what=str(folder), got=f"not there for ranks {blind}", wanted="a folder that all ranks share", try_="runs=/a/shared/folder"
        )


def _lay_out(folder: Path, recipe: Recipe) -> None:
    kept = folder / "recipe.yaml"
    if kept.is_file():
        changed = differences(layers(folder), plain(recipe))
        if changed:
            raise RecipeError(
                what=str(folder), got=f"another recipe: {', '.join(changed)}", wanted="the recipe of this run", try_="a new run folder"
            )
        for name in (STOP, REGROUP, "done"):
            (folder / name).unlink(missing_ok=True)
        if (folder / "why.txt").is_file():
            os.replace(folder / "why.txt", folder / "why-before.txt")
    elif folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(what=str(folder), got="a folder with other things in it", wanted="a run folder or a new one", try_="another name")
    for name in ("steps", "ranks", "board"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    replace_text(kept, to_yaml(recipe))
    with (folder / "command.txt").open("a") as file:
        file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}  {platform.node()}  {shlex.join(sys.orig_argv)}\n")
    replace_text(folder / "code.txt", "\n".join(f"{key} {value}" for key, value in code().items()) + "\n" + _git("diff", "HEAD"))


def code() -> dict[str, str]:
    """Which code runs: version, commit (if this is a checkout), torch, Python."""
    import torch

    return {
        "mrdist": mrdist.__version__,
        "commit": _git("rev-parse", "HEAD").strip() or "unknown",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _git(*words: str) -> str:
    """What git says of the checkout this package lies in; nothing if it lies in none."""
    here = Path(mrdist.__file__).parent
    try:
        # A virtual environment inside somebody else's checkout is not our code.
        subprocess.run(["git", "ls-files", "--error-unmatch", "__init__.py"], cwd=here, capture_output=True, check=True, timeout=10)
        return subprocess.run(["git", *words], cwd=here, capture_output=True, check=True, timeout=10, text=True, errors="replace").stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def replace_text(path: Path, text: str) -> None:
    """Write a file in one instant: a reader, and whoever comes after a power cut, sees the old text or the new one.

    One that holds this text already is left alone.
    """
    data = text.encode()
    if not path.is_file() or path.read_bytes() != data:
        put(path, data)


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that come after `step`, and broken ones."""
    if path.is_file():
        replace_text(path, "".join(f"{json.dumps(line)}\n" for line in lines(path) if line["step"] <= step))


def last_step(path: Path) -> int:
    """The last step that metrics.jsonl knows; 0 if none."""
    return max((line["step"] for line in lines(path)), default=0) if path.is_file() else 0


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a dying process left half is passed over."""
    with path.open() as file:
        for text in file:
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, KeyError, TypeError):
                continue
            yield line


class _File(logging.FileHandler):
    """A file that may not come to be: then, too, the record is what is lost, and not the work that wrote it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def log_to(path: Path) -> logging.Handler:
    """Write what this package logs to a file, one line each, until `log_no_more`."""
    handler = _File(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("mrdist")
    logger.addHandler(handler)
    logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
    return handler


def log_no_more(handler: logging.Handler) -> None:
    """Take back what `log_to` did."""
    logging.getLogger("mrdist").removeHandler(handler)
    with suppress(OSError):
        handler.close()


class _Closes(Protocol):
    def close(self) -> None: ...


def let_go(thing: _Closes) -> None:
    """Close something of a run. A full disk is said, not raised: it must not hide what went wrong, nor undo what went well."""
    try:
        thing.close()
    except OSError as wrong:
        logging.getLogger(__name__).warning("while the run was closed: %s", wrong)
