"""One rank or four, in rows, pairs, a ring or a grid: the same terms and gradients, by really different ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from mrdist.kinds import Part
from mrdist.ranks import Ranks
from mrdist.relation.asked import Relations
from mrdist.relation.field import Field
from mrdist.relation.schedule import MODES
from mrdist.relation.terms import Tiling
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig
from tests.ranks.test_zero import distance, part
from tests.ranks.tiny import TinyLoader, tiny_recipe
from tests.unit.objectives.plain import objective
from tests.unit.relation.live import Live
from tests.unit.relation.plain_terms import EVERYTHING, EXACT, Given, astray, drawn, furthest, plain, slopes, tiled
from tests.unit.relation.test_careful import lonely, off

ROWS = 24  # 1, 2, 3 and 4 ranks have as many each
NOBODY, FIRST, SOME = [0] * ROWS, [0] * (ROWS // 2) + [1, 0, 1] * (ROWS // 6), [1, 0, 1, 1, 1, 0] * (ROWS // 6)
CASES: dict[str, tuple[Relations, Callable[[], Given]]] = {
    "everyone has everything": (EVERYTHING, partial(drawn, ROWS)),
    "some lack something": (Relations(divergence="kl", diagonal=True), partial(drawn, ROWS, image=SOME, text=SOME[::-1], tied=True)),
    "a rank has no text": (Relations(divergence="js"), partial(drawn, ROWS, image=SOME, text=FIRST, mixed=True, shape=(1,))),
    "distances": (Relations(representation="distance", divergence="huber"), partial(drawn, ROWS, text=FIRST)),
    "squared cosines": (Relations(representation="cosine", divergence="l2"), partial(drawn, ROWS, text=SOME, mixed=True)),
    "sigmoids, and nobody has a text": (Relations("image", "none"), partial(drawn, ROWS, text=NOBODY, sigmoid=True)),
}


def tiles(mode: str, block: int = 5) -> Tiling:
    return Tiling(mode=mode, block=block, compile="never")


def error(ranks: Ranks, everyone: Given, relations: Relations, mode: str) -> float:
    """How far values, figures, and gradients as an engine averages them are from `definition` of the whole batch in one process."""
    mine = everyone.rows(ranks).learning()
    held: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for given, among in ((mine, ranks), (everyone, Ranks.alone())):
        encoder = (torch.eye(5) + 0.1).double().requires_grad_()  # shared by all points, as a network's weights are
        seen = given._replace(points=given.points @ encoder)
        if given is mine:
            got = tiled(seen, relations, ranks, tiles(mode))
            numbers = dict(zip(got.names, got.values, strict=True)), got.figures
        else:
            numbers = plain(seen, relations)
        values = torch.stack(list(numbers[0].values()))
        total = (torch.linspace(0.2, 1.0, len(values), dtype=torch.float64) * values).sum()
        (shared,) = torch.autograd.grad(total, encoder, retain_graph=True)
        each = slopes(total, given)
        rows = {name: among.gather(each.pop(name)) / among.size for name in ("points", "image", "text")}
        averaged = {name: among.average(slope) for name, slope in (each | {"encoder": shared}).items()}
        held.append((numbers[0] | numbers[1], rows | averaged))
    (numbers_here, slopes_here), (numbers_wanted, slopes_wanted) = held
    assert numbers_here.keys() == numbers_wanted.keys()
    return max(furthest(slopes_here, slopes_wanted), *(astray(numbers_here[name], value) for name, value in numbers_wanted.items()))


def errors(ranks: Ranks) -> dict[str, float]:
    return {f"{case}, {mode}": error(ranks, make(), relations, mode) for case, (relations, make) in CASES.items() for mode in MODES}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_terms_and_gradients_are_those_of_the_definition_in_every_mode_on_any_number_of_ranks(size: int) -> None:
    for held in on_ranks(size, errors):
        assert len(held) == len(CASES) * len(MODES)
        assert not {what: error for what, error in held.items() if not error < EXACT}


@dataclass(frozen=True)
class Noting(Ranks):
    """Ranks that write down every tensor that they send among more than one."""

    sent: list[tuple[str, tuple[int, ...]]] = field(default_factory=list, compare=False)

    def _note(self, how: str, shape: torch.Size) -> None:
        if self.size > 1:
            self.sent.append((how, tuple(shape)))

    def gather(self, rows: Tensor) -> Tensor:
        self._note("gather", rows.shape)
        return super().gather(rows)

    def scatter(self, held: Tensor, *, largest: bool = False) -> Tensor:
        self._note("scatter", held.shape)
        return super().scatter(held, largest=largest)

    def pass_on(self, tensor: Tensor) -> Callable[[], Tensor]:
        self._note("pass on", tensor.shape)
        return super().pass_on(tensor)

    def total(self, value: Tensor) -> Tensor:
        self._note("total", value.shape)
        return super().total(value)

    def grid(self, columns: int) -> tuple[Ranks, Ranks]:
        line, file = super().grid(columns)
        return self._among(line), self._among(file)

    def _among(self, others: Ranks) -> Noting:
        return Noting(others.rank, others.size, others.group, others.clock, self.sent)


WIDTH = 256  # far more than there are sums per row: what is as wide is a feature, or the gradient of one


def letters(ranks: Ranks) -> dict[str, tuple[list[Any], list[Any], int, float]]:
    """By mode: what is as wide as a feature and sent in forward, and in backward; the largest tensor; the peak, in blocks of features."""
    held = {}
    for mode in MODES:
        noting = Noting(ranks.rank, ranks.size, ranks.group, ranks.clock)
        mine = drawn(ROWS, WIDTH).rows(ranks).learning()
        fixed = mine._replace(image=mine.image.detach(), text=mine.text.detach())
        with Live(*mine.learnt.values(), fixed.image, fixed.text) as live:
            values = tiled(fixed, EVERYTHING, noting, tiles(mode, 6)).values
            forward, noting.sent[:] = list(noting.sent), []
            torch.autograd.grad(values.sum(), fixed.points)
        wide = [[(how, shape) for how, shape in sent if shape[-1:] == (WIDTH,)] for sent in (forward, noting.sent)]
        held[mode] = (*wide, live.largest, live.peak / (mine.points.numel() * 8))
    return held


def test_each_mode_sends_and_holds_what_it_says() -> None:
    block = (6, WIDTH)
    for held in on_ranks(4, letters):
        forward, backward, largest, peak = held["row"]
        assert forward == [("gather", block)] * 3
        assert backward == [], "no gradient travels"
        assert largest == 4 * 6 * WIDTH
        forward, backward, largest, _ = held["pair"]
        assert forward == [("gather", block)] * 3
        assert backward == [("scatter", (4, *block))], "one reduce-scatter, of the points' gradient"
        assert largest == 4 * 6 * WIDTH
        forward, backward, largest, ring_peak = held["ring"]
        assert forward == backward == [("pass on", block)] * 9, "three modalities, three times"
        assert largest == 6 * WIDTH, "one rank's rows at a time"
        assert ring_peak < peak - 3, "of three modalities, one rank less at least"
        forward, backward, largest, _ = held["grid"]
        assert forward == [("gather", block)] * 6
        assert backward == [("scatter", (2, *block))]
        assert largest == 2 * 6 * WIDTH


def largest(ranks: Ranks, rows: int) -> dict[str, int]:
    held = {}
    for mode in MODES:
        mine = drawn(rows, 3).rows(ranks).learning()
        with Live(*mine.learnt.values()) as live:
            torch.autograd.backward(tiled(mine, EVERYTHING, ranks, tiles(mode, 32)).values.sum())
        held[mode] = live.largest
    return held


def test_no_tensor_of_local_by_global_batch_is_ever_alive_on_two_ranks() -> None:
    rows = 128
    for held in on_ranks(2, largest, rows):
        assert max(held.values()) < rows // 2 * rows


def cared(ranks: Ranks) -> list[tuple[int, float]]:
    """For a batch of which one row, of the first rank, is far from every column: restarts, and the error of values and gradient."""
    held = []
    for mode in MODES:
        mine, everyone = lonely(-0.9).rows(ranks).learning(torch.float32), lonely(-0.9).learning()
        with patch.object(Field, "restart", autospec=True, side_effect=Field.restart) as restart:
            values = tiled(mine, EVERYTHING, ranks, tiles(mode)).values
        wanted = torch.stack(list(plain(everyone, EVERYTHING).terms.values()))
        found, true = (slopes(v.sum(), given)["points"] for v, given in ((values, mine), (wanted, everyone)))
        held.append((restart.call_count, max(off(values, wanted), off(ranks.gather(found) / ranks.size, true))))
    return held


@pytest.mark.parametrize("size", [2, 3])
def test_one_lost_row_makes_every_rank_careful(size: int) -> None:
    for held in on_ranks(size, cared):
        for restarts, error in held:
            assert restarts == 1
            assert error < 1e-5


def stepped(ranks: Ranks, engines: list[tuple[Part, str]]) -> list[dict[str, Tensor]]:
    """The weights after two steps of MRD, by engine and mode."""
    held = []
    for config, mode in engines:
        recipe = tiny_recipe(config, steps=2)
        build = partial(objective, torch.float32, tiling=tiles(mode, 3), warmup=2)
        engine = recipe.engine.build(build, recipe, ranks, torch.device("cpu"))  # type: ignore[attr-defined]
        for batch in TinyLoader(ranks).batches(after=0):
            if engine.done == recipe.steps:
                break
            engine.step(engine.forward(batch))
        held.append(part({name: tensor.clone() for name, tensor in engine.state()}, "weights"))
        engine.close()
    return held


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
def test_every_engine_takes_the_same_steps_in_every_mode() -> None:
    (wanted,) = stepped(Ranks.alone(), [(PlainConfig(), "row")])
    parts: list[Part] = [PlainConfig(), *(ZeroConfig(stage=stage, persistence=20) for stage in range(4))]
    engines = [(config, mode) for config in parts for mode in MODES]
    for held in on_ranks(2, stepped, engines):
        for engine, weights in zip(engines, held, strict=True):
            assert distance(weights, wanted) < 1e-6, engine
