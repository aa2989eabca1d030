"""Each term is what its equation says, to the last digits of float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.ranks import Ranks
from mrdist.relation import definition
from mrdist.relation.definition import ABSENT, DIFFERENCES, DIVERGENCES, REPRESENTATIONS, Modality, Pairs, Relation
from tests.unit.relation import loops

ALONE = Ranks.alone()
CHOICES = [(representation, name) for representation, names in REPRESENTATIONS.items() for name in names]
MASKS = {
    "all": ([1] * 7, [1] * 7),
    "uneven": ([1, 0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1]),
    "one caption": ([1] * 7, [0, 0, 1, 0, 0, 0, 0]),
    "no caption": ([1] * 7, [0] * 7),
}


def unit(rows: int, seed: int, width: int = 5) -> Tensor:
    return normalize(torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


def modality(rows: Tensor, present: list[int] | Tensor) -> Modality:
    return Modality.of(rows, torch.as_tensor(present).bool(), ALONE)


def numbers(held: Modality) -> loops.Rows:
    return [row.tolist() if here else None for row, here in zip(held.mine, held.here, strict=True)]


def dense(held: definition.Related) -> dict[int, dict[int, float]]:
    """What the loops would hold: rows and columns that exist only."""
    if isinstance(held, Relation):
        values, kept = held.logp.exp(), (held.logp > ABSENT / 2) & held.rows[:, None]
    else:
        values, kept = held.values, held.kept
    return {i: {j: float(values[i, j]) for j in range(values.shape[1]) if kept[i, j]} for i in range(len(values)) if bool(held.rows[i])}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("representation", "name"), CHOICES)
def test_a_term_is_what_its_loops_say(representation: str, name: str, masks: tuple[list[int], list[int]]) -> None:
    image, text = modality(unit(7, 1), masks[0]), modality(unit(7, 2), masks[1])
    everyone = modality(unit(7, 3), [1] * 7)
    points, spoken = everyone.where(image), everyone.where(text)
    for rows, columns, teacher_rows, teacher_columns, self_too in [
        (points, points, image, image, False),
        (spoken, spoken, text, text, False),
        (points, text, image, text, True),
        (text, points, text, image, True),
    ]:
        student = definition.related(rows, columns, ALONE, representation=representation, temperature=0.2, self_too=self_too)
        teacher = definition.related(
            teacher_rows, teacher_columns, ALONE, representation=representation, temperature=0.2, self_too=self_too
        )
        plain_student = loops.relation(numbers(rows), numbers(columns), representation, 0.2, self_too)
        plain_teacher = loops.relation(numbers(teacher_rows), numbers(teacher_columns), representation, 0.2, self_too)
        value = ALONE.mean(definition.divergence(student, teacher, name), teacher.rows)
        assert float(value) == pytest.approx(loops.term(plain_student, plain_teacher, name), rel=1e-12, abs=1e-13)
        blind = ALONE.mean(definition.divergence(definition.ignorant(teacher, ALONE), teacher, name), teacher.rows)
        ignorant = (loops.uniform if representation == "similarity" else loops.constant)(plain_teacher)
        assert float(blind) == pytest.approx(loops.term(ignorant, plain_teacher, name), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_a_contrast_is_what_its_loops_say(scale: float, masks: tuple[list[int], list[int]]) -> None:
    points, text = modality(unit(7, 3), masks[0]), modality(unit(7, 2), masks[1])
    held = definition.contrast(points, text, ALONE, scale=scale)
    assert float(ALONE.mean(held.surprise, held.rows)) == pytest.approx(loops.align(numbers(points), numbers(text), scale), rel=1e-12)


def test_a_mix_of_teachers_is_a_convex_mix_of_their_rows() -> None:
    image, text, share = modality(unit(6, 1), [1] * 6), modality(unit(6, 2), [1] * 6), torch.tensor([0.3], dtype=torch.float64)
    for representation in REPRESENTATIONS:
        first, second = (
            definition.related(m, m, ALONE, representation=representation, temperature=0.2, self_too=False) for m in (image, text)
        )
        mixed, plain = dense(definition.mixed(first, second, share)), loops.mix(dense(first), dense(second), 0.3)
        assert all(mixed[i][j] == pytest.approx(plain[i][j], rel=1e-13) for i in plain for j in plain[i])


def test_absent_columns_get_no_mass_and_the_diagonal_only_if_asked() -> None:
    text = modality(unit(6, 2), [1, 1, 0, 1, 0, 1])
    p = definition.between(text, text, ALONE, temperature=0.1, self_too=False).logp.exp()
    assert torch.all(p[:, [2, 4]] == 0)
    assert torch.all(p.diagonal() == 0)
    assert torch.allclose(p.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.all(definition.between(text, text, ALONE, temperature=0.1).logp.exp().diagonal()[text.here] > 0)


@pytest.mark.parametrize(("representation", "name"), CHOICES)
def test_the_gradient_of_every_term_is_its_derivative(representation: str, name: str) -> None:
    image, text = modality(unit(5, 1), [1, 1, 1, 0, 1]), modality(unit(5, 2), [1, 0, 1, 1, 1])

    def total(raw: Tensor) -> Tensor:
        points = Modality.of(normalize(raw, dim=-1), torch.ones(5).bool(), ALONE)
        costs = []
        for rows, columns, other_rows, other_columns, self_too in [
            (points.where(text), points.where(text), text, text, False),
            (points.where(image), text, image, text, True),
            (text, points.where(image), text, image, True),
        ]:
            student = definition.related(rows, columns, ALONE, representation=representation, temperature=0.3, self_too=self_too)
            teacher = definition.related(
                other_rows, other_columns, ALONE, representation=representation, temperature=0.3, self_too=self_too
            )
            costs.append(ALONE.mean(definition.divergence(student, teacher, name), teacher.rows))
        return torch.stack(costs)

    assert torch.autograd.gradcheck(total, (unit(5, 3).requires_grad_(),))


def test_the_gradient_of_a_contrast_reaches_points_and_scale() -> None:
    text = modality(unit(5, 2), [1, 0, 1, 1, 1])

    def total(raw: Tensor, log_scale: Tensor) -> Tensor:
        points = Modality.of(normalize(raw, dim=-1), torch.ones(5).bool(), ALONE)
        held = definition.contrast(points, text, ALONE, scale=log_scale.exp())
        return ALONE.mean(held.surprise, held.rows)

    assert torch.autograd.gradcheck(total, (unit(5, 3).requires_grad_(), torch.tensor([1.5], dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_zero_for_equals_and_bounded_as_its_kind_is(name: str) -> None:
    image, text = modality(unit(9, 1), [1] * 9), modality(unit(9, 2), [1] * 9)
    first, second = (definition.between(m, m, ALONE, temperature=0.05, self_too=False) for m in (image, text))
    measure = DIVERGENCES[name]
    assert torch.allclose(measure(first, first), torch.zeros(9, dtype=torch.float64), atol=1e-15)
    assert torch.all(measure(first, second) > 0)
    if name in ("jeffrey", "js"):
        assert torch.allclose(measure(first, second), measure(second, first))
    if name == "js":
        assert float(measure(first, second).max()) <= math.log(2)


def test_jeffrey_has_the_gradient_that_was_derived_for_it() -> None:
    a = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    b = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = torch.ones(1).bool()
    (grad,) = torch.autograd.grad(definition.jeffrey(Relation(a.log_softmax(-1), rows), Relation(b.log_softmax(-1), rows)).sum(), a)
    p, q, c = a.softmax(-1), b.softmax(-1), a - b
    assert torch.allclose(grad, p * (1 + c - (p * c).sum()) - q, atol=1e-14)


def test_distances_over_their_mean_do_not_know_their_unit() -> None:
    rows, present = unit(6, 1), torch.ones(6).bool()
    near = definition.distances(*[Modality.of(rows, present, ALONE)] * 2, ALONE, self_too=False)
    far = definition.distances(*[Modality.of(rows * 7, present, ALONE)] * 2, ALONE, self_too=False)
    assert torch.allclose(near.values, far.values)
    assert float(near.values[near.kept].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize("measure", DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_difference_counts_kept_pairs_only(measure: Callable[[Pairs, Pairs], Tensor]) -> None:
    kept, rows = torch.tensor([[True, False, True]]), torch.tensor([True])
    student = Pairs(torch.tensor([[1.0, float("inf"), 3.0]]), kept, rows)
    teacher = Pairs(torch.tensor([[1.5, 0.0, 1.0]]), kept, rows)
    expected = {"l1": 1.25, "l2": 2.125, "huber": (0.125 + 1.5) / 2}
    assert float(measure(student, teacher)) == pytest.approx(expected[measure.__name__])


def test_equal_rows_have_a_finite_gradient_in_every_representation() -> None:
    """Twin shapes, or a student that has collapsed: distances are 0, cosines 1."""
    raw = torch.ones(4, 5, dtype=torch.float64, requires_grad=True)
    points, image = Modality.of(normalize(raw, dim=-1), torch.ones(4).bool(), ALONE), modality(unit(4, 1), [1] * 4)
    for representation, name in CHOICES:
        student, teacher = (
            definition.related(m, m, ALONE, representation=representation, temperature=0.01, self_too=False) for m in (points, image)
        )
        (grad,) = torch.autograd.grad(ALONE.mean(definition.divergence(student, teacher, name), teacher.rows), raw, retain_graph=True)
        assert torch.isfinite(grad).all()


def test_an_untrained_contrast_costs_more_than_log_n() -> None:
    """InfoNCE of random unit rows, N = 2048, 64 numbers, temperature 0.07: about log N + 1 / (2 D τ²) = 9.2, not log N = 7.6."""
    points, text = modality(unit(2048, 1, 64).float(), [1] * 2048), modality(unit(2048, 2, 64).float(), [1] * 2048)
    held = definition.contrast(points, text, ALONE, scale=1 / 0.07)
    assert float(held.surprise.mean()) == pytest.approx(9.12, abs=0.1)


def test_the_perplexity_of_a_uniform_row_is_its_length() -> None:
    same = modality(torch.ones(6, 5, dtype=torch.float64) / math.sqrt(5), [1, 1, 1, 1, 1, 0])
    relation = definition.between(same, same, ALONE, temperature=0.1, self_too=False)
    assert float(ALONE.mean(definition.entropy(relation).exp(), relation.rows)) == pytest.approx(4.0)


def test_a_caption_shared_by_two_shapes_is_found_by_both() -> None:
    rows = unit(4, 1)
    text = rows.clone()
    text[1] = text[0]
    held = definition.contrast(modality(rows[[0, 0, 2, 3]], [1] * 4), modality(text, [1] * 4), ALONE, scale=10.0)
    assert held.hit.tolist() == [True] * 4
