"""The objective is its equations: each term, its weight, its reference; what is missing changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.kinds import kind
from mrdist.objectives.mrd import MRD, MRDConfig
from mrdist.ranks import Ranks
from mrdist.relation.definition import REPRESENTATIONS
from mrdist.shapes import TripletBatch
from mrdist.testing import tiny_triplets
from tests.unit.objectives.plain import PlainStudent, choices, gradients, masked, objective
from tests.unit.relation import loops

ALONE = Ranks.alone()
BATCH = tiny_triplets(8, dtype=torch.float64)


def numbers(rows: Tensor, present: Tensor) -> loops.Rows:
    rows = torch.nn.functional.normalize(rows.detach(), dim=-1)
    return [row.tolist() if here else None for row, here in zip(rows, present, strict=True)]


def modalities(built: MRD, batch: TripletBatch) -> tuple[loops.Rows, loops.Rows, loops.Rows]:
    embedding = built.student(batch.xyz, batch.rgb).embedding
    everyone = torch.ones_like(batch.has_image)
    return numbers(embedding, everyone), numbers(batch.image, batch.has_image), numbers(batch.text, batch.has_text)


@pytest.mark.parametrize(("image", "text"), [(None, None), ([1] * 8, [1] * 8), ([1, 1, 0, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1, 0, 1])])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("representation", "divergence"), [(r, d) for r, ds in REPRESENTATIONS.items() for d in ds])
def test_every_term_is_what_its_loops_say(
    representation: str, divergence: str, diagonal: bool, image: list[int] | None, text: list[int] | None
) -> None:
    batch = masked(BATCH, image, text)
    built = objective(representation=representation, divergence=divergence, diagonal=diagonal)
    loss = built(batch, ALONE)
    wanted = loops.terms(
        *modalities(built, batch),
        scale=1 / float(loss.figures["temperature/align"]),
        representation=representation,
        divergence=divergence,
        intra_temperature=0.1,
        cross_temperature=0.05,
        diagonal=diagonal,
    )
    assert loss.terms.keys() == wanted.keys()
    for name, value in loss.terms.items():
        assert float(value) == pytest.approx(wanted[name], rel=1e-11, abs=1e-13), name


def test_a_term_stands_beside_its_reference_its_weight_and_its_perplexity() -> None:
    built = objective()
    loss = built(BATCH, ALONE)
    _, image, text = modalities(built, BATCH)
    within = loops.softmax_rows(text, text, 0.1, False)
    across = loops.softmax_rows(image, text, 0.05, True)
    back = loops.softmax_rows(text, image, 0.05, True)
    figures = {name: float(value) for name, value in loss.figures.items()}
    blind = (loops.term(loops.uniform(across), across, "jeffrey") + loops.term(loops.uniform(back), back, "jeffrey")) / 2
    assert figures["reference/align/text"] == pytest.approx(math.log(int(BATCH.has_text.sum())))
    assert figures["reference/intra/text"] == pytest.approx(loops.term(loops.uniform(within), within, "jeffrey"))
    assert figures["reference/cross/point_for_image"] == pytest.approx(blind)
    assert figures["reference/cross/point_for_text"] == pytest.approx(blind)
    assert figures["perplexity/intra/text"] == pytest.approx(loops.perplexity(within))
    assert figures["perplexity/cross/image_to_text"] == pytest.approx(loops.perplexity(across))
    assert figures["perplexity/cross/text_to_image"] == pytest.approx(loops.perplexity(back))
    assert figures["present/image"] == pytest.approx(7 / 8)
    assert figures["weight/relations"] == 1
    assert set(figures) >= {"weight/intra/image", "weight/intra/text", "weight/cross", "accuracy/align/image", "temperature/align"}


def test_the_total_is_alignment_and_weighted_relations() -> None:
    """With uncertainty weights: align + λ Σ (e^-s L + s)."""
    built = objective(relations=0.7)
    loss = built(BATCH, ALONE)
    s = [float(v) for v in built.weights.log_variance]  # type: ignore[union-attr,operator]
    terms = {name: float(value) for name, value in loss.terms.items()}
    cross = terms["cross/point_for_image"] + terms["cross/point_for_text"]
    relations = sum(math.exp(-x) * y + x for x, y in zip(s, (terms["intra/image"], terms["intra/text"], cross), strict=True))
    assert float(loss.total) == pytest.approx(terms["align/image"] + terms["align/text"] + 0.7 * relations, rel=1e-13)
    for name, x in zip(("intra/image", "intra/text", "cross"), s, strict=True):
        assert float(loss.figures[f"weight/{name}"]) == pytest.approx(math.exp(-x))


def test_the_total_is_its_terms_times_their_weights_and_the_price_of_the_weights() -> None:
    for choice in choices():
        loss = objective(**choice)(BATCH, ALONE)
        align = sum(float(v) for name, v in loss.terms.items() if name.startswith("align"))
        wanted = align + float(loss.figures["weight/price"])
        for name, value in loss.figures.items():
            group = name.removeprefix("weight/")
            if name.startswith("weight/") and group not in ("price", "relations", "mixture"):
                wanted += float(value) * sum(float(v) for term, v in loss.terms.items() if term.startswith(group))
        assert float(loss.total) == pytest.approx(wanted, rel=1e-12), choice


def test_a_mixture_has_one_intra_relation_against_both_teachers() -> None:
    built = objective(weighting="mixture")
    loss = built(BATCH, ALONE)
    points, image, text = (loops.only(rows, *modalities(built, BATCH)) for rows in modalities(built, BATCH))
    share = float(loss.figures["weight/mixture"])
    target = loops.mix(loops.softmax_rows(image, image, 0.1, False), loops.softmax_rows(text, text, 0.1, False), share)
    wanted = loops.term(loops.softmax_rows(points, points, 0.1, False), target, "jeffrey")
    assert float(loss.terms["intra/mixture"]) == pytest.approx(wanted, rel=1e-12)
    assert 0.1 <= share <= 0.9
    assert "intra/image" not in loss.terms


def test_rows_that_lack_everything_change_nothing() -> None:
    """Four more shapes without image and caption: the same loss, the same gradient, for every option."""
    more = tiny_triplets(12, dtype=torch.float64, seed=5)
    nothing = torch.zeros(4).bool()
    held = {name: torch.cat([value, getattr(more, name)[8:]]) for name, value in BATCH.tensors().items()}
    held |= {name: torch.cat([getattr(BATCH, name), nothing]) for name in ("has_image", "has_text")}
    wider = TripletBatch(**held)
    for choice in choices():
        built = objective(**choice)
        small, large = built(BATCH, ALONE), built(wider, ALONE)
        assert float(large.total) == pytest.approx(float(small.total), rel=1e-13), choice
        for name, value in small.terms.items():
            assert float(large.terms[name]) == pytest.approx(float(value), rel=1e-12, abs=1e-15), (choice, name)
        before, after = gradients(built, small.total), gradients(built, large.total)
        assert all(torch.allclose(before[name], after[name], rtol=1e-11, atol=1e-13) for name in before), choice


def test_what_an_absent_row_holds_changes_nothing() -> None:
    junk = torch.where(BATCH.has_text[:, None], BATCH.text, torch.full_like(BATCH.text, 3.0))
    for choice in choices(lambda c: c["cross"] == "both"):
        built = objective(**choice)
        assert float(built(replace(BATCH, text=junk), ALONE).total) == pytest.approx(float(built(BATCH, ALONE).total), rel=1e-13)


def test_a_batch_without_captions_has_a_finite_gradient_and_moves_no_weight_of_text() -> None:
    silent = masked(BATCH, None, [0] * 8)
    for choice in choices():
        built = objective(**choice)
        loss = built(silent, ALONE)
        held = gradients(built, loss.total)
        assert all(torch.isfinite(g).all() for g in held.values())
        assert float(loss.terms["align/text"]) == 0
        if choice["weighting"] == "uncertainty":
            assert held["weights.log_variance"][0] != 0
            assert torch.all(held["weights.log_variance"][1:] == 0)


@pytest.mark.parametrize("weighting", ["uncertainty", "softmax", "mixture"])
def test_the_gradient_of_the_total_is_its_derivative(weighting: str) -> None:
    built = objective(weighting=weighting)
    names = [
        name
        for name, _ in built.named_parameters()
        if name in ("student.head.bias", "scale.log_scale") or "weights" in name or "share" in name
    ]
    named = dict(built.named_parameters())

    def total(*values: Tensor) -> Tensor:
        loss: Tensor = torch.func.functional_call(built, dict(zip(names, values, strict=True)), (BATCH, ALONE)).total
        return loss

    if weighting == "softmax":
        # The entropy bonus is scaled by the terms as they are; that scale is not differentiated.
        built.weights.entropy = 0.0  # type: ignore[union-attr,assignment]
    assert torch.autograd.gradcheck(total, tuple(named[name].detach().clone().requires_grad_() for name in names))


def test_alignment_alone_computes_no_relation() -> None:
    built = objective(intra="none", cross="none")
    loss = built(BATCH, ALONE)
    assert set(loss.terms) == {"align/image", "align/text"}
    assert not [name for name, _ in built.named_parameters() if not name.startswith(("student.", "scale."))]
    assert float(loss.total) == pytest.approx(sum(float(v) for v in loss.terms.values()))


def test_relations_warm_up_from_nothing() -> None:
    built = objective(warmup=10)
    full = built(BATCH, ALONE)
    align = float(full.terms["align/image"] + full.terms["align/text"])
    for step, share in ((0, 0.0), (5, 0.5), (10, 1.0), (99, 1.0)):
        built.at_step(step, 100)
        loss = built(BATCH, ALONE)
        assert float(loss.total) == pytest.approx(align + share * (float(full.total) - align))
        assert float(loss.figures["weight/relations"]) == share


def test_relations_are_float32_behind_a_bfloat16_student() -> None:
    built = objective(torch.bfloat16)
    rounded = {name: value.to(torch.bfloat16) for name, value in built.state_dict().items()}
    exact = objective()
    exact.load_state_dict({name: value.double() for name, value in rounded.items()})
    batch = tiny_triplets(8)
    loss, wanted = built(batch, ALONE), exact(batch, ALONE)
    assert loss.total.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in {**loss.terms, **loss.figures}.values())
    assert float(loss.total) == pytest.approx(float(wanted.total), rel=0.05)
    assert all(torch.isfinite(g).all() for g in gradients(built, loss.total).values())


def test_autocast_does_not_reach_the_relations() -> None:
    built = objective(torch.float32)
    batch = tiny_triplets(8)
    embedding = built.student(batch.xyz, batch.rgb).embedding.detach()
    built.student.forward = lambda *_: type("Held", (), {"embedding": embedding})()  # type: ignore[method-assign,assignment]
    plain = built(batch, ALONE).total
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(built(batch, ALONE).total, plain)


def test_an_objective_without_a_caption_or_view_in_sight_is_silent() -> None:
    nothing = masked(BATCH, [0] * 8, [0] * 8)
    for choice in choices(lambda c: c["weighting"] != "softmax"):
        built = objective(**choice)
        loss = built(nothing, ALONE)
        assert float(loss.total) == 0
        assert all(torch.all(g == 0) for g in gradients(built, loss.total).values())


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"cross": "all"}, "objective.cross"),
        ({"divergence": "l1"}, "objective.divergence"),
        ({"representation": "distance"}, "objective.divergence"),
        ({"representation": "angle"}, "objective.representation"),
        ({"weighting": "mixture", "intra": "image"}, "objective.intra"),
        ({"intra_temperature": 0.0}, "objective.intra_temperature"),
        ({"floor": 0.6}, "objective.floor"),
        ({"bank": -1.0}, "objective.bank"),
        ({"bank": 1.0, "divergence": "js"}, "objective.divergence"),
        ({"queue": -1}, "objective.queue"),
        ({"queue": 8, "intra": "none"}, "objective.intra"),
    ],
)
def test_an_option_that_means_nothing_is_refused_by_name(options: dict[str, object], key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        MRDConfig(**options).build(PlainStudent())  # type: ignore[arg-type]


def test_a_student_of_another_width_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="embeddings of 5 numbers"):
        MRDConfig().build(PlainStudent(width=5)).double()(BATCH, ALONE)


def test_the_kind_and_every_preset_of_it_build() -> None:
    from omegaconf import OmegaConf

    from mrdist.presets import presets, shipped

    assert kind("objectives", "mrd") is MRDConfig
    assert {"mrd", "alignment", "mrd/kl", "mrd/mixture"} <= set(presets("objective"))
    for name in presets("objective"):
        tree = OmegaConf.load(shipped() / "objective" / f"{name}.yaml")
        held = OmegaConf.create({"optim": {"warmup": 7}, "objective": OmegaConf.merge(OmegaConf.structured(MRDConfig()), tree)})
        config = OmegaConf.to_object(held)["objective"]  # type: ignore[index,call-overload]
        assert isinstance(config, MRDConfig)
        assert config.build(PlainStudent()).config.warmup == (100 if name == "alignment" else 7)


def test_numbers_that_engines_treat_apart_have_the_shape_they_want() -> None:
    built = objective()
    shapes = {name: tuple(p.shape) for name, p in built.named_parameters() if not name.startswith("student.")}
    assert shapes == {"scale.log_scale": (1,), "weights.log_variance": (3,)}
    assert built.exported() is built.student
