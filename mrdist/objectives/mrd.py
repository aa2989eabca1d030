"""Multi-modal relation distillation: the student learns how the teacher's images and texts relate across the whole batch.

A re-implementation of the *published description* of MRD (ECCV 2024, arXiv 2407.14007). The weighting scheme, the temperatures, the
coefficients, the exact cross term and the treatment of the diagonal are not public: each is a named option here, and its default is
our choice. The equations stand in `mrdist.relation.definition`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.objectives.parts.scale import Scale
from mrdist.objectives.parts.study import Store, bank_of, keys_of
from mrdist.objectives.parts.weights import Fixed, Share, Softmax, Uncertainty, Weights
from mrdist.ranks import Ranks
from mrdist.relation.asked import CROSS, INTRA, Relations
from mrdist.relation.bank import FORMS, Bank, bank_terms
from mrdist.relation.definition import REPRESENTATIONS, Modality, Related, Relation, related
from mrdist.relation.queue import Queue
from mrdist.relation.terms import Terms, Tiling, relation_terms
from mrdist.shapes import TripletBatch
from mrdist.students.base import Student

WEIGHTING = ("uncertainty", "softmax", "mixture", "fixed")


@dataclass(frozen=True)
class MRDConfig(Part):
    """What MRD leaves to choose; `intra: none` and `cross: none` together are alignment alone."""

    kind: str = "mrd"
    intra: str = "both"  # relations among shapes, drawn to those of: both | image | text | none
    cross: str = "both"  # relations between modalities, with points in place of: both | point_for_image | point_for_text | none
    representation: str = "similarity"  # what a relation is: similarity | distance | cosine
    divergence: str = "jeffrey"  # of similarities: jeffrey | kl | js; of distances and cosines: l1 | l2 | huber
    diagonal: bool = False  # whether a shape relates to itself in intra-relations
    align_temperature: float = 0.07  # of the contrast, at the start; it is learnt
    align_limit: float = 100.0  # largest 1 / temperature of the contrast
    intra_temperature: float = 0.1  # τ_ψ, of student and teacher: aim at a perplexity of 10 to 50
    cross_temperature: float = 0.05  # τ_φ, of student and teacher
    weighting: str = "uncertainty"  # between the relation terms: uncertainty (D1) | softmax (D2) | mixture (D3) | fixed
    limit: float = 3.0  # uncertainty: weights stay within e^-limit and e^limit
    floor: float = 0.1  # softmax: smallest weight; mixture: smallest share of a teacher
    entropy: float = 0.1  # softmax: bonus for even weights, in mean terms
    fixed: tuple[float, float, float] = (1.0, 1.0, 1.0)  # fixed: weights of intra/image, intra/text, cross
    relations: float = 1.0  # λ, of all relation terms together
    warmup: int = 100  # steps in which λ grows from 0
    bank: float = 0.0  # (ours) weight of terms against all shapes of the training split (`relation.bank`); 0 = none
    queue: int = 0  # (ours) rows of earlier batches that are further columns of intra-relations (`relation.queue`)
    tiling: Tiling = field(default_factory=Tiling)  # how the terms are computed; changes no result

    needs: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    def check(self, recipe: object = None) -> None:
        """Refuse what does not exist or does not fit.

        Raises:
            RecipeError: an option of an unknown name, a divergence of another representation, a number out of its range.
        """
        for key, allowed in (
            ("intra", INTRA),
            ("cross", CROSS),
            ("representation", tuple(REPRESENTATIONS)),
            ("divergence", REPRESENTATIONS.get(self.representation, ())),
            ("weighting", WEIGHTING),
            ("intra", ("both",) if self.weighting == "mixture" else INTRA),
        ):
            if getattr(self, key) not in allowed:
                wanted = f"one of {', '.join(allowed)}"
                raise RecipeError(what=f"objective.{key}", got=getattr(self, key), wanted=wanted, try_=f"objective.{key}={allowed[0]}")
        for key in ("align_temperature", "align_limit", "intra_temperature", "cross_temperature", "limit"):
            if getattr(self, key) <= 0:
                raise RecipeError(what=f"objective.{key}", got=getattr(self, key), wanted="more than 0", try_=f"objective.{key}=0.1")
        if not 0 < self.floor < 0.5:
            raise RecipeError(what="objective.floor", got=self.floor, wanted="between 0 and 0.5", try_="objective.floor=0.1")
        for key in ("bank", "queue"):
            if getattr(self, key) < 0:
                raise RecipeError(what=f"objective.{key}", got=getattr(self, key), wanted="0 (none) or more", try_=f"objective.{key}=0")
        if self.bank and self.divergence not in FORMS:
            wanted = f"one of {', '.join(FORMS)}, where there is a bank"
            raise RecipeError(what="objective.divergence", got=self.divergence, wanted=wanted, try_="objective.bank=0")
        self.tiling.check()
        if self.queue and self.intra == "none":
            wanted = "intra-relations, where there is a queue of columns for them"
            raise RecipeError(what="objective.intra", got=self.intra, wanted=wanted, try_="objective.queue=0")

    def build(self, student: Student) -> MRD:
        """The objective around a student.

        Raises:
            RecipeError: as `check`.
        """
        self.check()
        return MRD(student, self)


class MRD(Objective[TripletBatch]):
    """align + λ Σ_k w_k L_k, k over intra/image, intra/text (or their mixture) and cross; and `bank` times the terms of a bank.

    All that follows the student is float32, or float64 if the student is. Terms are named "align/..", "intra/..", "cross/..", "bank/..";
    figures "reference/.." (what an ignorant student would pay), "weight/..", "perplexity/.." (of teacher rows), "accuracy/..",
    "temperature/..", "present/..".
    """

    needs = MRDConfig.needs

    def __init__(self, student: Student, config: MRDConfig) -> None:
        super().__init__()
        self.student: Student = student
        self.config = config
        self.scale = Scale(config.align_temperature, config.align_limit)
        self.groups = _groups(config)
        self.weights = _weights(config, tuple(self.groups))
        self.share = Share(config.floor) if config.weighting == "mixture" and "intra" in self.groups else None
        self.strength = config.relations
        self._bank: Bank | None = None
        self._newest: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None  # rows of the step at hand, on their way to the queue
        for name, held in Queue.empty(config.queue, student.width)._asdict().items() if config.queue else ():
            self.register_buffer(f"queue_{name}", held)

    def study(self, store: Store, ranks: Ranks, device: torch.device) -> None:
        """Read the bank, if there is to be one."""
        if self.config.bank:
            self._bank = bank_of(store, "train", ranks, device)

    def after_step(self, ranks: Ranks, step: int) -> None:
        """Let the rows of this step into the queue."""
        queue, newest, self._newest = self._queue(), self._newest, None
        if queue is not None and newest is not None:
            queue.push(*newest, ranks)

    def _queue(self) -> Queue | None:
        return Queue(*(self.get_buffer(f"queue_{name}") for name in Queue._fields)) if self.config.queue else None

    def at_step(self, step: int, steps: int) -> None:
        """Warm λ up: relations of a random geometry teach nothing."""
        self.strength = self.config.relations * min(1.0, step / max(self.config.warmup, 1))

    def embed(self, batch: TripletBatch) -> Tensor:
        """[b, E], of my rows' clouds."""
        embedding: Tensor = self.student(batch.xyz, batch.rgb, batch.keys).embedding
        return embedding

    def compare(self, embedding: Tensor, batch: TripletBatch, ranks: Ranks) -> Loss:
        """The loss of my rows, compared with everyone's.

        Raises:
            RecipeError: the teacher's embeddings are not as wide as the student's.
        """
        if embedding.shape[-1] != batch.image.shape[-1]:
            raise RecipeError(
                what="student",
                got=f"embeddings of {embedding.shape[-1]} numbers",
                wanted=f"{batch.image.shape[-1]}, as the teacher's",
                try_="build the student with the teacher's width",
            )
        options = self.config
        like = embedding.new_empty(0, dtype=torch.promote_types(embedding.dtype, torch.float32))
        scale = self.scale(like, ranks)
        share = self.share(like, ranks) if self.share is not None else None
        held = relation_terms(
            embedding,
            batch.image,
            batch.text,
            scale=scale,
            relations=Relations(options.intra, options.cross, options.representation, options.divergence, options.diagonal),
            intra_scale=1 / options.intra_temperature,
            cross_scale=1 / options.cross_temperature,
            share=share,
            queue=self._queue(),
            has_image=batch.has_image,
            has_text=batch.has_text,
            ranks=ranks,
            tiling=options.tiling,
        )
        terms = dict(zip(held.names, held.values.unbind(), strict=True))
        total = terms["align/image"] + terms["align/text"]
        figures = held.figures | {"temperature/align": 1 / scale.detach()[0]}
        if options.queue:
            self._newest = (embedding.detach(), batch.image, batch.text, batch.has_image, batch.has_text)
        if options.bank:
            beyond = self._against_bank(embedding, batch, scale, ranks)
            terms |= dict(zip(beyond.names, beyond.values.unbind(), strict=True))
            total, figures = total + options.bank * beyond.values.sum(), figures | beyond.figures
        if self.weights is not None:
            weighted = self.weights(*self._grouped(held), ranks)
            total = total + self.strength * weighted.total
            figures |= {f"weight/{group}": w for group, w in zip(self.groups, weighted.weights, strict=True)}
            figures |= {"weight/price": weighted.price, "weight/relations": total.new_tensor(self.strength)}
            if share is not None:
                figures["weight/mixture"] = share.detach()[0]
        # Nothing here is a rank's own share: all of it is global already.
        return Loss(total, {name: value.detach() for name, value in terms.items()}, figures)

    def _against_bank(self, embedding: Tensor, batch: TripletBatch, scale: Tensor, ranks: Ranks) -> Terms:
        """The row terms against all shapes.

        Raises:
            RecipeError: nobody has called `study`, or the batch does not say which shapes it shows.
        """
        if self._bank is None or len(batch.ids) != len(batch):
            got = "no bank to meet" if self._bank is None else "a batch without ids"
            raise RecipeError(
                what="objective.bank", got=got, wanted="`study` called with the store, and batches of it", try_="objective.bank=0"
            )
        options = self.config
        return bank_terms(
            embedding,
            batch.image,
            batch.text,
            keys_of(batch.ids, embedding.device),
            self._bank,
            scale=scale,
            cross_scale=1 / options.cross_temperature,
            cross=options.cross,
            divergence=options.divergence,
            has_image=batch.has_image,
            has_text=batch.has_text,
            ranks=ranks,
            tiling=options.tiling,
        )

    def _grouped(self, held: Terms) -> tuple[Tensor, Tensor]:
        """One number per weight, and whether this batch has anything to say about it."""
        place = {name: k for k, name in enumerate(held.names)}
        values = torch.stack([held.values[[place[name] for name in names]].sum() for names in self.groups.values()])
        return values, torch.stack([held.present[[place[name] for name in names]].any() for names in self.groups.values()])

    def _within(self, rows: Modality, ranks: Ranks) -> Related:
        """ψ: how rows of one modality relate to one another."""
        options = self.config
        return related(
            rows, rows, ranks, representation=options.representation, temperature=options.intra_temperature, self_too=options.diagonal
        )

    @torch.no_grad()
    def pictures(self, batch: TripletBatch, ranks: Ranks) -> dict[str, Tensor]:
        """Relations within each modality, [N, N], sorted by category; `mrdist.relation.pictures.drawn` makes images of them.

        "student", "teacher/image", "teacher/text", "difference/.." (student less teacher, where the teacher has rows) and "categories".
        """
        training = self.student.training
        try:
            embedding = self.student.eval()(batch.xyz, batch.rgb).embedding
        finally:
            self.student.train(training)
        points, image, text = _modalities(embedding, batch, ranks)
        names = [name for held in ranks.objects(batch.categories or ("",) * len(batch)) for name in held]
        order = torch.tensor(sorted(range(len(names)), key=lambda i: (names[i], i)))

        def sorted_by_category(related: Related) -> Tensor:
            shown = related.logp.exp() * related.rows[:, None] if isinstance(related, Relation) else related.values * related.kept
            return ranks.gather(shown).cpu()[order][:, order]

        held = {"student": sorted_by_category(self._within(points, ranks))}
        for name, other in (("image", image), ("text", text)):
            held[f"teacher/{name}"] = sorted_by_category(self._within(other, ranks))
            held[f"difference/{name}"] = sorted_by_category(self._within(points.where(other), ranks)) - held[f"teacher/{name}"]
        index = torch.tensor([sorted(set(names)).index(name) for name in names])[order]
        return held | {"categories": (index[:, None] == index).float()}


