"""Digits that are kept: of losses near zero, of rows far from every column, of features in half precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mrdist.relation.asked import NONE, Relations
from mrdist.relation.field import Field
from mrdist.relation.term import Term
from mrdist.relation.terms import Tiling
from tests.unit.relation.plain_terms import EVERYTHING, Given, drawn, plain, slopes, tiled

TILES = Tiling(block=16, compile="never")


def off(got: Tensor, wanted: Tensor) -> float:
    """The error, relative to what is wanted in float64."""
    return float((got.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


def settled() -> Given:
    """Points that have found their images: cosines of 1, about 0 with all others, and the scale at which that costs 1e-8."""
    chance = torch.Generator().manual_seed(0)
    # Made in float32: what is measured is the loss, not the rounding of its inputs.
    rows = torch.eye(48) + 1e-3 * torch.randn(48, 48, generator=chance)
    return drawn(48)._replace(points=rows, image=rows.clone(), text=rows.clone(), scale=torch.tensor(22.27))


def test_a_contrast_of_a_hundred_millionth_keeps_its_digits() -> None:
    wide, narrow = settled().learning(torch.float64), settled().learning(torch.float32)
    wanted, got = plain(wide, NONE).terms["align/image"], tiled(narrow, NONE, tiling=TILES).values[0]
    assert 0.9e-8 < float(wanted) < 1.1e-8
    assert off(got, wanted) < 1e-5
    found, expected = slopes(got, narrow), slopes(wanted, wide)
    for name in ("points", "image", "scale"):
        assert off(found[name], expected[name]) < 1e-5, name


def test_a_log_softmax_loses_them() -> None:
    """The test above can fail."""
    given = settled().learning(torch.float32)
    wanted = plain(settled().learning(torch.float64), NONE).terms["align/image"]
    unit = normalize(given.points, dim=-1)
    assert off(cross_entropy(given.scale * unit @ unit.T, torch.arange(48)), wanted) > 0.1


def lonely(far: float, *, contrast: float = 0.01, whose: str = "points") -> Given:
    """Everything in one cone, but the third row of a modality, whose cosine with all is about `far`; temperatures of 0.01."""
    given, axes = drawn(24, 16, temperatures=[contrast, *[0.01] * 4], tied=True), torch.eye(16, dtype=torch.float64)
    held = {name: normalize(axes[0] + 0.05 * getattr(given, name).detach(), dim=-1) for name in ("points", "image", "text")}
    held[whose][2] = far * axes[0] + (1 - far**2) ** 0.5 * axes[1]
    return given._replace(points=held["points"], image=held["image"], text=held["text"])


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Term]]:
    """The forms with which a batch was begun again."""
    held: list[Sequence[Term]] = []
    restart = Field.restart

    def seen(field: Field, terms: Sequence[Term]) -> None:
        held.append(terms)
        restart(field, terms)

    monkeypatch.setattr(Field, "restart", seen)
    return held


@pytest.mark.parametrize("whose", ["points", "image"])
@pytest.mark.parametrize(("far", "lost"), [(-0.9, True), (0.5, False)])
@pytest.mark.parametrize(
    ("relations", "contrast"),
    [(EVERYTHING, 0.1), (Relations(cross="none"), 0.1), (Relations(cross="none", divergence="kl"), 0.1), (NONE, 0.01)],
    ids=["everything", "intra", "kl", "contrast"],
)
def test_a_row_that_is_far_from_every_column_is_computed_with_care(
    relations: Relations, contrast: float, far: float, lost: bool, whose: str, restarts: list[Sequence[Term]]
) -> None:
    wide, narrow = (lonely(far, contrast=contrast, whose=whose).learning(dtype) for dtype in (torch.float64, torch.float32))
    wanted, got = plain(wide, relations), tiled(narrow, relations, tiling=TILES)
    assert [{type(term).__name__ for term in terms} <= {"CarefulContrast", "CarefulDivergence"} for terms in restarts] == [True] * lost
    for name, value in zip(got.names, got.values, strict=True):
        assert off(value, wanted.terms[name]) < 1e-5, name
    found = slopes(got.values.sum(), narrow)
    for name, slope in slopes(torch.stack(list(wanted.terms.values())).sum(), wide).items():
        assert float(slope.norm()) == 0 or off(found[name], slope) < 1e-4, name


def student() -> Given:
    """Half-learnt: unit rows in a cone, as those of towers are, points nearest to their own images and texts; temperatures of 0.01."""
    given = drawn(64, 256, temperatures=[0.01] * 5)
    image, text, noise = (normalize(rows.detach(), dim=-1) for rows in (given.image, given.text, given.points))
    axis = torch.full((256,), 3 / 16, dtype=torch.float64)
    points, image, text = (normalize(axis + normalize(rows, dim=-1), dim=-1) for rows in (image + text + noise, image, text))
    return given._replace(points=points, image=image, text=text).learning()


def test_unit_rows_in_bfloat16_cost_what_rounding_them_costs() -> None:
    exact = student()
    wanted, rounded = (plain(exact, EVERYTHING, rounded=to).terms for to in (torch.float64, torch.bfloat16))
    for dtype, operands in ((torch.bfloat16, "input"), (torch.float32, "bfloat16")):
        half = exact.learning(dtype)
        got = tiled(half, EVERYTHING, tiling=Tiling(compile="never", operands=operands))
        for name, value in zip(got.names, got.values, strict=True):
            mine = slopes(value, half, keep=True)["points"]
            inputs, true = (slopes(terms[name], exact, keep=True)["points"] for terms in (rounded, wanted))
            assert off(inputs, true) > 1e-3
            assert off(mine, true) < 1.2 * off(inputs, true), (name, dtype)


def test_cosines_in_bfloat16_would_cost_much_more() -> None:
    """The test above can fail: a product of two such rows, rounded once more, is off by up to 0.2 nats at this temperature."""
    given = student()
    wanted, inputs = (plain(given, NONE, rounded=to).terms["align/image"] for to in (torch.float64, torch.bfloat16))
    true = slopes(wanted, given)["points"]
    cosines = normalize(given.points, dim=-1) @ normalize(given.image, dim=-1).T
    logits = 100 * (cosines + (cosines.bfloat16().double() - cosines).detach())
    own = torch.arange(len(logits))
    loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert off(slopes(loss, given)["points"], true) > 3 * off(slopes(inputs, given)["points"], true)


@pytest.mark.parametrize("divergence", ["jeffrey", "kl", "js"])
def test_rows_at_right_angles_have_a_gradient_at_any_temperature(divergence: str) -> None:
    """e^100 less than a row's own cosine, which does not count, is all there is: more than float32 can hold between the two."""
    given, relations = drawn(64, 512, temperatures=[0.1, 0.01, 0.01, 0.1, 0.1]), Relations("image", "none", divergence=divergence)
    wide, narrow = given.learning(torch.float64), given.learning(torch.float32)
    total, true = tiled(narrow, relations, tiling=TILES).values[2], plain(wide, relations).terms["intra/image"]
    assert off(total, true) < 1e-5
    found = slopes(total, narrow)
    assert all(float(slope.norm()) == 0 or off(found[name], slope) < 1e-4 for name, slope in slopes(true, wide).items())


