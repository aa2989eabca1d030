"""What the doctor finds, and that its remedies cure."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from mrdist.cli.doctor import examine
from tests.waiting import LATE


def test_an_installation_without_bytecode_is_noticed_and_its_remedy_cures_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "site packages" / "torch" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    monkeypatch.setattr(torch, "__file__", str(source))
    (finding,) = [found for found in examine(None) if "bytecode" in found.what]
    assert finding.level == "warn"
    subprocess.run(shlex.split(finding.remedy), check=True, timeout=LATE)
    assert not [found for found in examine(None) if "bytecode" in found.what]
