"""A bank and a queue say what plain autograd over all their columns says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.ranks import Ranks
from mrdist.relation.asked import Relations
from mrdist.relation.bank import Bank
from mrdist.relation.definition import REPRESENTATIONS
from mrdist.relation.queue import Queue
from mrdist.relation.terms import Tiling
from tests.unit.relation.live import Live
from tests.unit.relation.plain_bank import Whole, banked, filled, keys_of, plain_bank, plain_queue, queued, whole
from tests.unit.relation.plain_terms import ALONE, EXACT, Given, astray, drawn, slopes

SMALL = Tiling(block=4, compile="never")
IMAGE, TEXT = [1, 1, 0, 1, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1, 0, 1, 1]
WITHIN = Relations(intra="both", cross="none")


LARGE = 1e-11
"""The same where logits are in the hundreds: they are rounded to 1e-13 before anything else."""


def same(got: dict[str, Tensor], wanted: dict[str, Tensor], given: Given, exact: float = EXACT) -> None:
    """Terms, and the gradient of each."""
    for name, value in wanted.items():
        assert astray(got[name], value) < exact, name
        found, right = slopes(got[name], given, keep=True), slopes(value, given, keep=True)
        for leaf, slope in right.items():
            assert astray(found[leaf], slope) < exact, f"{name} by {leaf}"


@pytest.mark.parametrize("temperature", [0.01, 0.07])
@pytest.mark.parametrize("divergence", ["jeffrey", "kl"])
@pytest.mark.parametrize("complete", [True, False])
def test_terms_and_gradients_are_those_of_a_softmax_over_the_whole_bank(complete: bool, divergence: str, temperature: float) -> None:
    missing = {} if complete else {"image": IMAGE, "text": TEXT}
    given = drawn(9, temperatures=[temperature, 0.1, 0.1, temperature, 2 * temperature], **missing)
    held = whole(23, complete=complete)
    terms = banked(given, held, tiling=SMALL, divergence=divergence)
    assert terms.names == ("bank/image", "bank/text", "bank/point_for_image", "bank/point_for_text")
    exact = LARGE if temperature == 0.01 else EXACT  # cosines over 0.01 are logits of a hundred
    same(dict(zip(terms.names, terms.values, strict=True)), plain_bank(given, held, divergence), given, exact)
    assert terms.present.all()


def opposite(temperature: float) -> tuple[Given, Whole]:
    """Points of which half look away from all there is: exponents with one offset for all would vanish. The others look at it."""
    given, held = drawn(6, width=3, temperatures=[temperature, 0.1, 0.1, temperature, temperature]), whole(11, width=3)
    there = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        given.points.copy_(there * torch.tensor([-1.0, 1.0]).repeat(3)[:, None] + 0.05 * given.points)
        for rows in (given.image, given.text):
            rows.copy_(there + 0.05 * rows)
    return given, held._replace(image=there + 0.05 * held.image, text=there + 0.05 * held.text)


def test_rows_that_are_far_from_every_column_are_as_exact() -> None:
    given, held = opposite(1 / 300)
    terms = banked(given, held, tiling=SMALL)
    same(dict(zip(terms.names, terms.values, strict=True)), plain_bank(given, held), given, LARGE)


def test_float32_loses_no_row_that_is_far_from_every_column() -> None:
    given, held = opposite(0.01)
    small, wanted = given.learning(torch.float32), plain_bank(given, held)
    terms = banked(small, held, tiling=SMALL)
    for k, name in enumerate(terms.names):
        assert float(terms.values[k]) == pytest.approx(float(wanted[name]), rel=1e-4), name
        found, right = slopes(terms.values[k], small, keep=True), slopes(wanted[name], given, keep=True)
        assert astray(found["points"].double(), right["points"]) < 1e-3, name


def test_a_shape_is_no_negative_of_its_own() -> None:
    given, held = drawn(1), whole(7)
    with torch.no_grad():
        given.image.copy_(given.points + 0.01 * given.image)  # nearer than any, but for the own column
    own = held.keys == keys_of(held, 1)
    other = held._replace(image=torch.where(own[:, None], normal(given.points), held.image))
    before, after = (banked(given, h) for h in (held, other))
    assert torch.equal(before.values[0], after.values[0])
    assert float(before.figures["accuracy/bank/image"]) == float(after.figures["accuracy/bank/image"]) == 1
    # Of a relation it is a column like any other.
    assert not torch.equal(before.values[3], after.values[3])


def normal(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.detach(), dim=-1)


def test_figures_tell_how_often_no_other_shape_is_nearer_and_what_guessing_costs() -> None:
    given, held = drawn(9, image=IMAGE), whole(23, complete=False)
    figures = banked(given, held, tiling=SMALL).figures
    points, image = normal(given.points), normal(given.image)
    beaten = (points @ normal(held.image).T > (points * image).sum(-1, keepdim=True)) & held.has_image
    beaten &= keys_of(held, 9)[:, None] != held.keys
    right = ~beaten.any(1) & given.has_image
    assert float(figures["accuracy/bank/image"]) == pytest.approx(float(right.sum() / given.has_image.sum()))
    assert float(figures["reference/bank/image"]) == pytest.approx(math.log(int(held.has_image.sum())))
    assert set(figures) >= {"perplexity/bank/point_for_text", "reference/bank/point_for_image"}


def guess(cosines: Tensor, scale: Tensor) -> float:
    """What a uniform row pays for a teacher's: the mean over rows of −mean log q − entropy; no cosine is below −2."""
    log_q, there = (scale.detach() * cosines).log_softmax(-1), cosines > -2
    return float((there * (log_q.exp() - 1 / there.sum(-1, keepdim=True).double()) * log_q).sum(-1).mean())


