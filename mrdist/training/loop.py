"""The training loop."""

from __future__ import annotations

from mrdist.training.run import Run


def train(run: Run) -> Run:
    """Train until the recipe is done or someone asks to stop."""
    with run:
        batches = iter(run.loader.batches(after=run.step))
        # Asked for only where it is wanted: the batch after the last step may never come.
        while not (run.finished or run.asked_to_stop) and (batch := next(batches, None)) is not None:
            loss = run.engine.forward(batch)
            run.engine.step(loss)
            run.step += 1
            for watcher in run.watchers:
                watcher.after_step(run, loss)
    return run