@pytest.mark.parametrize("relations", [EVERYTHING, Relations(divergence="kl"), NONE], ids=["jeffrey", "kl", "contrast"])
def test_a_row_that_does_not_count_may_be_as_near_as_it_likes(relations: Relations) -> None:
    """Its exponential is e^100 times those that count, whose coefficients are as large as they are small."""
    given = drawn(24, 24, text=[1] * 23 + [0], temperatures=[0.01] * 5, tied=True)
    axes = torch.eye(24, dtype=torch.float64)
    # The last point lacks a text, and is the text of the first, whose own point is at right angles to all.
    points, image, text = axes.roll(1, 0), axes + 0.1 * axes.roll(2, 0), axes + 0.1 * axes.roll(3, 0)
    points[23], text[23] = text[0], text[0]
    wide, narrow = (given._replace(points=points, image=image, text=text).learning(dtype) for dtype in (torch.float64, torch.float32))
    got, wanted = tiled(narrow, relations, tiling=TILES), plain(wide, relations)
    for name, value in zip(got.names, got.values, strict=True):
        assert off(value, wanted.terms[name]) < 1e-5, name
        found = slopes(value, narrow, keep=True)["points"]
        assert off(found, slopes(wanted.terms[name], wide, keep=True)["points"]) < 1e-4, name
