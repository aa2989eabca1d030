"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def put(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write `data` beside `path` and rename it into place: all of it or nothing is ever seen, whoever else writes there.

    Args:
        lasting: force it to the disk before it gets its name; otherwise a power cut may leave an empty file of that name.

    Raises:
        OSError: it could not be written; nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(beside, path)
        if lasting:
            settle(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk: a rename that is not there after a power cut never happened."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle_all(folder: Path) -> None:
    """Force everything below a folder to the disk, before it gets the name that says that it is whole."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir() or path.is_file():
            settle(path)
