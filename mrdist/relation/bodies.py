"""What is computed of one tile, and by what: plain torch, compiled or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.relation import kernels
from mrdist.relation.term import Slopes, Sums, Term, Wanted
from mrdist.relation.tile import Product, Side, Tile


class Meant(NamedTuple):
    """A term at a tile, with the numbers that came with the rows and the columns."""

    term: Term
    rows: Tensor  # [k, m]
    columns: Tensor  # [k, n]


class Backend(ABC):
    """Computes tiles."""

    @abstractmethod
    def sums(self, tile: Tile, meant: Sequence[Meant], sweep: int, *, both: bool) -> list[Sums]:
        """What the tile adds to each term's sums; `both`: also to the columns of terms within one modality."""

    @abstractmethod
    def slopes(self, tile: Tile, meant: Sequence[Meant], wanted: Wanted) -> Slopes:
        """The gradient of all terms together by the tile's cosines."""


class Eager(Backend):
    """Plain torch, operation by operation."""

    def sums(self, tile: Tile, meant: Sequence[Meant], sweep: int, *, both: bool) -> list[Sums]:
        return [m.term.sums(tile, sweep, m.rows, m.columns, both=both or m.term.directions == 2) for m in meant]

    def slopes(self, tile: Tile, meant: Sequence[Meant], wanted: Wanted) -> Slopes:
        whole = Slopes({}, {})
        for m in meant:
            part = m.term.slopes(tile, m.rows, m.columns, wanted)
            for product, slope in part.cosines.items():
                whole.add(product, slope)
            for place, moved in part.scalars.items():
                whole.move(place, moved)
        return whole


class Compiled(Backend):
    """The same functions through torch.compile: what is elementwise is read and written once."""

    def sums(self, tile: Tile, meant: Sequence[Meant], sweep: int, *, both: bool) -> list[Sums]:
        run = _compiled_sums(tuple(m.term for m in meant), sweep, both)
        return run(*_inputs(tile, meant))

    def slopes(self, tile: Tile, meant: Sequence[Meant], wanted: Wanted) -> Slopes:
        run = _compiled_slopes(tuple(m.term for m in meant), wanted, tile.counted)
        return run(*_inputs(tile, meant))


class _Inputs(NamedTuple):
    """A tile and what is meant by it, as tensors: what a compiled function is given."""

    cosines: dict[Product, Tensor]
    rows: Side
    columns: Side
    scalars: Sequence[Tensor]
    apart: Tensor | None
    vectors: list[tuple[Tensor, Tensor]]


def _inputs(tile: Tile, meant: Sequence[Meant]) -> _Inputs:
    products = dict.fromkeys(product for m in meant for product in m.term.products)
    return _Inputs(
        {product: tile.cosines(product) for product in products},
        tile.rows._replace(features=()),
        tile.columns._replace(features=()),
        tile.scalars,
        tile.apart,
        [(m.rows, m.columns) for m in meant],
    )


@lru_cache
def _compiled_sums(terms: tuple[Term, ...], sweep: int, both: bool) -> Callable[..., list[Sums]]:
    def run(*inputs: Any) -> list[Sums]:
        given = _Inputs(*inputs)
        tile = Tile(given.rows, given.columns, given.scalars, apart=given.apart).given(given.cosines)
        return Eager().sums(tile, [Meant(term, *v) for term, v in zip(terms, given.vectors, strict=True)], sweep, both=both)

    return torch.compile(run, dynamic=False)


@lru_cache
def _compiled_slopes(terms: tuple[Term, ...], wanted: Wanted, counted: tuple[float, float]) -> Callable[..., Slopes]:
    def run(*inputs: Any) -> Slopes:
        given = _Inputs(*inputs)
        tile = Tile(given.rows, given.columns, given.scalars, apart=given.apart, counted=counted).given(given.cosines)
        return Eager().slopes(tile, [Meant(term, *v) for term, v in zip(terms, given.vectors, strict=True)], wanted)

    return torch.compile(run, dynamic=False)


COMPILE_PAYS = 1 << 24
"""Pairs per rank from which compiled tiles repay, within some steps, the time that compiling takes on a CPU."""


def check_backend(name: str, compiled: str) -> None:
    """Refuse unknown names.

    Raises:
        RecipeError: one of them is.
    """
    for what, got, allowed in (("backend", name, ("auto", "torch", "triton")), ("compile", compiled, ("auto", "never", "always"))):
        if got not in allowed:
            raise RecipeError(what=f"relation {what}", got=repr(got), wanted=f"one of {', '.join(allowed)}", try_=f"{what}=auto")


def backend(name: str, compiled: str, device: torch.device, operands: torch.dtype, *, pairs: int) -> Backend:
    """What computes tiles.

    Args:
        name: auto | torch | triton; auto takes Triton's kernels for half-precision operands on a GPU that can run them.
        compiled: auto | never | always; auto compiles on a GPU, and on a CPU where a rank has many pairs.
        pairs: rows of mine times columns of all.

    Raises:
        RecipeError: an unknown name; Triton asked for where it cannot run.
    """
    check_backend(name, compiled)
    compiles = compiled == "always" or (compiled == "auto" and (device.type == "cuda" or pairs >= COMPILE_PAYS))
    plain = Compiled() if compiles else Eager()
    able = kernels.available(device)
    if name == "triton" and not able:
        raise RecipeError(
            what="relation backend",
            got=f"triton on {device.type}",
            wanted="an NVIDIA GPU of compute capability 8.0 or more, and triton installed",
            try_="backend=auto",
        )
    if name == "triton" or (name == "auto" and able and operands.itemsize == 2):
        from mrdist.relation.fused import Fused

        return Fused(plain)
    return plain
