"""What tests of the cluster share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrdist.recipe import load, to_yaml


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has not begun."""
    folder = tmp_path / "runs" / "drill-7f3a"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(load("smoke")))
    return folder
