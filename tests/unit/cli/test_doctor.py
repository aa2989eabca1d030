"""What the doctor finds, and that its remedies cure."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from mrdist.cli import doctor
from mrdist.cli.doctor import examine
from mrdist.recipe import load
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


def test_a_recipe_without_data_folders_and_weights_is_told_all_of_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_online", lambda: False)
    findings = list(examine(load("mrd/base", ["evaluate.splits=[tset]", "runs=/dev/null/x"])))
    failures = [found.what.partition(":")[0] for found in findings if found.level == "fail"]
    assert failures[-4:] == ["evaluate.splits", "runs=/dev/null/x", "data.path", "teacher ViT-bigG-14"]
    assert all(found.remedy for found in findings if found.level == "fail")


def test_a_teacher_that_can_be_downloaded_is_only_a_warning_with_the_line_that_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_online", lambda: True)
    (found,) = [found for found in examine(load("smoke", ["teacher=openclip-vit-b-32"])) if found.what.startswith("teacher")]
    assert found.level == "warn"
    line = shlex.split(found.remedy.partition(" where ")[0])[-1]
    compile(line, "remedy", "exec")
    assert "'ViT-B-32', 'laion2b_s34b_b79k'" in line


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of NVIDIA's, on which torch sees no GPU."""
    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_torch_for_cpus_beside_a_gpu_is_told_from_a_shell_without_one(cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[str, str]:
        (found,) = [found for found in examine(None) if found.what.startswith("torch ") and found.level == "fail"]
        return found.what, found.remedy

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "TORCH_BACKEND=cu126 ./install.sh" in said()[1]
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES is not set" in said()[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    what, remedy = said()
    assert "CUDA_VISIBLE_DEVICES=''" in what
    assert "srun --gpus 1 --pty mrdist doctor" in remedy
