"""What a run trained on, step by step, and whether that is what it would have done undisturbed."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import pairwise

import pytest

from mrdist.recipe import load
from tests.slurm.real import Job

SHAPES = 116


def once_per_epoch(job: Job) -> bool:
    """Whether the steps of the recipe are all there, in order, and those of each epoch trained on every shape once."""
    steps, wanted = job.steps, load(job.folder).steps
    per_epoch = SHAPES // len(steps[0]["shapes"])
    epochs = [steps[first : first + per_epoch] for first in range(0, wanted, per_epoch)]
    trained = [Counter(name for step in epoch for name in step["shapes"]) for epoch in epochs]
    return [step["step"] for step in steps] == list(range(1, wanted + 1)) and all(
        len(one) == SHAPES and set(one.values()) == {1} for one in trained
    )


def assert_nothing_was_lost(job: Job, undisturbed: Job, *, within: float = 0.0) -> None:
    """The same shapes in every step, every one once per epoch; the same curve, bit for bit or `within` a relative difference."""
    assert once_per_epoch(job)
    assert [step["shapes"] for step in job.steps] == [step["shapes"] for step in undisturbed.steps]
    for step, expected in zip(job.steps, undisturbed.steps, strict=True):
        for name in ("loss", "terms", "gradient_norm"):
            wanted = pytest.approx(expected[name], rel=within) if within else expected[name]
            assert step[name] == wanted, f"{name} of step {step['step']}"
    assert (job.folder / "report.json").is_file()
    assert (job.folder / "done").is_file()
    print(f"between two steps at most {stood_still(job):.0f} s")


def stood_still(job: Job) -> float:
    """The longest time between two steps, in seconds."""
    stamps = [datetime.fromisoformat(step["time"]).timestamp() for step in job.steps]
    return max(after - before for before, after in pairwise(stamps))
