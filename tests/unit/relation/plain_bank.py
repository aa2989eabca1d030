"""What a bank and a queue must say, by plain autograd over all columns at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.ranks import Ranks
from mrdist.relation import definition
from mrdist.relation.asked import Relations
from mrdist.relation.bank import Bank, bank_terms
from mrdist.relation.definition import ABSENT, Modality, Relation
from mrdist.relation.queue import Queue
from mrdist.relation.terms import Terms, Tiling, relation_terms
from tests.unit.relation.plain_terms import ALONE, Given


class Whole(NamedTuple):
    """All shapes of a data set; the first of them are the batch's, in another order."""

    image: Tensor
    text: Tensor
    has_image: Tensor
    has_text: Tensor
    keys: Tensor

    def part(self, ranks: Ranks) -> Bank:
        """What one rank holds of it: the last has less."""
        each = -(-len(self.keys) // ranks.size)
        return Bank.of(*(held[ranks.rank * each : (ranks.rank + 1) * each] for held in self), ranks)


def whole(shapes: int, width: int = 5, *, seed: int = 0, complete: bool = True) -> Whole:
    """A random data set in float64; unless `complete`, every fifth shape has no image and every third no text."""
    chance = torch.Generator().manual_seed(seed + 1000)
    image, text = torch.randn(2, shapes, width, dtype=torch.float64, generator=chance)
    at = torch.arange(shapes)
    has_image, has_text = at % 5 != (0 if not complete else 9), at % 3 != (1 if not complete else 9)
    return Whole(image, text, has_image, has_text, torch.randperm(shapes, generator=chance) + 10**15)


def keys_of(held: Whole, rows: int) -> Tensor:
    """Which shapes a batch of `rows` shows: some from everywhere."""
    return held.keys[torch.arange(rows) * (len(held.keys) - 1) // max(rows - 1, 1)]


def banked(given: Given, held: Whole, ranks: Ranks = ALONE, tiling: Tiling | None = None, **options: str) -> Terms:
    """What is under test, of my rows."""
    keys = keys_of(held, len(given.points) * ranks.size)
    mine = slice(ranks.rank * len(given.points), (ranks.rank + 1) * len(given.points))
    return bank_terms(
        given.points,
        given.image,
        given.text,
        keys[mine],
        held.part(ranks),
        scale=given.scale,
        cross_scale=given.cross,
        has_image=given.has_image,
        has_text=given.has_text,
        ranks=ranks,
        tiling=tiling or Tiling(compile="never"),
        **options,  # type: ignore[arg-type]
    )


def plain_bank(given: Given, held: Whole, divergence: str = "jeffrey") -> dict[str, Tensor]:
    """Every term of the whole batch by its softmax over the whole bank; the teacher's rows are constants."""
    points = normalize(given.points, dim=-1)
    rows = {"image": given.image.detach(), "text": given.text.detach()}
    rows = {name: normalize(value, dim=-1) for name, value in rows.items()}
    here = {"image": given.has_image, "text": given.has_text}
    columns = {"image": normalize(held.image, dim=-1), "text": normalize(held.text, dim=-1)}
    there = {"image": held.has_image, "text": held.has_text}
    other_shape = keys_of(held, len(points))[:, None] != held.keys
    out = {}
    for name in ("image", "text"):
        others = torch.where(there[name] & other_shape, given.scale * points @ columns[name].T, ABSENT)
        own = given.scale * (points * rows[name]).sum(-1, keepdim=True)
        cost = -torch.cat([own, others], 1).log_softmax(-1)[:, 0]
        out[f"bank/{name}"] = ALONE.mean(cost, here[name])
    for name, to in (("image", "text"), ("text", "image")):
        student, teacher = (
            Relation(torch.where(there[to], scale * value @ columns[to].T, ABSENT).log_softmax(-1), here[name])
            for value, scale in zip((points, rows[name]), given.cross, strict=True)
        )
        out[f"bank/point_for_{name}"] = ALONE.mean(definition.divergence(student, teacher, divergence), here[name])
    return out


def filled(given: Given, rows: int, *, seed: int = 0, complete: bool = False) -> Queue:
    """A queue that earlier batches have filled, but for its end and what they lacked."""
    chance = torch.Generator().manual_seed(seed + 2000)
    held = Queue(*(torch.zeros(rows, given.points.shape[1], dtype=torch.float64) for _ in range(3)), *torch.zeros(2, rows).bool())
    old = rows if complete else rows - 2
    some = (torch.randn(old, given.points.shape[1], dtype=torch.float64, generator=chance) for _ in range(3))
    at = torch.arange(old)
    held.push(*some, at % 4 != (9 if complete else 0), at % 3 != (9 if complete else 1), ALONE)
    return held


def queued(given: Given, relations: Relations, queue: Queue, ranks: Ranks = ALONE, tiling: Tiling | None = None) -> Terms:
    """What is under test, of my rows."""
    return relation_terms(
        given.points,
        given.image,
        given.text,
        scale=given.scale,
        relations=relations,
        intra_scale=given.intra,
        cross_scale=given.cross,
        share=given.share,
        queue=queue,
        has_image=given.has_image,
        has_text=given.has_text,
        ranks=ranks,
        tiling=tiling or Tiling(compile="never"),
    )


def plain_queue(given: Given, relations: Relations, queue: Queue) -> dict[str, Tensor]:
    """The relations within modalities, over batch and queue."""

    def longer(held: Modality, old: Tensor, there: Tensor) -> Modality:
        return Modality(held.mine, torch.cat([held.all, old]), held.here, torch.cat([held.there, there]))

    everyone = torch.ones_like(given.has_image)
    points, image, text = (
        Modality.of(normalize(rows, dim=-1), here, ALONE)
        for rows, here in ((given.points, everyone), (given.image, given.has_image), (given.text, given.has_text))
    )

    def within(rows: Modality, old: Tensor, there: Tensor, scale: Tensor) -> definition.Related:
        columns = longer(rows, old, there)
        kind = relations.representation
        return definition.related(rows, columns, ALONE, representation=kind, temperature=1 / scale, self_too=relations.diagonal)

    if given.share is not None:
        image, text, there = image.where(text), text.where(image), queue.has_image & queue.has_text
        taught = [within(m, old, there, given.intra[1]) for m, old in ((image, queue.image), (text, queue.text))]
        pairs = {"mixture": (image, there, definition.mixed(taught[0], taught[1], given.share))}
    else:
        pairs = {
            name: (m, there, within(m, old, there, given.intra[1]))
            for name, m, old, there in (("image", image, queue.image, queue.has_image), ("text", text, queue.text, queue.has_text))
        }
    out = {}
    for name, (modality, there, teacher) in pairs.items():
        student = within(points.where(modality), queue.points, there, given.intra[0])
        out[f"intra/{name}"] = ALONE.mean(definition.divergence(student, teacher, relations.divergence), teacher.rows)
    return out
