"""The Triton kernel of farthest points against its definition: in Triton's interpreter, and on a GPU where there is one.

The interpreter is chosen when a kernel is decorated, so it runs in a process of its own: this file is also the script of that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mrdist.relation.kernels import available
from mrdist.students import grouping

ROOT = Path(__file__).parents[3]
CASES = [(1, 1), (2, 2), (37, 20), (300, 64), (1024, 40)]
"""Points and picks."""


def differs(points: int, count: int, device: str = "cpu") -> list[str]:
    """What the kernel picks otherwise than the definition."""
    from mrdist.students import picking

    random = torch.Generator().manual_seed(points)
    scattered = torch.randn(3, points, 3, generator=random)
    clouds = {
        "scattered": scattered,
        "on a grid, where many tie": (scattered * 2).round(),
        "in one place": torch.full((3, points, 3), 0.25),
    }
    start = torch.randint(points, (3,), generator=random)
    found = {
        name: (picking.farthest(xyz.to(device), count, start.to(device)).cpu(), grouping._farthest(xyz, count, start))
        for name, xyz in clouds.items()
    }
    return [f"{name}, {points} points" for name, (mine, wanted) in found.items() if not mine.equal(wanted)]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_picks_what_the_definition_picks_to_the_last_tie() -> None:
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"compared {len(CASES)}\n"), done.stdout + done.stderr


@pytest.mark.skipif(not available(torch.device("cuda")), reason="no GPU, or none that the kernels run on")
@pytest.mark.parametrize(("points", "count"), [*CASES, (10_000, 512), (16_384, 512)])
def test_a_gpu_picks_what_the_definition_picks(points: int, count: int) -> None:
    assert differs(points, count, "cuda") == []
    xyz = torch.rand(2, points, 3)
    assert grouping.farthest(xyz.cuda(), count).cpu().equal(grouping._farthest(xyz, count, grouping._outermost(xyz)))


if __name__ == "__main__":
    wrong = [what for case in CASES for what in differs(*case)]
    print("\n".join(wrong) or f"compared {len(CASES)}")
