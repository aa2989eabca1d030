"""A mesh that kills whoever has it drawn: not the child that reads it, but the process that the child works for."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from mrdist.data import drawing
from mrdist.data.drawing import ShapeRenderer
from mrdist.data.shards import Arrays

DEADLY = "deadly.glb"


def render_shape(request: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """As `mrdist.data.drawing.render_shape`."""
    if Path(request["mesh"]).name == DEADLY:
        os.kill(parent(os.getppid()), signal.SIGKILL)
        time.sleep(60)
    return drawing.render_shape(request)


def arm() -> None:
    """From now on shapes are drawn with the function above."""
    ShapeRenderer.work = "tests.cluster.killer:render_shape"  # type: ignore[misc]


def parent(pid: int) -> int:
    """Whose child a process is; 0 of one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
