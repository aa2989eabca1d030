"""A batch embedded in chunks is the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks
from mrdist.relation.definition import Modality, between, contrast, jeffrey
from mrdist.shapes import TripletBatch
from mrdist.students.base import Student, seeded
from mrdist.testing import on_ranks, share, tiny_triplets
from mrdist.training import two_pass
from mrdist.training.engine import Engine, PlainConfig
from mrdist.training.two_pass import TwoPass
from mrdist.training.zero import ZeroConfig
from tests.ranks.real import STUDENT, WIDTH
from tests.ranks.test_zero import SMALL
from tests.ranks.tiny import TinyObjective, TinyStudent, tiny_recipe

CPU = torch.device("cpu")
DOUBLE = PlainConfig(precision="fp64")
FORGETFUL = ZeroConfig(stage=3, chunk=2, **{**SMALL, "live": 0, "reuse": 0, "persistence": 0})

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")


class RowDropout(nn.Module):
    """Dropout from torch's generator, row after row: chunks draw what the whole draws. (`nn.Dropout` draws a seed per call.)"""

    def __init__(self, random: torch.Generator | None = None) -> None:
        super().__init__()
        self.random = random

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, dtype=torch.float64, generator=self.random) >= 0.3).to(x) / 0.7


class Compared(Objective[TripletBatch]):
    """A contrast and two relations, of clouds embedded with all that can be left to chance.

    `turn` and `mirror` belong to no module but the objective itself, and are large enough to be shared at stage 3.
    """

    def __init__(self, student: Student, dropout: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.dropout = dropout
        self.turn = nn.Parameter(torch.linspace(-1, 1, WIDTH * WIDTH).view(WIDTH, WIDTH).sin())
        with seeded(1):
            self.head = nn.Linear(WIDTH, WIDTH)
        self.mirror = nn.Parameter(torch.eye(WIDTH))
        self.sharpness = nn.Parameter(torch.ones(1))

    def embed(self, batch: TripletBatch) -> Tensor:
        rows: Tensor = self.head(self.dropout(self.student(batch.xyz, batch.rgb, batch.keys).embedding) @ self.turn)
        return rows

    def compare(self, embedding: Tensor, batch: TripletBatch, ranks: Ranks) -> Loss:
        rows = normalize(self.dropout(embedding.to(batch.image.dtype)) @ self.mirror, dim=-1)
        points = Modality.of(rows, torch.ones_like(batch.has_image), ranks)
        image, text = Modality.of(batch.image, batch.has_image, ranks), Modality.of(batch.text, batch.has_text, ranks)
        both = points.where(image), image
        within = [between(modality, modality, ranks, temperature=0.2, self_too=False) for modality in both]
        across = [between(modality, text, ranks, temperature=0.2) for modality in both]
        terms = {
            "align": ranks.mean(contrast(points, image, ranks, scale=3 * self.sharpness.exp()).surprise, batch.has_image),
            "intra": ranks.mean(jeffrey(*within), batch.has_image),
            "cross": ranks.mean(jeffrey(*across), batch.has_image),
        }
        return Loss.of(torch.stack(list(terms.values())).sum(), terms, {"sharpness": self.sharpness[0]}, ranks)


def make(dropout: Callable[[], nn.Module] = RowDropout, **student: Any) -> Compared:
    return Compared(replace(STUDENT, **student).build(WIDTH, seed=0), dropout())


def built(ranks: Ranks, part: Part, **options: Any) -> Engine:
    recipe = tiny_recipe(part, ema=0.9)
    recipe = replace(recipe, optim=replace(recipe.optim, lr=2e-3))
    return recipe.engine.build(partial(make, **options), recipe, ranks, CPU)


def triplets(rows: int = 16, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> TripletBatch:
    return tiny_triplets(rows, width=WIDTH, points=60, seed=seed, dtype=dtype)


def learnt(ranks: Ranks, part: Part, **options: Any) -> dict[str, Tensor]:
    """The loss, its terms, the averaged gradients, and the number that torch's generator gives after the step."""
    engine = built(ranks, part, **options)
    torch.manual_seed(ranks.rank)
    loss = engine.forward(share(triplets(), ranks))
    engine.step(loss)
    gradients = {name: p.grad.clone() for name, p in engine.objective.named_parameters() if p.grad is not None}
    return {"total": loss.total.detach(), **loss.terms, "next": torch.rand(()), **gradients}


def apart(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest number of its tensor where that is above 1."""
    assert some.keys() == others.keys()
    return max(float((some[name] - others[name]).abs().max() / others[name].abs().max().clamp(min=1)) for name in some)


def in_chunks(ranks: Ranks) -> list[float]:
    whole = learnt(ranks, DOUBLE)
    chunked = [learnt(ranks, replace(DOUBLE, chunk=chunk)) for chunk in (1, 3, 100)]
    return [apart(held, whole) for held in [*chunked, learnt(ranks, replace(DOUBLE, chunk=3), recompute=True)]]


def test_chunks_change_neither_loss_nor_terms_nor_gradients_nor_the_random_state_on_one_and_two_ranks():
    for differences in (in_chunks(Ranks.alone()), *on_ranks(2, in_chunks)):
        assert max(differences) < 1e-12


def gradients(objective: Compared, loss: Loss) -> dict[str, Tensor]:
    named = dict(objective.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss.total, list(named.values())), strict=True))


def twice_and_once(dropout: Callable[[], nn.Module], device: torch.device = CPU) -> float:
    """How far gradients are from those of the same chunks, embedded once with all activations kept."""
    objective, batch, held = make(dropout).to(device, torch.float64), triplets().to(device), []
    for kept in (True, False):
        torch.manual_seed(3)
        objective.dropout = dropout().to(device)
        if kept:
            rows = torch.cat([objective.embed(batch.rows(slice(at, at + 3))) for at in range(0, 16, 3)])
            loss = objective.compare(rows, batch, Ranks.alone())
        else:
            loss = TwoPass(objective, 3)(batch, Ranks.alone())
        held.append(gradients(objective, loss))
    return apart(held[1], held[0])


def test_what_torch_drops_in_a_chunk_it_drops_there_again(monkeypatch):
    assert twice_and_once(partial(nn.Dropout, 0.3)) < 1e-12
    monkeypatch.setattr(two_pass, "checkpoint", lambda *inputs, **options: checkpoint(*inputs, **{**options, "preserve_rng_state": False}))
    assert twice_and_once(partial(nn.Dropout, 0.3)) > 1e-3, "without its random state a chunk must differ"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_gpu_drops_in_a_chunk_it_drops_there_again():
    assert twice_and_once(partial(nn.Dropout, 0.3), torch.device("cuda")) < 1e-10


def test_a_generator_that_torch_does_not_know_is_not_put_back():
    assert twice_and_once(lambda: RowDropout(torch.Generator().manual_seed(0))) > 1e-3


def peak(part: Part, rows: int) -> int:
    """The most bytes that a step holds at once, besides gradients."""
    engine, batch = built(Ranks.alone(), part), triplets(rows, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        engine.step(engine.forward(batch))
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0).max()
    return int(held) - sum(p.numel() * p.element_size() for p in engine.objective.parameters())


def test_a_step_holds_the_activations_of_a_chunk():
    whole = peak(PlainConfig(), 128)
    for parts in (2, 4, 8):
        assert 0.8 < peak(PlainConfig(chunk=128 // parts), 128) / whole * parts < 1.3


def test_bfloat16_adds_up_the_gradients_of_chunks_in_float32(monkeypatch):
    def flat(part: Part) -> Tensor:
        engine = built(Ranks.alone(), part, dropout=nn.Identity)
        engine.step(engine.forward(triplets(64, dtype=torch.float32)))
        return torch.cat([p.grad.flatten() for p in engine.objective.parameters() if p.grad is not None])

    whole = flat(PlainConfig(precision="bf16"))
    single = PlainConfig(precision="bf16", chunk=1)
    assert (flat(single) - whole).norm() / whole.norm() < 3e-3
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    assert (flat(single) - whole).norm() / whole.norm() > 4e-3, "one cast for all chunks must cost accuracy here"


def test_a_run_goes_on_with_other_chunks():
    def ended(first: int, then: int) -> dict[str, Tensor]:
        engine = built(Ranks.alone(), replace(DOUBLE, chunk=first))
        for step in range(4):
            if step == 2:
                state, engine = dict(engine.state()), built(Ranks.alone(), replace(DOUBLE, chunk=then))
                engine.load(state, 2)
            torch.manual_seed(step)
            engine.step(engine.forward(triplets(seed=step)))
        return dict(engine.state())

    whole = ended(0, 0)
    assert apart(ended(0, 3), whole) < 1e-12
    assert apart(ended(5, 0), whole) < 1e-12


def trained(ranks: Ranks, parts: list[tuple[Part, dict[str, Any]]]) -> list[tuple[dict[str, Tensor], list[float]]]:
    """By engine, after three steps: the state, and per step the loss and the norm of the gradient."""
    out = []
    for part, options in parts:
        engine, figures = built(ranks, part, **options), []
        for step in range(3):
            torch.manual_seed(2 * step + ranks.rank)
            loss = engine.forward(share(triplets(seed=step, dtype=torch.float32), ranks))
            engine.step(loss)
            figures += [float(ranks.average(loss.total)), engine.gradient_norm]
        out.append(({name: value.clone() for name, value in engine.state()}, figures))
        engine.close()
    return out


def assert_same_steps(others: list[tuple[dict[str, Tensor], list[float]]], parts: list[tuple[Part, dict[str, Any]]]) -> None:
    (wanted, figures), *held = others
    for (part, _), (state, other_figures) in zip(parts[1:], held, strict=True):
        assert state.keys() == wanted.keys()
        for kind in ("weights/", "average/"):
            names = [name for name in wanted if name.startswith(kind)]
            # Over all weights, not tensor by tensor: a maximum over points that is nearly a tie may fall to another point.
            off = torch.cat([(state[name] - wanted[name]).flatten() for name in names]).norm()
            size = torch.cat([wanted[name].flatten() for name in names]).norm()
            assert off / size < 1e-5, (part, kind)
        assert other_figures == pytest.approx(figures, rel=1e-5), part


@needs_deepspeed
def test_every_engine_takes_the_same_steps_in_chunks():
    parts: list[tuple[Part, dict[str, Any]]] = [
        (PlainConfig(), {}),
        *((ZeroConfig(stage=stage, chunk=3, **SMALL), {}) for stage in range(4)),
        (FORGETFUL, {}),
        (ZeroConfig(stage=3, chunk=3, build_sharded=True, **SMALL), {"recompute": True}),
    ]
    for held in on_ranks(2, trained, parts):
        assert_same_steps(held, parts)


def trained_to_the_end(ranks: Ranks, parts: list[tuple[Part, dict[str, Any]]]) -> list[tuple[dict[str, Tensor], list[float]]]:
    """With second forwards that do not stop where nothing more is wanted of them, as torch lets one choose."""
    with set_checkpoint_early_stop(False):
        return trained(ranks, parts)


@needs_deepspeed
def test_zero_3_finds_its_weights_wherever_a_second_forward_stops():
    parts: list[tuple[Part, dict[str, Any]]] = [(PlainConfig(), {}), (FORGETFUL, {})]
    for held in on_ranks(2, trained_to_the_end, parts):
        assert_same_steps(held, parts)


def test_rows_that_see_one_another_are_refused():
    with pytest.raises(RecipeError, match="TinyObjective, which has a forward of its own"):
        TwoPass(TinyObjective(TinyStudent(WIDTH, seed=0)), 2)
    with pytest.raises(RecipeError, match=r"Compared, whose rows see one another in student.groups.first.1 \(BatchNorm1d\)"):
        built(Ranks.alone(), PlainConfig(chunk=4), norm="batch")


def test_a_frozen_batch_norm_sees_no_rows():
    objective, batch = make(nn.Identity, norm="batch").double().eval(), triplets()
    objective.student.blocks.train()
    whole, chunked = (gradients(objective, module(batch, Ranks.alone())) for module in (objective, TwoPass(objective, 5)))
    assert apart(chunked, whole) < 1e-12


@pytest.mark.parametrize("part", [PlainConfig(chunk=-1), ZeroConfig(chunk=-1)])
def test_a_chunk_of_less_than_nothing_is_refused(part):
    with pytest.raises(RecipeError, match=r"engine\.chunk"):
        part.check(tiny_recipe(part))


def test_rows_of_a_batch_keep_their_names():
    batch = triplets().rows(slice(3, 5))
    assert (len(batch), batch.ids, batch.categories) == (2, ("shape-3", "shape-4"), ("d", "a"))
    assert torch.equal(batch.keys, triplets().keys[3:5])
