"""The tiled terms are those of `definition`, and so is every gradient; nothing of batch x batch is ever alive."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.relation.asked import CROSS, INTRA, NONE, Relations
from mrdist.relation.definition import REPRESENTATIONS
from mrdist.relation.terms import Tiling, relation_terms
from tests.unit.relation.live import Live
from tests.unit.relation.plain_terms import EVERYTHING, EXACT, Given, astray, drawn, furthest, plain, slopes, tiled

CHOICES = [(representation, name) for representation, names in REPRESENTATIONS.items() for name in names]
LACKING = {"nobody": (1.0, 1.0), "some": (0.8, 0.6), "all texts but one": (0.8, -1), "all texts": (0.8, 0.0)}


def who(part: float, rows: int, chance: random.Random) -> list[int]:
    """Flags of about so many rows; -1: of one."""
    alone = chance.randrange(rows)
    return [int(k == alone if part < 0 else chance.random() < part) for k in range(rows)]


def check(given: Given, relations: Relations, tiling: Tiling) -> None:
    """Values, figures, and the gradient of each term alone and of all together."""
    got, wanted = tiled(given, relations, tiling=tiling), plain(given, relations)
    assert list(wanted.terms) == list(got.names)
    for name, value in zip(got.names, got.values, strict=True):
        assert astray(value, wanted.terms[name]) < EXACT, name
    assert wanted.figures.keys() == got.figures.keys()
    for name, figure in wanted.figures.items():
        assert astray(got.figures[name], figure) < EXACT, name
    weights = torch.linspace(0.2, 1.0, len(got.names), dtype=torch.float64)
    totals = [*zip(got.values, wanted.terms.values(), strict=True)]
    totals.append(((weights * got.values).sum(), (weights * torch.stack(list(wanted.terms.values()))).sum()))
    for mine, true in totals:
        assert furthest(slopes(mine, given, keep=True), slopes(true, given, keep=True)) < EXACT


@pytest.mark.parametrize("mixed", [False, True], ids=["", "mixture"])
@pytest.mark.parametrize("lacking", LACKING.values(), ids=LACKING)
@pytest.mark.parametrize(("representation", "divergence"), CHOICES)
def test_terms_figures_and_gradients_are_those_of_the_definition(
    representation: str, divergence: str, lacking: tuple[float, float], mixed: bool
) -> None:
    chance = random.Random(f"{representation} {divergence} {lacking} {mixed}")
    block = chance.choice([1, 4, 7, 64])
    rows = 7 if block == 1 else chance.choice([9, 12, 13])
    image, text = (who(part, rows, chance) for part in lacking)
    temperatures = [chance.choice([0.01, 0.03, 0.1, 0.2]) for _ in range(5)]
    shape, tied = chance.choice([(), (1,)]), chance.random() < 0.5
    given = drawn(rows, seed=rows, image=image, text=text, temperatures=temperatures, shape=shape, tied=tied, mixed=mixed)
    relations = Relations("both", "both", representation, divergence, diagonal=chance.random() < 0.5)
    check(given, relations, Tiling(block=block, compile="never"))


@pytest.mark.parametrize(("intra", "cross"), list(product(INTRA, CROSS)))
def test_a_term_does_not_depend_on_which_others_are_asked_for(intra: str, cross: str) -> None:
    given = drawn(11, image=[1] * 10 + [0], text=[1, 0] * 5 + [1], tied=True)
    check(given, Relations(intra, cross, diagonal=intra == cross), Tiling(block=4, compile="never"))


@pytest.mark.parametrize("text", [None, [1, 0, 1] * 3, [0] * 9])
def test_a_contrast_of_sigmoids_is_what_its_equation_says(text: list[int] | None) -> None:
    check(drawn(9, text=text, sigmoid=True), NONE, Tiling(block=4, compile="never"))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("divergence", ["jeffrey", "kl", "js"])
def test_a_batch_may_be_as_small_as_one_row(rows: int, divergence: str) -> None:
    check(drawn(rows, tied=True), Relations("both", "both", divergence=divergence), Tiling(block=2, compile="never"))


@pytest.mark.parametrize("name", ["image", "text"])
def test_one_modality_is_enough_for_a_contrast_and_its_own_intra_relation(name: str) -> None:
    given, here = drawn(11), torch.arange(11) % 3 > 0
    wanted = plain(given._replace(has_image=here, has_text=here), Relations(intra=name, cross="none"))
    given_rows: dict[str, Any] = {name: getattr(given, name), f"has_{name}": here}
    for relations in (NONE, Relations(intra=name, cross="none")):
        got = relation_terms(given.points, **given_rows, scale=given.scale, relations=relations, intra_scale=given.intra)
        assert got.names == (f"align/{name}", f"intra/{name}")[: len(got.names)]
        assert all(astray(v, wanted.terms[n]) < EXACT for n, v in zip(got.names, got.values, strict=True))


def test_a_term_without_rows_is_said_to_be_absent() -> None:
    got = tiled(drawn(6, text=[0] * 6), EVERYTHING)
    assert dict(zip(got.names, got.present.tolist(), strict=True)) == {name: name in ("align/image", "intra/image") for name in got.names}
    assert float(got.values[~got.present].abs().max()) == 0


@pytest.mark.parametrize("anything", [0.0, 1e3, float("nan")])
@pytest.mark.parametrize("relations", [EVERYTHING, Relations(divergence="js"), Relations(representation="cosine", divergence="l2")])
def test_what_an_absent_row_holds_does_not_matter(relations: Relations, anything: float) -> None:
    given = drawn(9, text=[1, 1, 0] * 3)
    other = given._replace(text=torch.where(given.has_text[:, None], given.text, anything)).learning()
    mine, wanted = tiled(other, relations).values, tiled(given, relations).values
    assert torch.equal(mine, wanted)
    found = slopes(mine.sum(), other)
    assert all(torch.equal(found[name], slope) for name, slope in slopes(wanted.sum(), given).items())


@pytest.mark.parametrize(
    ("relations", "mixed"),
    [
        (EVERYTHING, False),
        (Relations(divergence="js"), True),
        (Relations(representation="distance", divergence="huber", diagonal=True), False),
        (Relations("image", "point_for_text", "cosine", "l2"), False),
    ],
)
def test_gradients_are_derivatives(relations: Relations, mixed: bool) -> None:
    given = drawn(4, 3, text=[1, 1, 0, 1], temperatures=(0.5, 0.4, 0.6, 0.5, 0.3), shape=(1,), mixed=mixed)
    names = list(given.learnt)

    def values(*leaves: Tensor) -> Tensor:
        held = dict(zip(names, leaves, strict=True))
        pairs: dict[str, Any] = {name: (held[name], held[f"{name} of the teacher"]) for name in ("intra", "cross")}
        others: dict[str, Any] = {name: held[name] for name in ("points", "image", "text", "scale", "share") if name in held}
        return tiled(given._replace(**others, **pairs), relations, tiling=Tiling(block=3, compile="never")).values

    assert torch.autograd.gradcheck(values, list(given.learnt.values()))


@pytest.mark.parametrize("relations", [EVERYTHING, Relations(divergence="js"), Relations(representation="distance", divergence="l2")])
def test_no_tensor_of_batch_by_batch_is_ever_alive(relations: Relations) -> None:
    rows = 96
    given = drawn(rows, 3)
    with Live(*given.learnt.values()) as live:
        torch.autograd.backward(tiled(given, relations, tiling=Tiling(block=24, compile="never")).values.sum())
    assert live.largest < rows * rows
    with Live(*given.learnt.values()) as live:
        torch.autograd.backward(torch.stack(list(plain(given, relations).terms.values())).sum())
    assert live.largest >= rows * rows, "the audit sees what plain autograd holds"


def test_a_small_tile_needs_little_memory() -> None:
    peaks = []
    given = drawn(96, 3)
    for block in (16, 96):
        with Live(*given.learnt.values()) as live:
            torch.autograd.backward(tiled(given, EVERYTHING, tiling=Tiling(block=block, compile="never")).values.sum())
        peaks.append(live.peak)
    assert peaks[0] < peaks[1] / 4


def test_autocast_changes_nothing() -> None:
    given = drawn(9).learning(torch.float32)
    plainly = tiled(given, EVERYTHING).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (given.points @ given.points.T).dtype == torch.bfloat16
        values = tiled(given, EVERYTHING).values
    assert torch.equal(values, plainly)
    found, wanted = slopes(values.sum(), given), slopes(plainly.sum(), given)
    assert all(torch.equal(found[name], slope) for name, slope in wanted.items())


def test_without_gradient_the_values_are_the_same() -> None:
    given = drawn(9)
    with torch.no_grad():
        got = tiled(given, EVERYTHING)
    assert not got.values.requires_grad
    assert torch.equal(got.values, tiled(given, EVERYTHING).values)


def test_a_scale_that_changes_before_backward_is_noticed() -> None:
    given = drawn(6)
    values = tiled(given, EVERYTHING).values
    with torch.no_grad():
        given.scale.add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(values.sum())


def test_embeddings_may_change_before_backward() -> None:
    """What backward needs of them are unit rows of its own."""
    given = drawn(6)
    (wanted,) = torch.autograd.grad(tiled(given, EVERYTHING).values.sum(), given.points)
    values = tiled(given, EVERYTHING).values
    with torch.no_grad():
        given.points.add_(0.1)
    (got,) = torch.autograd.grad(values.sum(), given.points)
    assert torch.equal(got, wanted)


def test_a_second_backward_is_refused() -> None:
    given = drawn(6)
    total = tiled(given, EVERYTHING).values.sum()
    torch.autograd.backward(total)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(total)


@pytest.mark.parametrize("outer", [torch.sum, torch.norm])
def test_a_second_derivative_is_refused(outer: Callable[[Tensor], Tensor]) -> None:
    """Also where the first one's weights are constant: else it would lack what the tiles have to say, without a word."""
    given = drawn(6)

    def twice() -> None:
        (slope,) = torch.autograd.grad(outer(tiled(given, EVERYTHING).values), given.points, create_graph=True)
        torch.autograd.backward(slope.square().sum())

    with pytest.raises((RuntimeError, RecipeError)):
        twice()


