"""What a run writes down: metrics.jsonl and TensorBoard's board/."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from mrdist.objectives.base import Loss
from mrdist.relation.pictures import drawn
from mrdist.shapes import Points
from mrdist.training.reading import Reading
from mrdist.training.watchers import Watcher

if TYPE_CHECKING:
    from mrdist.training.run import Run


class Metrics(Watcher):
    """One line of JSON per step, flushed before the step can be saved: a checkpoint never knows more than metrics.jsonl."""

    def __init__(self, *, shapes: bool = False) -> None:
        """
        Args:
            shapes: write down which shapes the step trained on, in the order of the global batch.
        """
        self._shapes = shapes
        self._file: TextIO | None = None

    def after_step(self, run: Run, loss: Loss) -> None:
        reading = run.reading(loss)
        more: dict[str, Any] = {"measured": run.measured} if run.measured else {}
        if self._shapes:
            more["shapes"] = [name for ids in run.ranks.objects(run.ids) for name in ids]
        if not run.ranks.first:
            return
        if self._file is None:
            self._file = (run.folder / "metrics.jsonl").open("a")
        line = {
            "step": reading.step,
            "loss": reading.loss,
            "terms": reading.terms,
            "figures": reading.figures,
            "rate": reading.rate,
            "gradient_norm": reading.gradient_norm,
            "seconds": round(reading.seconds, 6),
            "wait": round(reading.wait, 6),
            "compute": round(reading.compute, 6),
            "talk": round(reading.talk, 6),
            "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        }
        self._file.write(json.dumps(line | more) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Board(Watcher):
    """Means of the last steps, and the relations of the batch at hand, for TensorBoard."""

    def __init__(self, every: int, pictures_every: int) -> None:
        """
        Args:
            every: steps between scalars; 0 = none.
            pictures_every: steps between pictures of relations; 0 = none. The first step always has one.
        """
        self._every, self._pictures_every = every, pictures_every
        self._since: list[dict[str, float]] = []

    def after_step(self, run: Run, loss: Loss) -> None:
        if self._pictures_every and (run.step % self._pictures_every == 0 or run.step == 1):
            self._pictures(run)
        if not self._every:
            return
        self._since.append(scalars(run.reading(loss)))
        if run.step % self._every == 0 or run.finished:
            if run.board is not None:
                for name in self._since[-1]:
                    held = [numbers[name] for numbers in self._since if name in numbers]
                    run.board.add_scalar(name, sum(held) / len(held), run.step)
            self._since.clear()
        for name, value in run.measured.items():
            if run.board is not None:
                run.board.add_scalar(f"measured/{name}", value, run.step)

    def _pictures(self, run: Run) -> None:
        objective = run.engine.objective
        modes = {module: module.training for module in objective.modules()}
        objective.eval()
        with torch.no_grad(), run.engine.readable(), run.ranks.clock.at("pictures"):
            matrices = objective.pictures(run.batch, run.ranks)
        for module, training in modes.items():
            module.training = training
        if run.board is not None:
            for name, image in drawn(matrices).items():
                run.board.add_image(f"relation/{name}", image, run.step)


def scalars(reading: Reading) -> dict[str, float]:
    """A reading under the names of the board."""
    return {
        "loss/total": reading.loss,
        **{f"loss/{name}": value for name, value in reading.terms.items()},
        **{f"figures/{name}": value for name, value in reading.figures.items()},
        "optim/rate": reading.rate,
        "optim/gradient_norm": reading.gradient_norm,
        "speed/wait": reading.wait,
        "speed/compute": reading.compute,
        "speed/talk": reading.talk,
        "speed/shapes_per_second": reading.rows / max(reading.seconds, 1e-9),
    }


class Look(NamedTuple):
    """What a run looks at first."""

    views: Mapping[str, NDArray[np.uint8]]  # pictures [H, W, 3] by name
    clouds: Mapping[str, Points]  # what the student sees, by name


class FirstLook(Watcher):
    """Views and clouds, once, after the first step: one look shows a wrong axis or black renders."""

    def __init__(self, look: Callable[[], Look]) -> None:
        """
        Args:
            look: called once, on the first rank.
        """
        self._look = look

    def after_step(self, run: Run, loss: Loss) -> None:
        if run.step != 1 or run.board is None:
            return
        board: Any = run.board
        look = self._look()
        for name, pixels in look.views.items():
            board.add_image(f"views/{name}", pixels, 0, dataformats="HWC")
        for name, points in look.clouds.items():
            colours = torch.from_numpy((points.rgb * 255).round().astype(np.uint8))[None]
            board.add_mesh(f"clouds/{name}", torch.from_numpy(points.xyz)[None], colors=colours, global_step=0)
