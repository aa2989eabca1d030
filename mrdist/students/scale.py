"""How a student's numbers follow its width: as they are (standard), or so that one learning rate suits every width (muP).

The maximal update parametrisation of Yang et al., *Tensor Programs V* (2022, arXiv 2203.03466), table 3, the columns for Adam, taken
relative to a base width at which both parametrisations are the same student. With m = dim / base_dim:

    weights                              first deviation   learning rate   weight decay
    of many inputs, to many (blocks)     1 / sqrt(m)       1 / m           m
    of many inputs, to few (the last)    1 / m             1 / m           m
    of few inputs (points, places)       1                 1               1
    vectors (biases, norms, tokens)      1                 1               0

Decoupled decay moves a weight by rate x decay, which is to stay the same (Wang & Aitchison 2024, arXiv 2405.13698). Where the channels
of a head grow, its logits are divided by their number, not by its root (definition 4.1 of Yang et al.). What counts as "many" are `dim`
and `hidden`, which are taken to grow together; the mini-PointNet and the embedding count as "few", whatever they are.
"""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """What blocks and the last product need to know; the defaults are the standard parametrisation."""

    growth: float = 1.0  # m
    attention: float | None = None  # factor on the logits of a head; None: torch's 1 / sqrt(channels)

    @classmethod
    def mup(cls, dim: int, heads: int, base_dim: int, base_heads: int) -> Scale:
        """Of a student of `dim` channels, relative to one of `base_dim`; `base_heads` 0: with as many channels per head."""
        each = dim / heads
        base = base_dim / base_heads if base_heads else each
        # At the base width nothing may change, not even the last bit.
        return cls(dim / base_dim, None if each == base else base**0.5 / each)


STANDARD = Scale()