ROWS = torch.ones(4, 3)
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "intra": ({"relations": Relations(intra="all")}, ("intra", "'all'", "both, image, text, none", "intra=both")),
    "cross": ({"relations": Relations(cross="image")}, ("cross", "'image'", "point_for_image", "cross=both")),
    "representation": (
        {"relations": Relations(representation="dot")}, ("representation", "'dot'", "similarity, distance, cosine", "representation=")
    ),
    "divergence": (
        {"relations": Relations(representation="cosine")}, ("divergence", "'jeffrey'", "l1, l2, huber", "divergence=l1")
    ),
    "fewer rows": ({"image": torch.ones(3, 3)}, ("image", "(3, 3) of torch.float32", "(4, 3)", "one embedding per shape")),
    "another width": ({"text": torch.ones(4, 2)}, ("text", "(4, 2) of torch.float32", "(4, 3)", "all of one width")),
    "no rows": ({"points": torch.ones(4)}, ("points", "(4,)", "[b, d]", "one embedding per shape")),
    "whole numbers": ({"image": torch.ones(4, 3, dtype=torch.int64)}, ("image", "torch.int64", "floating", "one embedding")),
    "no text for a relation": ({"relations": EVERYTHING}, ("relations", "image and text", "both", "leave the relation out")),
    "no text for a mixture": ({"share": torch.ones(1)}, ("relations", "points and image", "both", "leave the relation out")),
    "points alone": ({"image": None}, ("embeddings", "points alone", "image or text", "give image")),
    "a mixture of one": (
        {"text": ROWS, "share": torch.ones(1), "relations": Relations("image", "none")},
        ("share", "intra=image", "intra=both", "share=None"),
    ),
    "mode": ({"tiling": Tiling(mode="star")}, ("relation mode", "'star'", "row, pair, ring, grid", "mode=auto")),
    "backend": ({"tiling": Tiling(backend="cuda")}, ("relation backend", "'cuda'", "auto, torch, triton", "backend=auto")),
    "compile": ({"tiling": Tiling(compile="yes")}, ("relation compile", "'yes'", "auto, never, always", "compile=auto")),
}  # fmt: skip


@pytest.mark.parametrize(("given", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_with_what_got_wanted_and_try(given: dict[str, Any], parts: tuple[str, str, str, str]) -> None:
    with pytest.raises(RecipeError) as error:
        relation_terms(**{"points": ROWS, "image": ROWS, "scale": 10.0, **given})
    said = error.value
    assert said.what == parts[0]
    assert all(part in told for part, told in zip(parts[1:], (said.got, said.wanted, said.try_), strict=True)), said


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_compiled_tiles_say_what_eager_ones_say() -> None:
    given = drawn(8)
    held = [
        relation_terms(given.points, given.image, scale=given.scale, tiling=Tiling(block=8, compile=how)).values
        for how in ("never", "always")
    ]
    assert astray(held[1], held[0]) < EXACT
    wanted, found = (slopes(values.sum(), given) for values in held)
    assert furthest(found, wanted) < EXACT
