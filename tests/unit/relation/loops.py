"""The equations of relation distillation as loops over numbers: no tensor operation, no mask, absent rows are simply not visited."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Rows = Sequence[Sequence[float] | None]  # None where a shape lacks this modality


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def apart(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def only(rows: Rows, *others: Rows) -> Rows:
    """`rows` of those shapes that also have all `others`."""
    return [row if all(other[i] is not None for other in others) else None for i, row in enumerate(rows)]


def cross_entropy(a: Rows, b: Rows, scale: float) -> float:
    both = [i for i in range(len(a)) if a[i] is not None and b[i] is not None]
    costs = []
    for i in both:
        exponents = [math.exp(scale * dot(a[i], b[j])) for j in both]
        costs.append(-math.log(math.exp(scale * dot(a[i], b[i])) / sum(exponents)))
    return mean(costs)


def align(a: Rows, b: Rows, scale: float) -> float:
    return (cross_entropy(a, b, scale) + cross_entropy(b, a, scale)) / 2


def softmax_rows(a: Rows, b: Rows, temperature: float, diagonal: bool) -> dict[int, dict[int, float]]:
    """row -> column -> probability."""
    held: dict[int, dict[int, float]] = {}
    for i, row in enumerate(a):
        if row is None:
            continue
        exponents = {j: math.exp(dot(row, other) / temperature) for j, other in enumerate(b) if other is not None and (diagonal or i != j)}
        total = sum(exponents.values())
        held[i] = {j: e / total for j, e in exponents.items()}
    return held


def pair_rows(a: Rows, b: Rows, number: Callable[[Sequence[float], Sequence[float]], float], diagonal: bool) -> dict[int, dict[int, float]]:
    """row -> column -> a number."""
    return {
        i: {j: number(row, other) for j, other in enumerate(b) if other is not None and (diagonal or i != j)}
        for i, row in enumerate(a)
        if row is not None
    }


def over_mean(rows: dict[int, dict[int, float]]) -> dict[int, dict[int, float]]:
    middle = mean([v for row in rows.values() for v in row.values()])
    return {i: {j: v / middle for j, v in row.items()} for i, row in rows.items()}


def relation(a: Rows, b: Rows, representation: str, temperature: float, diagonal: bool) -> dict[int, dict[int, float]]:
    if representation == "similarity":
        return softmax_rows(a, b, temperature, diagonal)
    if representation == "cosine":
        return pair_rows(a, b, dot, diagonal)
    return over_mean(pair_rows(a, b, apart, diagonal))


def kullback(p: dict[int, float], q: dict[int, float]) -> float:
    return sum(p[j] * math.log(p[j] / q[j]) for j in p if p[j] > 0)


def differ(q: dict[int, float], r: dict[int, float], name: str) -> float:
    """q the student's row, r the teacher's."""
    if name == "jeffrey":
        return kullback(q, r) + kullback(r, q)
    if name == "kl":
        return kullback(r, q)
    if name == "js":
        middle = {j: (q[j] + r[j]) / 2 for j in q}
        return (kullback(q, middle) + kullback(r, middle)) / 2
    off = [abs(q[j] - r[j]) for j in q]
    if name == "l1":
        return mean(off)
    if name == "l2":
        return mean([x * x for x in off])
    return mean([x * x / 2 if x <= 1 else x - 0.5 for x in off])


def term(student: dict[int, dict[int, float]], teacher: dict[int, dict[int, float]], name: str) -> float:
    return mean([differ(student[i], teacher[i], name) for i in teacher])


def uniform(rows: dict[int, dict[int, float]]) -> dict[int, dict[int, float]]:
    return {i: dict.fromkeys(row, 1 / max(len(row), 1)) for i, row in rows.items()}


def constant(rows: dict[int, dict[int, float]]) -> dict[int, dict[int, float]]:
    middle = mean([v for row in rows.values() for v in row.values()])
    return {i: dict.fromkeys(row, middle) for i, row in rows.items()}


def mix(first: dict[int, dict[int, float]], second: dict[int, dict[int, float]], share: float) -> dict[int, dict[int, float]]:
    return {i: {j: share * first[i][j] + (1 - share) * second[i][j] for j in first[i]} for i in first}


def perplexity(rows: dict[int, dict[int, float]]) -> float:
    return mean([math.exp(-sum(v * math.log(v) for v in row.values())) for row in rows.values()])


def terms(
    points: Rows,
    image: Rows,
    text: Rows,
    *,
    scale: float,
    representation: str,
    divergence: str,
    intra_temperature: float,
    cross_temperature: float,
    diagonal: bool,
) -> dict[str, float]:
    """Every term of the objective, whatever of it a recipe uses."""

    def within(a: Rows) -> dict[int, dict[int, float]]:
        return relation(a, a, representation, intra_temperature, diagonal)

    def across(a: Rows, b: Rows) -> dict[int, dict[int, float]]:
        return relation(a, b, representation, cross_temperature, True)

    def bracket(teacher: Rows, other: Rows) -> float:
        standing = only(points, teacher)
        there = term(across(standing, other), across(teacher, other), divergence)
        return (there + term(across(other, standing), across(other, teacher), divergence)) / 2

    return {
        "align/image": align(points, image, scale),
        "align/text": align(points, text, scale),
        "intra/image": term(within(only(points, image)), within(image), divergence),
        "intra/text": term(within(only(points, text)), within(text), divergence),
        "cross/point_for_image": bracket(image, text),
        "cross/point_for_text": bracket(text, image),
    }
