"""A task trains only on a node that has what the site promised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrdist.cli.main import YOURS, main
from mrdist.recipe import load, to_yaml
from mrdist_cluster.node import NodeError, check
from tests.waiting import LATE

MORE = torch.cuda.device_count() + 1


def test_a_node_without_its_gpus_ends_the_task_and_why_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {"JOB_ID": "7", "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "GLOBALID": "0", "LOCALID": "0"}
    environment = {**os.environ, "SUBMITIT_EXECUTOR": "local", **{f"SUBMITIT_LOCAL_{name}": value for name, value in ids.items()}}
    program = f"from pathlib import Path; from mrdist_cluster.task import Task; Task(Path({str(run)!r}), {MORE})()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=LATE)
    assert done.returncode == YOURS
    told = (run / "ranks" / "0000.out").read_text()
    assert f"got {MORE - 1} GPUs with torch {torch.__version__}, wanted {MORE}, as the site says. Try: " in told
    assert "Traceback" not in told
    assert not (run / "command.txt").exists(), "it has not begun to train"
    assert main(["why", str(run)]) == 0
    said = capsys.readouterr().out
    assert "failed, step 0" in said
    assert f"got {MORE - 1} GPUs" in said
    assert "\ntry: " in said


def test_the_remedy_of_a_torch_that_knows_no_gpu_is_another_torch(run: Path) -> None:
    remedy = "mrdist doctor on that node" if torch.version.cuda else r"cu126 \./install\.sh"
    with pytest.raises(NodeError, match=f"node h4: got {MORE - 1} GPUs .*Try: .*{remedy}"):
        check(run, MORE, rank=0, size=1, host="h4")


def test_a_recipe_of_cores_and_a_site_of_cores_want_no_gpus(run: Path) -> None:
    check(run, 0, rank=0, size=1, host="h4")
    (run / "recipe.yaml").write_text(to_yaml(load("smoke", ["device=cpu"])))
    check(run, MORE, rank=0, size=1, host="h4")
    assert not (run / "why.txt").exists()
