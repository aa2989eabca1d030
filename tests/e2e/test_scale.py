"""An experiment as a user types it: killed half-way, gone on with, nothing done twice, and ends in a table, JSON and a figure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_commands import RECIPE, mrdist
from tests.waiting import until

GRID = """
optim: {warmup: 1}
watch: {log_every: 2, save_every: 1, evaluate_every: 0, pictures_every: 0}
grid:
  sizes:
    narrow: {student: {dim: 24, heads: 1, hidden: 32}}
    wide: {student: {dim: 48, heads: 2, hidden: 64}}
  transfer: mup
  terms: [align/image, align/text]
  last: 2
"""
STEPS = 6

# Read by every Python that starts with this file in its path: the second run stops in its middle, until it is killed.
STANDS_STILL = """
import sys, time
if "train" in sys.orig_argv and any(word.endswith("wide-mrd-s0") for word in sys.orig_argv):
    from mrdist.training.run import Run
    save = Run.save
    def save_and_stop(run):
        place = save(run)
        if run.step == 3:
            time.sleep(3600)
        return place
    Run.save = save_and_stop
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an experiment was killed in the middle of its second run."""
    place = tmp_path_factory.mktemp("grid")
    (place / "mini.yaml").write_text(RECIPE.split("optim:")[0] + GRID)
    (place / "still").mkdir()
    (place / "still" / "sitecustomize.py").write_text(STANDS_STILL)
    words = [sys.executable, "-m", "mrdist", "scale", "mini.yaml", "-q"]
    path = os.pathsep.join(filter(None, (str(place / "still"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with subprocess.Popen(words, cwd=place, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            second = place / "runs" / "mini" / "wide-mrd-s0"
            until((second / "steps" / "00000003" / "index.json").exists, "half of the second run")
            until((second / "lock").read_text, "its number")
        finally:
            process.kill()
    # The run has a session of its own; a power failure would have taken it, too.
    os.kill(int((second / "lock").read_text()), signal.SIGKILL)
    return place


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_same_command_goes_on_and_does_nothing_twice(place: Path) -> None:
    runs = place / "runs" / "mini"
    first = (runs / "narrow-mrd-s0" / "metrics.jsonl").stat().st_mtime_ns
    assert (runs / "narrow-mrd-s0" / "done").exists()
    assert not (runs / "wide-mrd-s0" / "done").exists()
    done = mrdist(place, "scale", "mini.yaml", "jobs=2")
    assert (runs / "narrow-mrd-s0" / "metrics.jsonl").stat().st_mtime_ns == first
    assert steps_of(runs / "wide-mrd-s0") == list(range(1, STEPS + 1))
    assert len((runs / "wide-mrd-s0" / "command.txt").read_text().splitlines()) == 2, "it went on from its checkpoint"
    assert "No law was fitted: 2 different N" in done.stdout
    assert "2/2 runs" in done.stderr
    for name in ("scaling.md", "scaling.json", "scaling.png", "scaling.pdf"):
        assert (runs / name).stat().st_size > 100
    found = json.loads((runs / "scaling.json").read_text())
    assert [(run["size"], run["samples"]) for run in found["runs"]] == [("narrow", STEPS * 16), ("wide", STEPS * 16)]
    narrow, wide = found["runs"]
    assert narrow["parameters"] < wide["parameters"]
    assert narrow["flops"] < wide["flops"]
    report = json.loads((runs / "wide-mrd-s0" / "report.json").read_text())["splits"][0]
    assert wide["top1"] == report["zero_shot"]["top1"]
    assert wide["held_out"] == pytest.approx(sum(r["nats"] for r in report["retrieval"].values()) / len(report["retrieval"]))


def test_a_finished_experiment_only_collects_and_another_recipe_is_refused(place: Path) -> None:
    found = json.loads(mrdist(place, "scale", "mini.yaml", "--json").stdout)
    assert len(found["runs"]) == 2
    wrong = mrdist(place, "scale", "mini.yaml", "steps=7", expect=1)
    assert "steps (6 before, 7 now)" in wrong.stderr
