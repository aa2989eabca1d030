"""Renderers that draw side by side, and a catalogue drawn by them: in units that a re-run completes rather than repeats."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from mrdist.data.claims import Claims, Worklist
from mrdist.data.drawing import ShapeRenderer
from mrdist.data.faults import must_see
from mrdist.data.order import UNIT
from mrdist.data.renders import Drawn, write_unit
from mrdist.data.sandbox import Outcome
from mrdist.data.shards import Shards
from mrdist.progress import Progress
from mrdist.recipe import Limits, Views
from mrdist.shapes import Shape

Begun = Callable[[Shape], None] | None


class Crew:
    """So many shapes are drawn at once, each in a process of its own; `with` or `close` ends them."""

    def __init__(self, size: int, root: Path, *, views: Views, limits: Limits, points: int, formats: Collection[str] = (".glb",)) -> None:
        """
        Args:
            size: shapes drawn at the same time.
            root: of the catalogue; the others are as for `ShapeRenderer`.

        Raises:
            DataError: nothing can be drawn on this machine; says why.
        """
        self.size, self._root = max(1, size), root
        self._members: list[ShapeRenderer] = []
        self._idle: SimpleQueue[ShapeRenderer] = SimpleQueue()
        self._pool = ThreadPoolExecutor(self.size, thread_name_prefix="render")

        def hire(_: int) -> None:
            one = ShapeRenderer(root, views=views, limits=limits, points=points, formats=formats)
            self._members.append(one)
            self._idle.put(one)

        try:
            hire(0)  # alone, because it may have to compile for those that follow
            list(self._pool.map(hire, range(1, self.size)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def begin(self, shapes: Sequence[Shape], quarantined: Mapping[str, str] | None = None, begun: Begun = None) -> list[Future[Outcome]]:
        """Have some shapes drawn, in their order, after those begun before.

        Args:
            quarantined: shapes not to be touched, by id, each with the reason that will stand beside it.
            begun: told of every other shape before it is touched, by the thread that draws it.

        Raises:
            MachineFault: this machine does not see the catalogue's folder.
        """
        must_see(self._root)
        why = quarantined or {}
        return [self._pool.submit(self._draw, shape, why.get(shape.id, ""), begun) for shape in shapes]

    def close(self) -> None:
        """End all processes; what was begun and is not done is given up."""
        # Not waiting: the sandboxes are closed next, and the threads end with them.
        self._pool.shutdown(wait=False, cancel_futures=True)
        for one in self._members:
            one.close()

    def _draw(self, shape: Shape, refused: str, begun: Begun) -> Outcome:
        if refused:
            return Outcome(ok=False, reason=refused)
        one = self._idle.get()
        try:
            if begun is not None:
                begun(shape)
            return one.draw(shape)
        finally:
            self._idle.put(one)


def draw_units(
    units: Sequence[Sequence[Shape]],
    missing: Sequence[int],
    shards: Shards,
    claims: Claims,
    crew: Crew,
    *,
    root: Path,
    points: int,
    drawn: Callable[[Drawn], None],
    progress: Progress,
) -> None:
    """Have the crew draw the missing units, in the order of `missing`, a few units ahead of the one that is written next.

    Several processes may do this at once: each takes units that nobody is at work on, and all return when everything is drawn.

    Args:
        drawn: told of every unit that was drawn here, once it is written; the crew goes on drawing meanwhile.
        progress: told of "render" after every shape.

    Raises:
        DataError: the disk is full.
        MachineFault: this machine cannot read the meshes; units of which that is so are not written.
    """
    total = sum(map(len, units))
    done = total - sum(len(units[number]) for number in missing)
    work = Worklist(missing, shards, claims)
    begun: deque[tuple[int, list[Future[Outcome]]]] = deque()
    ahead = 2 + crew.size // UNIT  # so that nobody is idle while a unit's last shape is drawn
    while len(work) > 0 or begun:
        while len(begun) < ahead and (mine := work.take()) is not None:
            begun.append((mine, crew.begin(units[mine])))
        if not begun:
            time.sleep(0.2)
            continue
        number, futures = begun.popleft()
        outcomes = []
        for future in futures:
            outcomes.append(future.result())
            done += 1
            progress("render", done, total)
        written = write_unit(shards, number, units[number], outcomes, points=points, root=root)
        work.done(number)
        drawn(written)
    progress("render", total, total)  # with what other processes did meanwhile
