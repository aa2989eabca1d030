"""Makers and followers of a store agree on units, prefixes and orders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrdist.data.order import UNIT, parts_first, place, prefix, rows_first, units_of
from mrdist.shapes import Shape


def shapes(count: int) -> list[Shape]:
    return [Shape(f"s{k}", Path("x"), split="test" if k % 5 == 0 else "train") for k in range(count)]


def test_units_are_the_same_whatever_the_order_of_the_manifest_and_hold_every_shape_once() -> None:
    some = shapes(1000)
    units = units_of(some)
    assert units == units_of(some[::-1])
    assert [len(unit) for unit in units] == [UNIT] * 15 + [1000 - 15 * UNIT]
    assert [shape.id for unit in units for shape in unit] == sorted((shape.id for shape in some), key=place)


def test_every_unit_is_a_random_sample_of_the_catalogue() -> None:
    counts = [sum(shape.split == "test" for shape in unit) for unit in units_of(shapes(64 * UNIT))]
    # Binomial with n = 64, p = 0.2: mean 12.8, deviation 3.2.
    assert abs(np.mean(counts) - 12.8) < 0.1
    assert 2.4 < np.std(counts) < 4.0


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.1, 0.333, 0.5, 1.0])
def test_a_fraction_counts_shapes_to_train_on_and_is_part_of_every_larger_one(fraction: float) -> None:
    units = units_of(shapes(1000))
    train = [shape.id for unit in units for shape in unit if shape.split == "train"]
    wanted = train[: max(1, int(np.ceil(fraction * 800)))]
    cut = prefix(units, fraction)
    held = []
    for number, unit in enumerate(units):
        rows = np.array([k for k, shape in enumerate(unit) if shape.split == "train"])
        held += [unit[k].id for k in cut.of(number, rows, lambda row, unit=unit: unit[row].id)]  # type: ignore[misc]
    assert held == wanted
    assert cut.parts == 1 + max(n for n, unit in enumerate(units) for shape in unit if shape.id in wanted)


def test_a_catalogue_without_shapes_to_train_on_has_an_empty_prefix() -> None:
    assert prefix(units_of([Shape("a", Path("x"), split="test")]), 1.0) == (0, "")


def test_the_first_epoch_is_a_permutation_that_depends_on_the_seed() -> None:
    assert sorted(parts_first(1, 50)) == list(range(50))
    assert parts_first(1, 50) == parts_first(1, 50) != parts_first(2, 50)
    rows = np.arange(40)
    orders = [rows_first(seed, part, rows).tolist() for seed in (0, 1) for part in (0, 1)]
    assert all(sorted(one) == rows.tolist() for one in orders)
    assert len({tuple(one) for one in orders}) == 4
