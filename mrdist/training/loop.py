"""The training loop."""

from __future__ import annotations

from mrdist.training.run import Run


def train(run: Run) -> Run:
    """Train until the recipe is done or someone asks to stop."""
    with run:
        for batch in run.loader.batches(after=run.step):
            if run.finished or run.asked_to_stop:
                break
            loss = run.engine.forward(batch)
            run.engine.step(loss)
            run.step += 1
            for watcher in run.watchers:
                watcher.after_step(run, loss)
    return run
