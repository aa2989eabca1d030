"""What a driver says while a run goes on: how ranks and pipeline get on, in a line."""

from __future__ import annotations

from pathlib import Path

from mrdist.progress import duration, significant
from mrdist.recipe import Recipe
from mrdist_cluster.standing import recent


class Follower:
    """The steps that ranks took since somebody last looked."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._file, self._recipe = run / "metrics.jsonl", recipe
        # Steps that were told. Neither numbers nor times tell new ones: a run takes steps again after a checkpoint, and clocks are set.
        self._seen = set[tuple[int, str]]()
        self.step = 0
        self.left = 0.0  # seconds of computing that are left, as far as the last line tells
        self.line()

    def line(self) -> str:
        """Step, loss, shapes per second, share of the time that ranks waited, and time left; "" if no step was taken since."""
        steps = list(recent(self._file))
        names = [(step["step"], step["time"]) for step in steps]
        fresh = next((place for place in range(len(names), 0, -1) if names[place - 1] in self._seen), 0)
        self._seen, steps = set(names), steps[fresh:]
        if not steps:
            return ""
        self.step = steps[-1]["step"]
        seconds, waited = (sum(step[name] for step in steps) for name in ("seconds", "wait"))
        rate = len(steps) * self._recipe.batch / seconds
        left = seconds / len(steps) * (self._recipe.steps - self.step)
        self.left = (1 - waited / seconds) * left
        return (
            f"step {self.step}/{self._recipe.steps}   loss {steps[-1]['loss']:.3f}   {significant(rate)} shapes/s"
            f"   wait {waited / seconds:.0%}   left {duration(left)}"
        )


class Heard:
    """A `Progress` that remembers where each stage is."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[int, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._stages[stage] = (done, total)

    @property
    def done(self) -> int:
        """Units of all stages that are done."""
        return sum(done for done, _ in self._stages.values())

    def line(self) -> str:
        """What is not done yet."""
        return "   ".join(f"{stage} {done}/{total}" for stage, (done, total) in self._stages.items() if done < total)
