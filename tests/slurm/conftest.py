"""One Slurm and one prepared store for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.real import Slurm, missing

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
base: smoke
name: drill
steps: 160
batch: 58
points: 128
sample: 64
workers: 1
views: {ring: front4, pixels: 16}
data: {preset: synthetic, train: 4, val: 1, test: 1, unseen: 1}
teacher: {preset: fitted, pixels: 32, steps: 4, batch: 8, text_width: 32, channels: 8, width: 32}
student: {preset: micro, dim: 24, depth: 1, heads: 3, groups: 8, group_size: 8}
optim: {warmup: 10}
watch: {log_every: 20, save_every: 40, pictures_every: 0, shapes: true}
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that trains in seconds, and all that it needs prepared."""
    if reason := missing():
        pytest.skip(reason)
    lab = tmp_path_factory.mktemp("lab")
    (lab / "drill.yaml").write_text(RECIPE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "mrdist", "prepare", "drill.yaml"], cwd=lab, env=environment, check=True, timeout=300)
    return lab


# Read by every Python that starts with this file in its path.
LINGERS = """
import os, sys, time
if "train" in sys.orig_argv or "submitit.core._submit" in sys.orig_argv:
    from mrdist.training.run import Run
    reading, seen = Run.reading, set()
    def lingers(run, loss):
        if run.step not in seen:
            seen.add(run.step)
            time.sleep(float(os.environ.get("LINGER", "0.05")))
        return reading(run, loss)
    Run.reading = lingers
"""


@pytest.fixture(scope="session")
def lingering(lab: Path) -> str:
    """A PYTHONPATH with which every step takes LINGER seconds longer (0.05): no machine is through before somebody interrupts it."""
    folder = lab / "lingering"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LINGERS)
    return str(folder)


def shared(lab: Path) -> list[Path]:
    """What nodes must see, wherever it lies: the laboratory, the checkout and Python."""
    return [lab, ROOT, *{Path(prefix) for prefix in (sys.prefix, sys.base_prefix)}]


@pytest.fixture(scope="session")
def slurm(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Three nodes; their processes end with the session, however it ends."""
    with Slurm(tmp_path_factory.mktemp("slurm") / "state", shared(lab)) as slurm:
        yield slurm
