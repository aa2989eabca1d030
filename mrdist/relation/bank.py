"""A bank: the rows of a batch against a teacher's embeddings of the whole data set, which lie shared out over the ranks.

A teacher that is frozen need not be asked again, so that columns may be every shape there is, without staleness. With P, I, T the unit
rows of points, images and texts, i a row of the batch and j over the bank:

    (1) contrast    log(1 + Σ_{key_j ≠ key_i} e^{γ P_i·I_j} / e^{γ P_i·I_i})       I_i what the batch shows of its own shape
    (2) relation    D(softmax_j P_i·I_j / τ, softmax_j T_i·I_j / τ)                over all images, its own shape's too

and likewise over texts. Rows only: a column has no student to be compared with. Everyone's rows come to every rank, meet its part of the
bank tile by tile, and their sums go home (`schedule`: a grid of one line). Memory: rows · d and the part; nothing is rows · bank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrdist.errors import RecipeError
from mrdist.ranks import Ranks
from mrdist.relation.asked import CROSS
from mrdist.relation.bodies import Meant, backend
from mrdist.relation.field import NOBODY, Field, Problem, Visit, nothing
from mrdist.relation.quick import Contrast, Jeffrey, Kullback
from mrdist.relation.schedule import Block, Layout, blocks, even
from mrdist.relation.term import Term
from mrdist.relation.terms import Scale, Terms, Tiling, operands_of
from mrdist.relation.tile import Side, Tile
from mrdist.relation.tiled import Streamed
from mrdist.relation.travel import Board
from mrdist.relation.unit import unit

FORMS = {"jeffrey": Jeffrey, "kl": Kullback}
"""Divergences that a bank offers."""

MODALITIES = ("points", "image", "text")


class Bank(NamedTuple):
    """A rank's part of the bank, of equal length on all ranks; made by `of`."""

    image: Tensor  # [m, d] unit rows
    text: Tensor  # [m, d]
    has_image: Tensor  # [m] bool
    has_text: Tensor  # [m] bool
    keys: Tensor  # [m] int64: which shape

    @classmethod
    def of(cls, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor, keys: Tensor, ranks: Ranks) -> Self:
        """From my part, of any length: rows are normalised, and shorter parts end in rows that are absent. Every rank calls.

        Args:
            image: [m, d], a shape each; text likewise.
            has_image: [m] bool; has_text likewise.
            keys: [m] int64, which shape; no shape is in two parts.
        """
        short = int(ranks.largest(len(keys))) - len(keys)
        rows = (pad(unit(torch.where(here[:, None], held, 0.0)), (0, 0, 0, short)) for held, here in ((image, has_image), (text, has_text)))
        return cls(*rows, *(pad(held, (0, short)) for held in (has_image, has_text, keys)))


def bank_terms(
    points: Tensor,
    image: Tensor,
    text: Tensor,
    keys: Tensor,
    bank: Bank,
    *,
    scale: Scale,
    cross_scale: Scale | tuple[Scale, Scale] = 20.0,
    cross: str = "both",
    divergence: str = "jeffrey",
    has_image: Tensor | None = None,
    has_text: Tensor | None = None,
    ranks: Ranks | None = None,
    tiling: Tiling | None = None,
) -> Terms:
    """Contrast with, and relations to, all images and texts of a bank: means over the rows of all ranks.

    Gradients reach points and scales, in the convention of `relation_terms`; the teacher's rows and the bank are constants.

    Args:
        points: [b, d], the student's embeddings of my rows, any length.
        image: [b, d], the teacher's embeddings of the same shapes; text likewise.
        keys: [b] int64, which shapes they are.
        bank: my part.
        scale: of the contrast, 1 / temperature.
        cross_scale: 1 / τ of student and teacher in (2); or of each.
        cross: relations with points in place of: both | point_for_image | point_for_text | none.
        divergence: jeffrey | kl.
        has_image: [b] bool, which of my rows have an image; None: all. has_text likewise.
        ranks: the processes whose rows make up the batch and whose parts make up the bank.
        tiling: `block`, `compile` and `operands` count here; there is one mode, and torch computes it.

    Returns:
        Terms: "bank/image", "bank/text", "bank/point_for_image", "bank/point_for_text", as far as asked for.

    Raises:
        RecipeError: an unknown name, or widths that differ.
    """
    ranks, tiling = ranks or Ranks.alone(), tiling or Tiling()
    _fits(points, image, text, bank, cross, divergence)
    terms = _terms(cross, divergence)
    wide = torch.promote_types(points.dtype, torch.float32)
    operands = operands_of(tiling, {"points": points, "image": image, "text": text})
    given = [scale, *(cross_scale if isinstance(cross_scale, tuple) else (cross_scale, cross_scale))]
    scalars = [torch.as_tensor(value, dtype=wide, device=points.device) for value in given]
    flags = _flags((None, has_image, has_text), points)
    features = [unit(points.to(wide))]
    # What an absent row holds does not matter: it may be nan.
    features += [
        unit(torch.where(here[:, None] > 0, rows.detach().to(wide), 0.0)) for rows, here in zip((image, text), flags[1:], strict=True)
    ]
    there = _flags((None, bank.has_image, bank.has_text), bank.keys)
    counts = ranks.total(torch.stack([_count(rows, of) for term in terms for rows, of in ((flags, term.rows), (there, term.columns))]))
    counts = counts.view(-1, 2)
    whole = counts.new_tensor([len(points), len(bank.keys)]) * ranks.size
    problem = Problem(
        terms=terms,
        layout=Layout("grid", ranks.rank, ranks.size, ranks.size),
        ranks=ranks,
        block=even(len(points), tiling.block or (4096 if points.is_cuda else 256)),
        backend=backend("torch", tiling.compile, points.device, operands, pairs=len(points) * len(bank.keys) * ranks.size),
        flags=None if bool((counts == whole).all()) else flags,
        counts=counts,
        scalars=len(scalars),
        operands=operands,
    )
    # Cosines in bfloat16 at temperature 0.01 are off by 0.2 nats: no autocast in here.
    with torch.autocast(points.device.type, enabled=False):
        values, figures = Streamed.apply(Shelf(problem, scalars, features, keys, bank, there), *scalars, *features)  # type: ignore[no-untyped-call]
    named = [f"{figure}/{term.name}" for term in terms for figure in term.figures(0)]
    return Terms(values, tuple(term.name for term in terms), (counts > 0).all(1), dict(zip(named, figures, strict=True)))


