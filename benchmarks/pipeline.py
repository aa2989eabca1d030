"""What pools on Ray cost over the same classes in one process, and how rates grow with renderers.

    python benchmarks/pipeline.py [UNITS [ROUNDS]]      # units of 64 shapes per measurement (10), measurements of each kind (3)

Both sides take turns in one run, so that a busy neighbour slows down both; medians are printed, and their ratios. Nothing is measured
before a first unit is through the pools: hiring them and opening the teacher takes seconds, once. Shapes are the embedded solids, 12
views of 64 pixels; the teacher is a small CLIP with nearly random weights: it takes as long as one that knows something.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mrdist.data.synthetic import SyntheticConfig
from mrdist.prepare import prepare
from mrdist.prepare.units import announce, crew_of, draw_unit, known_teacher, open_teacher, teach_unit
from mrdist.prepare.work import Work
from mrdist.recipe import Limits, Pools, Recipe, Views
from mrdist.teachers.cache import Cache
from mrdist.teachers.clip import ClipConfig
from mrdist.teachers.fit import FittedConfig
from mrdist_cluster.book import Node, plan
from mrdist_cluster.figures import Figures
from mrdist_cluster.pools import Pools as Hired
from mrdist_cluster.settings import fill, joined


def recipe(store: Path, train: int) -> Recipe:
    return Recipe(
        name="benchmark", points=10_000, sample=10_000, workers=2, device="cpu", store=str(store), limits=Limits(),
        data=SyntheticConfig(train=train, val=0, test=1, unseen=1), views=Views(pixels=64),
    )  # fmt: skip


def small_teacher(folder: Path) -> Path:
    """A CLIP checkpoint for 64 pixels."""
    few = replace(recipe(folder, 1), points=64, sample=64, views=Views(ring="front4", pixels=16), teacher=FittedConfig(pixels=64, steps=2))
    prepare(few)
    return next((folder / "teachers").glob("fitted-*"))


class Bench:
    """One store, emptied before every measurement."""

    def __init__(self, folder: Path, units: int) -> None:
        teacher = ClipConfig(model=str(small_teacher(folder / "few")))
        self.recipe = replace(recipe(folder / "store", units * 64 // 30 + 1), teacher=teacher)
        self.work = Work.open(self.recipe)
        self.round = self.work.round()
        self.units = {number: self.work.units[number] for number in self.work.order[:units] if len(self.work.units[number]) == 64}

    def emptied(self) -> None:
        for name in ("renders", "triplets", "embeddings", "prepared"):
            shutil.rmtree(Path(self.recipe.store) / name, ignore_errors=True)
        self.round.renders.mkdir(parents=True)
        announce(self.round, open_teacher(self.round))

    def one_process(self) -> Figures:
        """Draw and embed by turns; times are those of the work."""
        self.emptied()
        figures = Figures(renderers={"here"}, teachers={"here"})
        teacher = known_teacher(self.round)
        with crew_of(self.round, 1) as crew, Cache(self.round.embeddings, teacher.fingerprint) as known:
            figures.first = time.time()
            for number, shapes in self.units.items():
                begin = time.time()
                drawn = draw_unit(self.round, number, shapes, crew)
                middle = time.time()
                teach_unit(self.round, drawn, teacher, known)
                figures.drew += middle - begin
                figures.taught += time.time() - middle
                figures.units += 1
                figures.shapes += len(drawn.notes["shapes"])
                figures.views += len(drawn.arrays["jpeg_at"]) - 1
                figures.embeddings += len(drawn.arrays["jpeg_at"]) - 1 + sum(len(one["captions"]) for one in drawn.notes["shapes"])
            figures.last = time.time()
        return figures

    def on_ray(self, renderers: int, *, teach: bool) -> Figures:
        self.emptied()
        cores = Pools(renderers=(renderers, renderers), teachers=(1, 1))
        share = plan(replace(self.recipe, pools=cores), [Node("here", 8)], training=False)
        share = replace(share, renderers=renderers, alone=renderers, teachers=1)
        round = replace(self.round, recipe=replace(self.recipe, pools=cores))
        figures, made, open_since = Figures(), 0.0, 0.0
        for report in Hired(share, "benchmark").run(round, round, self.units, draw=True, teach=teach):
            open_since = open_since or time.time()
            if report.made - report.drew > open_since:
                figures.add(report)
                figures.filled(fill())
                made = max(made, report.made)
        figures.last = made
        return figures


def main() -> None:
    units, rounds = (int(word) for word in (*sys.argv[1:], *("10", "3")[len(sys.argv) - 1 :]))
    torch.set_num_threads(1)  # as in an actor of one core
    with tempfile.TemporaryDirectory() as folder, joined():
        bench = Bench(Path(folder), units)
        kinds: dict[str, Callable[[], Figures]] = {
            "one process, by turns": bench.one_process,
            "Ray, 1 renderer": lambda: bench.on_ray(1, teach=False),
            "Ray, 2 renderers": lambda: bench.on_ray(2, teach=False),
            "Ray, 1 renderer, 1 teacher": lambda: bench.on_ray(1, teach=True),
        }
        found: dict[str, list[Figures]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, measure in kinds.items():
                found[name].append(measure())
                print(f"{name:<28} {found[name][-1].line()}", flush=True)
        report(found)


def report(found: dict[str, list[Figures]]) -> None:
    """Medians over the rounds, and the ratios that matter."""

    def median(name: str, of: Callable[[Figures], float]) -> float:
        return statistics.median(of(figures) for figures in found[name])

    print(f"\n{'seconds per unit of 64':<28} {'wall':>7} {'draw':>7} {'embed':>7} {'shapes/s':>9} {'views/s':>8} {'embeddings/s':>13}")
    for name in found:
        wall, drew, taught = (median(name, lambda f, of=of: getattr(f, of) / f.units) for of in ("seconds", "drew", "taught"))  # type: ignore[misc]
        rates = [median(name, lambda f, of=of: getattr(f, of) / f.seconds) for of in ("shapes", "views", "embeddings")]  # type: ignore[misc]
        print(f"{name:<28} {wall:7.2f} {drew:7.2f} {taught:7.2f} {rates[0]:9.1f} {rates[1]:8.0f} {rates[2]:13.0f}")
    (turns, one, two, both) = found

    def ratio(above: str, of: Callable[[Figures], float], below: str, by: Callable[[Figures], float]) -> float:
        return statistics.median(of(a) / a.units / by(b) * b.units for a, b in zip(found[above], found[below], strict=True))

    print()
    draws, embeds = median(turns, lambda f: f.views / f.drew), median(turns, lambda f: f.embeddings / f.taught)
    print(f"a core draws {draws:.0f} views/s, and embeds {embeds:.0f} views and captions/s")
    gaps = ratio(one, lambda f: f.seconds, one, lambda f: f.drew), ratio(both, lambda f: f.seconds, both, lambda f: f.drew)
    print(f"Ray between two units of one renderer        {gaps[0] - 1:+.1%} of its time; {gaps[1] - 1:+.1%} with a teacher behind it")
    print(f"Ray over one process, drawing alone          {ratio(one, lambda f: f.seconds, turns, lambda f: f.drew) - 1:+.1%}")
    print(f"Ray over one process, embedding beside it    {ratio(both, lambda f: f.seconds, turns, lambda f: f.drew) - 1:+.1%}")
    print(f"two renderers over one, on two cores         {ratio(one, lambda f: f.seconds, two, lambda f: f.seconds):.2f} times as fast")
    print(
        f"object store at most {max(f.fullest.used for held in found.values() for f in held) >> 20} MB, spilled "
        f"{max(f.fullest.spilled for held in found.values() for f in held) >> 20} MB"
    )


if __name__ == "__main__":
    main()