def test_guessing_is_priced_by_all_columns_of_a_bank_and_of_a_queue() -> None:
    given, held = drawn(9, image=IMAGE), whole(23, complete=False)
    image = normal(given.image)[given.has_image]
    figures = banked(given, held, tiling=SMALL).figures
    wanted = guess(image @ normal(held.text)[held.has_text].T, given.cross[1])
    assert float(figures["reference/bank/point_for_image"]) == pytest.approx(wanted, rel=1e-12)
    queue = filled(given, 11)
    figures = queued(given, WITHIN, queue, tiling=SMALL).figures
    others = image @ image.T - 1e6 * torch.eye(len(image))
    wanted = guess(torch.cat([others, image @ queue.image[queue.has_image].T], 1), given.intra[1])
    assert float(figures["reference/intra/image"]) == pytest.approx(wanted, rel=1e-12)


def test_a_bank_without_texts_has_nothing_to_say_of_them() -> None:
    given, held = drawn(9, text=TEXT), whole(23)
    terms = banked(given, held._replace(has_text=torch.zeros(23).bool()))
    assert terms.present.tolist() == [True, False, False, True]
    assert [float(v) for v in terms.values[1:3]] == [0, 0]
    assert not slopes(terms.values[1] + terms.values[2], given)["points"].any()


def test_what_an_absent_row_holds_does_not_matter() -> None:
    given, held = drawn(9, image=IMAGE, text=TEXT), whole(23, complete=False)
    strange = given._replace(
        image=torch.where(given.has_image[:, None], given.image, math.nan), text=torch.where(given.has_text[:, None], given.text, 1e30)
    )
    gone = held._replace(image=torch.where(held.has_image[:, None], held.image, math.nan))
    a, b = banked(given, held), banked(strange, gone)
    assert torch.equal(a.values, b.values)
    assert torch.equal(*(torch.autograd.grad(terms.values.sum(), given.points)[0] for terms in (a, b)))


def test_no_tensor_is_as_large_as_rows_times_bank() -> None:
    given, held = drawn(64, width=4), whole(1000, width=4)
    with Live() as live:
        banked(given, held, tiling=Tiling(block=64, compile="never")).values.sum().backward()
    assert live.largest <= held.image.numel() * 2  # images and texts came as one
    assert live.largest < 64 * 1000 / 4


@pytest.mark.parametrize(
    ("options", "message"), [({"divergence": "js"}, "bank divergence"), ({"cross": "some"}, "bank cross"), ({}, "numbers per row")]
)
def test_what_does_not_fit_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        banked(drawn(4), whole(9, width=5 if options else 6), **options)


QUEUED = [(r, d, own) for r, ds in REPRESENTATIONS.items() for d in ds for own in (False, True)]


