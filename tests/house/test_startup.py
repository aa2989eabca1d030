"""What the first word costs: help needs no torch, and importing mrdist imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "numpy", "omegaconf", "deepspeed", "open_clip", "timm", "warp", "trimesh", "scipy", "matplotlib", "tensorboard"}


def modules_after(line: str) -> set[str]:
    text = f"import sys\n{line}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return {m.split(".")[0] for m in done.stderr.splitlines()}


def test_help_imports_nothing_heavy() -> None:
    assert not modules_after("from mrdist.cli.main import main; main(['--help'])") & HEAVY


def test_importing_mrdist_imports_nothing_heavy() -> None:
    assert not modules_after("import mrdist") & HEAVY


def test_what_a_user_types_needs_nothing_that_is_compiled_on_the_spot() -> None:
    assert not modules_after("import mrdist; mrdist.Encoder, mrdist.Points, mrdist.Recipe") & {
        "deepspeed",
        "open_clip",
        "timm",
        "warp",
        "trimesh",
        "tensorboard",
    }