def _groups(config: MRDConfig) -> dict[str, tuple[str, ...]]:
    """The terms that share a weight, by the weight's name."""
    if config.weighting == "mixture" and config.intra == "both":
        held = {"intra": ("intra/mixture",)}
    else:
        held = {f"intra/{name}": (f"intra/{name}",) for name in ("image", "text") if config.intra in ("both", name)}
    brackets = tuple(f"cross/{name}" for name in ("point_for_image", "point_for_text") if config.cross in ("both", name))
    return {**held, **({"cross": brackets} if brackets else {})}


def _weights(config: MRDConfig, groups: tuple[str, ...]) -> Weights | None:
    if not groups:
        return None
    if config.weighting == "uncertainty":
        return Uncertainty(len(groups), config.limit)
    if config.weighting == "softmax":
        return Softmax(len(groups), config.floor, config.entropy)
    given = dict(zip(("intra/image", "intra/text", "cross"), config.fixed, strict=True))
    return Fixed([given[group] if config.weighting == "fixed" else 1.0 for group in groups])


def _modalities(embedding: Tensor, batch: TripletBatch, ranks: Ranks) -> tuple[Modality, Modality, Modality]:
    """Points, images and texts as unit rows."""
    present = torch.ones_like(batch.has_image), batch.has_image, batch.has_text
    rows = (normalize(rows.to(embedding.dtype), dim=-1) for rows in (embedding, batch.image, batch.text))
    points, image, text = (Modality.of(mine, here, ranks) for mine, here in zip(rows, present, strict=True))
    return points, image, text
