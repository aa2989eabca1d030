"""What `relation_terms` must say, by plain autograd of `definition`; and batches, every number of which is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from mrdist.ranks import Ranks
from mrdist.relation import definition
from mrdist.relation.asked import Relations
from mrdist.relation.definition import Modality, Related, Relation
from mrdist.relation.terms import Terms, Tiling, relation_terms

ALONE = Ranks.alone()
EVERYTHING = Relations(intra="both", cross="both")
EXACT = 1e-12
"""How far a term, a figure or a gradient may be `astray` in float64."""
TEMPERATURES = (0.05, 0.1, 0.08, 0.06, 0.05)


class Given(NamedTuple):
    """Embeddings [b, d], who has what [b], and the numbers that may be learnt."""

    points: Tensor
    image: Tensor
    text: Tensor
    has_image: Tensor
    has_text: Tensor
    scale: Tensor
    intra: tuple[Tensor, Tensor]  # scales of student and teacher; twice the same tensor: tied
    cross: tuple[Tensor, Tensor]
    share: Tensor | None  # None: no mixture
    bias: Tensor | None  # None: a contrast of softmax, not of sigmoids

    @property
    def learnt(self) -> dict[str, Tensor]:
        """Everything that takes a gradient, by name, and what is tied once."""
        held = {name: getattr(self, name) for name in ("points", "image", "text", "scale")}
        for name, (student, teacher) in (("intra", self.intra), ("cross", self.cross)):
            held |= {name: student} if student is teacher else {name: student, f"{name} of the teacher": teacher}
        return held | {name: value for name, value in (("share", self.share), ("bias", self.bias)) if value is not None}

    def rows(self, ranks: Ranks) -> Given:
        """What one rank has of it."""
        part = slice(ranks.rank * len(self.points) // ranks.size, (ranks.rank + 1) * len(self.points) // ranks.size)
        names = ("points", "image", "text", "has_image", "has_text")
        return self._replace(**{name: getattr(self, name)[part] for name in names})

    def learning(self, dtype: torch.dtype = torch.float64) -> Given:
        """The same numbers, each to be learnt; embeddings in this dtype, the others in no less than float32. What is tied stays tied."""
        wide, fresh = torch.promote_types(dtype, torch.float32), dict[int, Tensor]()

        def leaf(value: Tensor, dtype: torch.dtype) -> Tensor:
            return fresh.setdefault(id(value), value.detach().to(dtype, copy=True).requires_grad_())

        held: dict[str, Any] = {name: leaf(getattr(self, name), dtype) for name in ("points", "image", "text")}
        for name in ("scale", "share", "bias"):
            held[name] = None if getattr(self, name) is None else leaf(getattr(self, name), wide)
        for name in ("intra", "cross"):
            held[name] = tuple(leaf(value, wide) for value in getattr(self, name))
        return self._replace(**held)


def drawn(
    rows: int,
    width: int = 5,
    *,
    seed: int = 0,
    image: Sequence[int] | None = None,
    text: Sequence[int] | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    shape: tuple[int, ...] = (),
    tied: bool = False,
    mixed: bool = False,
    sigmoid: bool = False,
) -> Given:
    """A random batch in float64; `image` and `text` list who has one, `temperatures` are those of contrast, intra and cross."""
    chance = torch.Generator().manual_seed(seed)
    points, images, texts = (torch.randn(rows, width, dtype=torch.float64, generator=chance) for _ in range(3))
    has_image, has_text = (torch.ones(rows).bool() if who is None else torch.tensor(who).bool() for who in (image, text))
    scale, *pairs = (torch.full(shape, 1 / t, dtype=torch.float64) for t in temperatures)
    intra, cross = (pairs[0], pairs[0] if tied else pairs[1]), (pairs[2], pairs[2] if tied else pairs[3])
    share = torch.full(shape, 0.3, dtype=torch.float64) if mixed else None
    bias = torch.full(shape, -3.0, dtype=torch.float64) if sigmoid else None
    return Given(points, images, texts, has_image, has_text, scale, intra, cross, share, bias).learning()


def tiled(given: Given, relations: Relations, ranks: Ranks = ALONE, tiling: Tiling | None = None) -> Terms:
    """What is under test, of my rows."""
    intra, cross = (pair[0] if pair[0] is pair[1] else pair for pair in (given.intra, given.cross))
    return relation_terms(
        given.points,
        given.image,
        given.text,
        scale=given.scale,
        relations=relations,
        intra_scale=intra,
        cross_scale=cross,
        share=given.share,
        bias=given.bias,
        has_image=given.has_image,
        has_text=given.has_text,
        ranks=ranks,
        tiling=tiling or Tiling(compile="never"),
    )


class Plain(NamedTuple):
    """Terms and figures by name."""

    terms: dict[str, Tensor]
    figures: dict[str, Tensor]


def plain(given: Given, relations: Relations, *, rounded: torch.dtype = torch.float64) -> Plain:
    """Every term by `definition`, of the whole batch in one process; from unit rows that are rounded to another dtype, if one is given."""

    def unit(rows: Tensor) -> Tensor:
        rows = normalize(rows, dim=-1)
        return rows + (rows.to(rounded).to(rows.dtype) - rows).detach()

    points, image, text = (
        Modality.of(unit(rows), here, ALONE)
        for rows, here in (
            (given.points, torch.ones_like(given.has_image)),
            (given.image, given.has_image),
            (given.text, given.has_text),
        )
    )
    out = Plain({}, {})
    others = {"image": image, "text": text}

    def related(rows: Modality, columns: Modality, scale: Tensor, self_too: bool) -> Related:
        return definition.related(rows, columns, ALONE, representation=relations.representation, temperature=1 / scale, self_too=self_too)

    def compared(student: Related, teacher: Related) -> tuple[Tensor, Tensor]:
        """The term, and what a student that knows nothing would pay."""
        blind = definition.ignorant(teacher, ALONE)
        term, reference = (ALONE.mean(definition.divergence(s, teacher, relations.divergence), teacher.rows) for s in (student, blind))
        return term, reference

    def looked(name: str, teacher: Related, columns: Modality, self_too: bool) -> None:
        if isinstance(teacher, Relation):
            # A row without any column looks at nothing: 1. `definition` would call it uniform.
            seen = int(columns.there.sum()) > int(not self_too)
            perplexity = definition.entropy(teacher).exp()
            out.figures[f"perplexity/{name}"] = ALONE.mean(perplexity if seen else torch.ones_like(perplexity), teacher.rows)

    for name, other in others.items():
        held = definition.contrast(points, other, ALONE, scale=given.scale)
        out.terms[f"align/{name}"] = ALONE.mean(held.surprise, held.rows)
        out.figures[f"accuracy/align/{name}"] = ALONE.mean(held.hit.double(), held.rows)
        if given.bias is None:
            out.figures[f"reference/align/{name}"] = held.rows.sum().clamp(min=1).double().log()
        else:
            logits = given.scale * points.mine @ other.mine.T + given.bias
            costs = softplus(torch.where(torch.eye(len(logits)).bool(), -logits, logits))
            out.terms[f"align/{name}"] = ALONE.mean((costs * held.rows).sum(1), held.rows)
        out.figures[f"present/{name}"] = other.here.double().mean()
    taught = {name: related(other, other, given.intra[1], relations.diagonal) for name, other in others.items()}
    if given.share is not None:
        i, t = image.where(text), text.where(image)
        first, second = (related(x, x, given.intra[1], relations.diagonal) for x in (i, t))
        within = {"mixture": (points.where(i), definition.mixed(first, second, given.share))}
    else:
        within = {name: (points.where(others[name]), taught[name]) for name in others if relations.intra in ("both", name)}
    for name, (standing, teacher) in within.items():
        student = related(standing, standing, given.intra[0], relations.diagonal)
        out.terms[f"intra/{name}"], out.figures[f"reference/intra/{name}"] = compared(student, teacher)
        looked(f"intra/{name}", teacher, standing, relations.diagonal)
    for name, to in (("image", "text"), ("text", "image")):
        if relations.cross not in ("both", f"point_for_{name}"):
            continue
        standing, rows, columns = points.where(others[name]), others[name], others[to]
        there, back = related(rows, columns, given.cross[1], True), related(columns, rows, given.cross[1], True)
        forth = compared(related(standing, columns, given.cross[0], True), there)
        again = compared(related(columns, standing, given.cross[0], True), back)
        key = f"cross/point_for_{name}"
        out.terms[key], out.figures[f"reference/{key}"] = (forth[0] + again[0]) / 2, (forth[1] + again[1]) / 2
        looked(f"cross/{name}_to_{to}", there, columns, True)
        looked(f"cross/{to}_to_{name}", back, rows, True)
    return out


def slopes(total: Tensor, given: Given, *, keep: bool = False) -> dict[str, Tensor]:
    """The gradient of everything that is learnt, by name; zeros where the total does not depend on it."""
    leaves = given.learnt
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=keep)
    return {name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(leaves.items(), found, strict=True)}


def astray(got: Tensor, wanted: Tensor, least: float = 0.01) -> float:
    """‖got − wanted‖ over ‖wanted‖, or over `least` where that is more: what nearly cancels is not better than what it is made of."""
    assert torch.isfinite(wanted).all()
    return float((got.detach() - wanted.detach()).norm() / wanted.detach().norm().clamp(min=least))


def furthest(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Of the gradients: a scale, up to 100, times what logits are rounded to, 1e-14, is what is left of one that nearly cancels."""
    assert got.keys() == wanted.keys()
    assert all(got[name].shape == slope.shape for name, slope in wanted.items())
    return max(astray(got[name], slope, least=1.0) for name, slope in wanted.items())
