"""One pass of units through the pools of renderers and teachers, by Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mrdist.data.order import UNIT
from mrdist.data.render import cameras
from mrdist.errors import MrdistError
from mrdist.prepare.work import Round
from mrdist.recipe import Recipe
from mrdist.shapes import Shape
from mrdist_cluster.actors import RenderActor, TeachActor
from mrdist_cluster.book import Seat, Share
from mrdist_cluster.rows import Report, asked, report_of

PIXEL = 0.5
"""Bytes of a stored view per pixel: JPEG of quality 95 in full colour, of textured shapes."""

SLACK = 3
"""Ray Data sets half of its room aside for each pool's results; with less than this, renderers pause though teachers wait."""


@dataclass(frozen=True)
class Pools:
    """Renderers and teachers of one pipeline; hired for a pass, and let go after it."""

    share: Share
    name: str  # of the pipeline

    def run(
        self, first: Round, round: Round, units: Mapping[int, Sequence[Shape]], *, draw: bool, teach: bool
    ) -> Generator[Report, None, None]:
        """Have units drawn and embedded, in this order, and tell of each when it is through.

        What waits between the pools is bounded in bytes, by `pools.ahead`: renderers pause while teachers have enough.

        Args:
            first: the round that the teacher may have to learn from.

        Raises:
            MrdistError: what an actor says is wrong.
            ray.exceptions.RayError: anything else; the same again does what is missing.
        """
        import ray.data

        recipe, pools = round.recipe, round.recipe.pools
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(object_store_memory=_room(recipe, self.share))
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # one more actor as soon as all have something to do
        context.target_max_block_size = unit_bytes(recipe)
        context.enable_progress_bars = context.print_on_execution_start = False
        context.raise_original_map_exception = True  # otherwise what an actor says of itself stays behind
        context.execution_no_progress_timeout_s = -1  # sixty-four shapes that all take their time may take an hour
        _hush()
        begun = [asked(number, shapes) for number, shapes in units.items()]
        with ray.data.DataContext.current(context), said():
            rows: ray.data.Dataset = ray.data.from_items(begun, override_num_blocks=len(begun))
            if draw:
                most = self.share.renderers if teach else self.share.alone
                pool = _pool(self.share.render, pools.renderers[0], min(most, len(begun)), queue=1)
                rows = rows.map_batches(RenderActor, fn_constructor_args=(round, self.name, teach), **pool)
            if teach:
                pool = _pool(self.share.teach, pools.teachers[0], min(self.share.teachers, len(begun)), queue=pools.ahead)
                rows = rows.map_batches(TeachActor, fn_constructor_args=(first, round, self.name), **pool)
            for row in rows.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                yield report_of(row)


@contextmanager
def said() -> Iterator[None]:
    """What one of our own errors said on another process is said here."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as fell:
        found: BaseException | None = fell
        while found is not None and not isinstance(found, MrdistError):
            found = getattr(found, "cause", None) or found.__cause__
        raise (found or fell) from None


def _hush() -> None:
    """Ray Data keeps its log file and leaves the screen to us: what is wrong is raised, too."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def unit_bytes(recipe: Recipe) -> int:
    """What a drawn unit takes in memory, about."""
    return int(UNIT * (9 * recipe.points + PIXEL * recipe.views.pixels**2 * len(cameras(recipe.views))))


def _room(recipe: Recipe, share: Share) -> int:
    """Bytes of the object store that a pipeline may fill: what waits for teachers, and what renderers are about to hand over."""
    return SLACK * unit_bytes(recipe) * (recipe.pools.ahead * share.teachers + share.renderers)


def _pool(seat: Seat, least: int, most: int, *, queue: int) -> dict[str, Any]:
    """How `map_batches` hires: a unit at a time for each, `queue` of them on their way to it."""
    from ray.data import ActorPoolStrategy

    compute = ActorPoolStrategy(min_size=min(least, most), max_size=most, max_tasks_in_flight_per_actor=queue)
    return {"compute": compute, "batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True, **_takes(seat)}


def _takes(seat: Seat) -> dict[str, Any]:
    return {"num_cpus": seat.cores, "num_gpus": seat.gpus}
