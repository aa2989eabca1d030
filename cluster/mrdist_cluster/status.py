"""What a driver says while a run goes on: how ranks and pipeline get on, in a line."""

from __future__ import annotations

from pathlib import Path

from mrdist.progress import duration
from mrdist.recipe import Recipe
from mrdist_cluster.standing import recent


class Follower:
    """The steps that ranks took since somebody last looked."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._file, self._recipe = run / "metrics.jsonl", recipe
        self._seen = ""  # the time of the last step that was told; a run that goes on from a checkpoint takes some steps again
        self.step = 0
        self.left = 0.0  # seconds of computing that are left, as far as the last line tells
        self.line()

    def line(self) -> str:
        """Step, loss, shapes per second, share of the time that ranks waited, and time left; "" if no step was taken since."""
        steps = [step for step in recent(self._file) if step["time"] > self._seen]
        if not steps:
            return ""
        self.step, self._seen = steps[-1]["step"], steps[-1]["time"]
        seconds, waited = (sum(step[name] for step in steps) for name in ("seconds", "wait"))
        rate = len(steps) * self._recipe.batch / seconds
        left = seconds / len(steps) * (self._recipe.steps - self.step)
        self.left = (1 - waited / seconds) * left
        return (
            f"step {self.step}/{self._recipe.steps}   loss {steps[-1]['loss']:.3f}   {rate:.3g} shapes/s"
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