@pytest.mark.parametrize(("representation", "divergence", "own"), QUEUED)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("all_there", "complete"), [(True, True), (True, False), (False, True)])
def test_a_queue_is_more_columns_without_gradient(
    representation: str, divergence: str, own: bool, mixed: bool, all_there: bool, complete: bool
) -> None:
    missing = {} if all_there else {"image": IMAGE, "text": TEXT}
    given = drawn(9, mixed=mixed, temperatures=[0.07, 0.02, 0.05, 0.1, 0.1], **missing)
    relations, queue = (
        replace(WITHIN, representation=representation, divergence=divergence, diagonal=own),
        filled(given, 11, complete=complete),
    )
    terms = queued(given, relations, queue, tiling=SMALL)
    same(dict(zip(terms.names, terms.values, strict=True)), plain_queue(given, relations, queue), given)


def test_scales_of_100_are_as_exact_and_an_empty_queue_is_none() -> None:
    given = drawn(9, image=IMAGE, temperatures=[0.01] * 5)
    with torch.no_grad():
        given.points.copy_(given.image + 0.2 * given.points)
    for divergence in ("jeffrey", "js"):
        relations = replace(WITHIN, divergence=divergence)
        for queue in (filled(given, 11), filled(given, 2)):  # the second holds nothing yet
            terms = queued(given, relations, queue, tiling=SMALL)
            same(dict(zip(terms.names, terms.values, strict=True)), plain_queue(given, relations, queue), given, LARGE)
        none = queued(given, relations, None, tiling=SMALL)  # type: ignore[arg-type]
        assert torch.allclose(none.values, terms.values, rtol=1e-14)


def test_a_queue_touches_no_other_term() -> None:
    given = drawn(9, text=TEXT)
    for name, with_, without in zip(
        *(queued(given, Relations(), q).names for q in (filled(given, 5),)),
        queued(given, Relations(), filled(given, 5)).values,
        queued(given, Relations(), None).values,  # type: ignore[arg-type]
        strict=True,
    ):
        assert torch.equal(with_, without) != name.startswith("intra"), name


def test_float32_at_scale_100_stays_finite_in_every_divergence() -> None:
    given = drawn(9, temperatures=[0.01] * 5).learning(torch.float32)
    for representation, divergence, _ in QUEUED:
        relations = replace(WITHIN, representation=representation, divergence=divergence)
        terms = queued(given, relations, filled(given, 11, complete=True), tiling=SMALL)
        assert torch.isfinite(slopes(terms.values.sum(), given)["points"]).all(), divergence


def test_the_newest_rows_come_first_and_the_oldest_go() -> None:
    def batch(number: int, rows: int) -> tuple[Tensor, ...]:
        names = torch.arange(rows) + 10 * number
        held = torch.stack([torch.ones(rows), names], 1)
        return held, held, held, names % 2 == 0, names % 2 == 1

    def names(queue: Queue) -> list[int]:
        return [round(float(y / x)) if x else -1 for x, y in queue.points]

    queue = Queue.empty(5, 2)
    assert not (queue.has_image | queue.has_text).any()
    queue.push(*batch(1, 2), ALONE)
    assert names(queue) == [10, 11, -1, -1, -1]
    queue.push(*batch(2, 2), ALONE)
    queue.push(*batch(3, 2), ALONE)
    assert names(queue) == [30, 31, 20, 21, 10]
    assert queue.has_image.tolist() == [True, False, True, False, True]
    queue.push(*batch(4, 8), ALONE)
    assert names(queue) == [40, 41, 42, 43, 44]
    assert torch.allclose(queue.text.norm(dim=-1), torch.ones(5))


def test_rows_pushed_before_backward_are_noticed() -> None:
    given = drawn(9)
    queue = filled(given, 11)
    total = queued(given, WITHIN, queue).values.sum()
    queue.push(given.points, given.image, given.text, given.has_image, given.has_text, ALONE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_queue_of_another_width_is_refused() -> None:
    with pytest.raises(RecipeError, match="queue"):
        queued(drawn(4), WITHIN, Queue.empty(3, 7))


def test_a_part_is_unit_rows_and_ends_in_absent_ones() -> None:
    held = whole(5, complete=False)
    part = Bank.of(*held, Ranks.alone())
    assert torch.allclose(part.image.norm(dim=-1), held.has_image.double())
    assert torch.equal(part.keys, held.keys)
