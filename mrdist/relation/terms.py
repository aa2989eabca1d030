"""The terms of relation distillation over the global batch, exactly and at any size: the door to this package.

    terms = relation_terms(points, image, text, scale=logit_scale.exp(), ranks=Ranks.from_environment())
    (weights * terms.values).sum().backward()

Works with any student and any trainer: it takes embeddings and gives numbers. With `image` alone it is the loss of CLIP. The equations
stand in `definition`, which is also what every line here is tested against; how it is computed is in `tiled`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.ranks import Ranks
from mrdist.relation.asked import NONE, Asked, Relations, asked
from mrdist.relation.bodies import backend, check_backend
from mrdist.relation.field import Field, Problem
from mrdist.relation.moments import Squared
from mrdist.relation.queue import Queue
from mrdist.relation.schedule import Layout, check_mode, choose, even
from mrdist.relation.term import Term
from mrdist.relation.tile import Side
from mrdist.relation.tiled import Streamed
from mrdist.relation.unit import unit

logger = logging.getLogger(__name__)

OPERANDS = ("input", "float32", "bfloat16")

Scale: TypeAlias = float | Tensor
"""1 / temperature: a number, or a tensor of one number that may be learnt."""


@dataclass(frozen=True)
class Tiling:
    """How the work is cut up and shared; nothing here changes a result beyond rounding."""

    mode: str = "auto"  # auto | row | pair | ring | grid: see `schedule`
    block: int = 0  # rows and columns of a tile; 0: 256 on a CPU, 4096 on a GPU
    backend: str = "auto"  # auto | torch | triton
    compile: str = "auto"  # auto | never | always: torch.compile for tiles that torch computes
    operands: str = "input"  # input (half precision if all embeddings are) | float32 | bfloat16: what matrix products read

    def check(self) -> None:
        """Refuse names that nobody knows.

        Raises:
            RecipeError: there is one.
        """
        check_mode(self.mode)
        check_backend(self.backend, self.compile)
        _check_operands(self.operands)


class Terms(NamedTuple):
    """What a batch costs: the same on every rank."""

    values: Tensor  # [K], differentiable; float32, or float64 if the embeddings are
    names: tuple[str, ...]  # [K]: "align/image", "intra/text", "cross/point_for_image", ..
    present: Tensor  # [K] bool: whether the batch has any row and column for it
    figures: dict[
        str, Tensor
    ]  # 0-dim, detached: "accuracy/..", "reference/.." (what an ignorant student pays), "perplexity/..", "present/.."


def relation_terms(
    points: Tensor,
    image: Tensor | None = None,
    text: Tensor | None = None,
    *,
    scale: Scale,
    relations: Relations = NONE,
    intra_scale: Scale | tuple[Scale, Scale] = 10.0,
    cross_scale: Scale | tuple[Scale, Scale] = 20.0,
    share: Tensor | None = None,
    bias: Scale | None = None,
    queue: Queue | None = None,
    has_image: Tensor | None = None,
    has_text: Tensor | None = None,
    ranks: Ranks | None = None,
    tiling: Tiling | None = None,
) -> Terms:
    """Contrast of points with images and texts, and the relation terms asked for, as means over the rows of all ranks.

    Gradients reach every input that requires one, scales too. They follow the convention of data-parallel training: the mean over ranks
    of a parameter's gradients is the gradient of the terms as they stand, however many ranks there are.

    Args:
        points: [b, d], the student's embeddings of my rows; any floating dtype, any length: rows are normalised here.
        image: [b, d], the teacher's embeddings of the same shapes; None: no such terms.
        text: [b, d], likewise.
        scale: of the contrast, 1 / temperature. Published values reach 100.
        relations: which relation terms; none by default.
        intra_scale: 1 / τ_ψ of student and teacher; or of each.
        cross_scale: 1 / τ_φ, likewise.
        share: [1] or 0-dim, within 0..1: mixes both teachers' intra-relations into one, this much of the images'.
        bias: β of a sigmoid contrast (SigLIP; starts at about −10, with `scale` at about 10); None: the softmax contrast.
        queue: rows of earlier batches: further columns, without gradient, of relations within a modality.
        has_image: [b] bool, which of my rows have an image; None: all. What an absent row holds does not matter.
        has_text: [b] bool, likewise.
        ranks: the processes whose rows make up the batch, as many on each; None: this one alone.
        tiling: how the work is done; None: as seems best.

    Returns:
        Terms: `values` in the order of `names`.

    Raises:
        RecipeError: shapes that do not fit, an unknown name, a relation without its modality.

    Source: equations (1)-(5) of `mrdist.relation.definition`, after arXiv 2407.14007.
    """
    ranks, tiling = ranks or Ranks.alone(), tiling or Tiling()
    relations.check()
    held = {name: rows for name, rows in (("points", points), ("image", image), ("text", text)) if rows is not None}
    has = {"points": None, "image": has_image, "text": has_text}
    _fits(held, has, relations, share)
    terms = asked(tuple(held), relations, mixed=share is not None, sigmoid=bias is not None)
    scalars = _scalars(scale, intra_scale, cross_scale, share, bias, like=points)
    wide = torch.promote_types(points.dtype, torch.float32)
    operands = operands_of(tiling, held)
    features = [unit(_cleared(rows, has[name]).to(wide)) for name, rows in held.items()]
    rows, width = points.shape
    earlier = None if queue is None else queue.columns(tuple(held), width, operands)
    flags, counts = _present(terms, held, has, ranks, earlier)
    mode = choose(tiling.mode, rows=rows, width=width, bytes_each=operands.itemsize, size=ranks.size)
    _say(f"relations of {rows * ranks.size} rows on {ranks.size} ranks: mode {mode.name} ({mode.why})")
    problem = Problem(
        terms=tuple(term for term in terms if isinstance(term, Term)),
        layout=Layout(mode.name, ranks.rank, ranks.size, mode.files),
        ranks=ranks,
        block=even(rows, tiling.block or (4096 if points.is_cuda else 256)),
        backend=backend(tiling.backend, tiling.compile, points.device, operands, pairs=rows * rows * ranks.size),
        flags=flags,
        counts=counts[[isinstance(term, Term) for term in terms] + [False] * len(held)],
        scalars=len(scalars),
        operands=operands,
        queue=earlier,
    )
    # Cosines in bfloat16 at temperature 0.01 are off by 0.2 nats: no autocast in here.
    with torch.autocast(points.device.type, enabled=False):
        streamed, figures = Streamed.apply(Field(problem, scalars, features), *scalars, *features)  # type: ignore[no-untyped-call]
        squared = {term.name: term.value(features, flags, scalars, ranks, earlier) for term in terms if isinstance(term, Squared)}
    values = {term.name: value for term, value in zip(problem.terms, streamed, strict=True)} | {name: v for name, (v, _) in squared.items()}
    named = _named(problem.terms, figures) | {f"reference/{name}": r for name, (_, r) in squared.items()}
    shares = {
        f"present/{name}": n / (rows * ranks.size)
        for name, n in zip(held, counts[-len(held) :, 0].to(wide), strict=True)
        if name != "points"
    }
    present = (counts[: len(terms)] > 0).all(1)
    names = tuple(term.name for term in terms)
    return Terms(torch.stack([values[name] for name in names]), names, present, named | shares)


def contrastive(
    a: Tensor, b: Tensor, *, scale: Scale, bias: Scale | None = None, ranks: Ranks | None = None, tiling: Tiling | None = None
) -> Tensor:
    """The symmetric contrast of two towers alone, 0-dim: the loss of CLIP, or with `bias` that of SigLIP. Both towers get gradients.

    Args and Raises: as `relation_terms`, with `a` [b, d] in place of points and `b` [b, d] of image.
    """
    return relation_terms(a, b, scale=scale, bias=bias, ranks=ranks, tiling=tiling).values[0]


def _fits(held: dict[str, Tensor], has: dict[str, Tensor | None], relations: Relations, share: Tensor | None) -> None:
    """Raises RecipeError where embeddings, relations and the share do not go together."""
    shape = held["points"].shape
    for name, rows in held.items():
        if rows.dim() != 2 or rows.shape != shape or not rows.is_floating_point():
            raise RecipeError(
                what=name,
                got=f"{tuple(rows.shape)} of {rows.dtype}",
                wanted=f"floating [b, d], {tuple(shape)} as the points'",
                try_="give every modality one embedding per shape, all of one width",
            )
    for name, here in has.items():
        if here is not None and (here.shape != shape[:1] or here.dtype != torch.bool):
            got = f"{tuple(here.shape)} of {here.dtype}"
            raise RecipeError(what=f"has_{name}", got=got, wanted=f"bool {tuple(shape[:1])}", try_=f"one flag per row of {name}")
    wanted = {name for name in ("image", "text") if relations.intra in ("both", name)} if share is None else {"image", "text"}
    if relations.cross != "none":
        wanted = {"image", "text"}
    if not wanted <= held.keys():
        got = f"relations that need {' and '.join(sorted(wanted))}, and embeddings of {' and '.join(held)}"
        raise RecipeError(what="relations", got=got, wanted="both", try_="leave the relation out: intra or cross")
    if len(held) == 1:
        raise RecipeError(what="embeddings", got="points alone", wanted="image or text beside them", try_="give image=..")
    if share is not None and relations.intra != "both":
        raise RecipeError(what="share", got=f"intra={relations.intra}", wanted="intra=both, to mix", try_="share=None")


def operands_of(tiling: Tiling, held: dict[str, Tensor]) -> torch.dtype:
    """What matrix products read, of these embeddings.

    Raises:
        RecipeError: there is no such choice.
    """
    widest = reduce(torch.promote_types, (rows.dtype for rows in held.values()))
    wide = torch.promote_types(held["points"].dtype, torch.float32)
    known = {"input": widest if widest.itemsize == 2 else wide, "float32": wide, "bfloat16": torch.bfloat16}
    _check_operands(tiling.operands)
    return known[tiling.operands]


def _check_operands(name: str) -> None:
    if name not in OPERANDS:
        raise RecipeError(what="operands", got=repr(name), wanted=f"one of {', '.join(OPERANDS)}", try_="operands=input")


def _cleared(rows: Tensor, has: Tensor | None) -> Tensor:
    """Rows with zeros where there is nothing: what lies there may be nan, and nan times 0 is nan."""
    return rows if has is None else torch.where(has[:, None], rows, 0.0)


def _scalars(
    scale: Scale,
    intra: Scale | tuple[Scale, Scale],
    cross: Scale | tuple[Scale, Scale],
    share: Tensor | None,
    bias: Scale | None,
    like: Tensor,
) -> list[Tensor]:
    """In the order of their places (`asked`); 0 where there is none."""
    pairs = [given if isinstance(given, tuple) else (given, given) for given in (intra, cross)]
    given = [scale, *pairs[0], *pairs[1], 0.0 if share is None else share, 0.0 if bias is None else bias]
    wide = torch.promote_types(like.dtype, torch.float32)
    return [torch.as_tensor(value, dtype=wide, device=like.device) for value in given]


def _present(
    terms: Sequence[Asked], held: dict[str, Tensor], has: dict[str, Tensor | None], ranks: Ranks, queue: Side | None
) -> tuple[Tensor | None, Tensor]:
    """Flags [modalities, b], None where nobody lacks anything; and how many rows of all ranks count, [terms + modalities, 2]."""
    points = held["points"]
    flags = torch.ones(len(held), len(points), dtype=torch.float64, device=points.device)
    for k, name in enumerate(held):
        here = has.get(name)
        if here is not None:
            flags[k] = here.to(points.device)
    needs = [[term.needs(d) for d in (0, 1)] for term in terms] + [[(k,), (k,)] for k in range(len(held))]
    counts = ranks.total(torch.stack([torch.stack([flags[list(need)].prod(0).sum() for need in both]) for both in needs]))
    # One look at the numbers saves every tile its masks.
    everything = all(here is None for here in has.values()) or bool((counts == len(points) * ranks.size).all())
    full = queue is None or queue.flags is None or bool(queue.flags.all())
    return None if everything and full else flags, counts


def _named(terms: Sequence[Term], figures: Tensor) -> dict[str, Tensor]:
    """Figures by name: those of a term's two directions are one, their mean, but for what belongs to a direction's teacher alone."""
    held: dict[str, Tensor] = {}
    values = iter(figures)
    for term in terms:
        by_direction = [{name: next(values) for name in term.figures(d)} for d in range(term.directions)]
        for name in term.figures(0):
            if name == "perplexity" and term.directions == 2:
                there, back = ("image_to_text", "text_to_image") if term.name.endswith("image") else ("text_to_image", "image_to_text")
                held[f"perplexity/cross/{there}"], held[f"perplexity/cross/{back}"] = (figure[name] for figure in by_direction)
            elif name == "accuracy":
                held[f"accuracy/{term.name}"] = by_direction[0][name]
            else:
                held[f"{name}/{term.name}"] = torch.stack([figure[name] for figure in by_direction]).mean()
    return held


@lru_cache
def _say(what: str) -> None:
    """Log something once."""
    logger.info(what)
