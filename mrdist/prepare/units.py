"""The steps from meshes to triplets, unit by unit, for whoever does them: one process, or the pools of a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from mrdist.data.claims import Claims
from mrdist.data.crew import Begun, Crew
from mrdist.data.parts import write_index, write_part
from mrdist.data.renders import Drawn, Rendered, Renders, write_unit
from mrdist.data.renders import write_index as index_of_renders
from mrdist.data.shards import INDEX, Shards, publish, unit_name
from mrdist.errors import DataError
from mrdist.prepare.work import Round, Work, one_first
from mrdist.progress import Progress, silent
from mrdist.ranks import this_device
from mrdist.recipe import Recipe, fingerprint
from mrdist.shapes import Points, Shape, Triplet
from mrdist.teachers.base import Teacher, TeacherConfig
from mrdist.teachers.cache import Cache, cached_images, cached_texts


def crew_of(round: Round, size: int) -> Crew:
    """Renderers for a round; so many shapes are drawn at once.

    Raises:
        DataError: nothing can be drawn on this machine.
    """
    recipe = round.recipe
    return Crew(size, round.root, views=recipe.views, limits=recipe.limits, points=recipe.points, formats=round.formats)


def draw_unit(
    round: Round,
    number: int,
    shapes: Sequence[Shape],
    crew: Crew,
    quarantined: Mapping[str, str] | None = None,
    begun: Begun = None,
) -> Drawn:
    """Draw one unit and write it; returned too, so that the next stage need not read it.

    Args:
        shapes: those of unit `number`.
        quarantined: shapes not to be touched, by id, each with the reason that will stand in skipped.jsonl.
        begun: told of every other shape before it is touched, by the thread that draws it.

    Raises:
        DataError: the disk is full.
        MachineFault: this machine cannot read the meshes; nothing is written.
    """
    outcomes = [future.result() for future in crew.begin(shapes, quarantined, begun)]
    return write_unit(Shards(round.renders), number, shapes, outcomes, points=round.recipe.points, root=round.root)


def read_unit(round: Round, number: int) -> Drawn:
    """A unit that was drawn before.

    Raises:
        DataError: it is missing, or damaged; then it counts as not drawn from now on.
    """
    try:
        return Renders(round.renders, round.units).unit(number)
    except DataError:
        Shards(round.renders).give_up(unit_name(number))
        raise


def teach_unit(round: Round, drawn: Drawn, teacher: Teacher, known: Cache) -> None:
    """Ask the teacher about every view and caption of a unit, and write the part of the same number.

    Args:
        known: `Cache(round.embeddings, teacher.fingerprint)`.

    Raises:
        DataError: the disk is full.
    """
    shapes = drawn.shapes()
    triplets = embedded(shapes, teacher, known)
    splits = [one.split for one in shapes]
    write_part(Shards(round.triplets(teacher.fingerprint)), drawn.number, triplets, splits, width=teacher.width, points=round.recipe.points)


def embedded(drawn: Sequence[Rendered], teacher: Teacher, known: Cache) -> list[Triplet]:
    """Shapes with what the teacher says of their views and captions."""
    views = [view for one in drawn for view in one.views]
    captions = [caption for one in drawn for caption in one.captions]
    image = cached_images(teacher, known, views).astype(np.float16)
    text = cached_texts(teacher, known, captions).astype(np.float16)
    out: list[Triplet] = []
    for one in drawn:
        points = Points(one.xyz.astype(np.float32), np.divide(one.rgb, 255, dtype=np.float32))
        v, t = len(one.views), len(one.captions)
        out.append(Triplet(one.id, one.category, points, image[:v], text[:t], one.captions))
        image, text = image[v:], text[t:]
    return out


def finish_renders(work: Work, round: Round) -> Renders:
    """Say that all of a round is drawn, and list what was skipped.

    Raises:
        DataError: a unit is missing, damaged or of other shapes, or nothing could be drawn.
    """
    index_of_renders(Shards(round.renders), work.units)
    return Renders.open(round.renders)


def finish_triplets(round: Round, teacher: str, width: int) -> None:
    """Say that all of a round is embedded by a teacher, by its fingerprint and width.

    Raises:
        DataError: a part is missing or damaged.
    """
    write_index(Shards(round.triplets(teacher)), round.units, width=width, points=round.recipe.points)


def finished(folder: Path) -> bool:
    """Whether a folder of renders or triplets has its index."""
    return Shards(folder).has(INDEX)


def learns(recipe: Recipe) -> bool:
    """Whether the teacher looks at renders before it can embed: then all of round 0 must have been drawn before it is opened."""
    return bool(getattr(recipe.teacher, "learns", True))  # a plugin that does not say may well look


def open_teacher(round: Round, progress: Progress = silent) -> Teacher:
    """The teacher of a recipe; one that is fitted is fitted, once, to the renders of round 0, by one process alone.

    Raises:
        TeacherError: it cannot be had.
        DataError: it learns, and not everything is drawn, or a unit is damaged; then it counts as not drawn from now on.
    """
    assert round.number == 0, "the teacher of all rounds is that of the first"
    place = Path(round.recipe.store)
    with Claims(place / "claims") as claims:
        marker = place / "prepared" / f"teacher-{fingerprint(round.recipe.teacher, round.renders.name)}"
        return one_first(claims, marker, lambda: known_teacher(round, progress))


def known_teacher(round: Round, progress: Progress = silent) -> Teacher:
    """The teacher once more, where `open_teacher` has been before: nobody waits for anybody."""
    recipe = round.recipe

    def pairs() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
        Renders.open(round.renders)  # complains at once where not everything is drawn
        shapes = (one for number in range(round.units) for one in read_unit(round, number).shapes())
        return ((one.views, one.captions) for one in shapes if one.split == "train")

    config = cast(TeacherConfig, recipe.teacher)
    return config.open(Path(recipe.store) / "teachers", pairs, device=str(this_device(recipe.device)), progress=progress)


class Note(NamedTuple):
    """What is known as soon as the teacher is: enough for others to follow the store while it grows."""

    teacher: str  # its fingerprint
    width: int  # E, of its embeddings


def announce(round: Round, teacher: Teacher) -> None:
    """Leave the note of a recipe: whose embeddings its triplets will hold."""
    note = Note(teacher.fingerprint, teacher.width)
    publish(_note(round), json.dumps({"triplets": round.triplets(note.teacher).name, **note._asdict()}).encode())


def note_of(round: Round) -> Note | None:
    """The note that somebody left; None if nobody did."""
    try:
        said = json.loads(_note(round).read_bytes())
        return Note(str(said["teacher"]), int(said["width"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _note(round: Round) -> Path:
    assert round.number == 0, "there is one note for all rounds"
    return Path(round.recipe.store) / "prepared" / f"{fingerprint(round.renders.name, round.recipe.teacher)}.json"
