"""Where the real data for tests lies, if it is there."""

from __future__ import annotations

from pathlib import Path

import pytest


def mrdist_shared(name: str) -> Path:
    """The folder or file `name` of ../shared/data beside the checkout; skips the test, by name, where it is missing."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"needs {name} of ../shared/data")
    return path