class Shelf(Field):
    """Everyone's rows before my part of the bank."""

    def __init__(
        self, problem: Problem, scalars: Sequence[Tensor], features: Sequence[Tensor], keys: Tensor, bank: Bank, flags: Tensor
    ) -> None:
        super().__init__(problem, scalars, features)
        self._keys = problem.ranks.gather(keys).view(problem.ranks.size, -1)
        self._bank, self._flags = bank, flags.to(self.wide)

    def visits(self, known: Sequence[Tensor], boards: Sequence[Board] = (), *, back: bool = False) -> Iterator[Visit]:
        """One modality of the bank after the other: a tile takes images against texts for the mirror of texts against images."""
        vectors, places = self.packed(known)
        (station,) = self.travel.stations(vectors)
        side = cache(partial(self.side, station.rows, places))
        parts = blocks(NOBODY, len(self._bank.keys), even(len(self._bank.keys), self.problem.block))
        for k in (1, 2):
            over = tuple(place for place, slot in enumerate(self.slots) if self.term(slot).student[1] == k)
            for j in parts:
                columns = self._columns(k, j)
                for owner in station.rows:
                    for i in blocks(owner, len(self.mine[0]), self.problem.block):
                        rows, here = side(i)
                        apart = self._keys[owner, i.start : i.stop, None] != self._bank.keys[j.start : j.stop]
                        tile = Tile(rows, columns, self.scalars, apart=apart.to(self.wide))
                        meant = tuple(Meant(self.term(self.slots[place]), here[place], nothing(here[place], j)) for place in over)
                        yield Visit(tile, i, j, meant, over, both=False, takes=(True, False))

    def _columns(self, modality: int, at: Block) -> Side:
        rows = self._bank[modality - 1][at.start : at.stop].to(self.problem.operands)
        flags = None if self.problem.flags is None else self._flags[:, at.start : at.stop]
        # Only this modality is asked for; and nobody looks from a column, whose own product then may be anything.
        return Side((rows,) * len(MODALITIES), flags, {(0, modality): self._flags.new_zeros(len(rows))})

    def strange(self) -> tuple[Tensor, ...]:
        return self._bank.image, self._bank.text

    def columns(self) -> Side:
        return Side((self._bank.image,) * 2 + (self._bank.text,), None if self.problem.flags is None else self._flags, {})

    def untiled(self, coefficients: Sequence[Tensor]) -> dict[int, Tensor]:
        """Of each row with what the batch shows of its own shape, which is no column: −γ n_i / Z_i times that."""
        slope = self.scalars[0].new_zeros(self.mine[0].shape)
        for slot, of_rows in zip(self.slots, coefficients, strict=True):
            for _, k in self.term(slot).own:
                slope -= (self.scalars[0] * of_rows[-1]).to(self.wide)[:, None] * self.mine[k]
        return {0: slope}


@lru_cache
def _terms(cross: str, divergence: str) -> tuple[Term, ...]:
    """Scalars: 0 of the contrast, 1 and 2 of student and teacher in relations."""
    at = {name: k for k, name in enumerate(MODALITIES)}
    held: list[Term] = [Contrast(f"bank/{name}", (0, at[name]), (at[name],), (at[name],), 0, one_way=True) for name in ("image", "text")]
    for name, other in (("image", "text"), ("text", "image")):
        if cross in ("both", f"point_for_{name}"):
            k, to = at[name], at[other]
            held.append(FORMS[divergence](f"bank/point_for_{name}", (0, to), (k,), (to,), ((k, to),), True, 1, 2, one_way=True))
    return tuple(held)


def _flags(has: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """[modalities, n] float64; None: everyone."""
    ones = torch.ones(len(like), dtype=torch.float64, device=like.device)
    return torch.stack([ones if here is None else here.to(ones) for here in has])


def _count(flags: Tensor, modalities: Sequence[int]) -> Tensor:
    return flags[list(modalities)].prod(0).sum()


def _fits(points: Tensor, image: Tensor, text: Tensor, bank: Bank, cross: str, divergence: str) -> None:
    """Raises RecipeError where names are unknown or widths differ."""
    for key, got, allowed in (("cross", cross, CROSS), ("divergence", divergence, tuple(FORMS))):
        if got not in allowed:
            raise RecipeError(what=f"bank {key}", got=repr(got), wanted=f"one of {', '.join(allowed)}", try_=f"{key}={allowed[0]}")
    for name, rows in (("image", image), ("text", text), ("bank", bank.image), ("bank", bank.text)):
        if rows.shape[-1] != points.shape[-1]:
            wanted = f"{points.shape[-1]} numbers per row, as the points'"
            raise RecipeError(what=name, got=f"{rows.shape[-1]} numbers per row", wanted=wanted, try_="one teacher for batch and bank")
