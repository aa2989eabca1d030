"""A trained student with its input contract: for people who only want embeddings."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrdist.contract import MEAN, Contract, damaged, part, written
from mrdist.errors import CheckpointError, DataError, MrdistError, TeacherError
from mrdist.hub import Result, cached, card, put
from mrdist.progress import silent
from mrdist.shapes import Points
from mrdist.students import released
from mrdist.students.base import Student
from mrdist.teachers.base import Teacher, TeacherConfig

CONTRACT, WEIGHTS, CARD, TEACHER = "config.json", "model.safetensors", "README.md", "teacher"
"""What an encoder's folder holds; the teacher only where it was copied along."""

CHECKPOINT = "open_clip_config.json"
"""What makes a folder an open_clip checkpoint."""


class StudentPart(Protocol):
    """The student of a recipe: a part that knows how to build itself."""

    def build(self, width: int, *, seed: int) -> Student: ...


class Encoder:
    """Points in, unit embeddings out, in the space of the teacher's pictures and words.

    Example:
        >>> encoder = from_pretrained("runs/chairs/export")
        >>> points = Points.from_file("chair.glb", up="y", points=encoder.contract.points)
        >>> encoder.similarity(points, ["a chair", "a table"])  # [1, 2]
    """

    def __init__(self, student: Student, contract: Contract) -> None:
        self.student, self.contract = student, contract
        self.home: Path | None = None  # the folder it was read from
        self._teacher: Teacher | None = None

    @property
    def device(self) -> torch.device:
        """Where the student is, and its embeddings will be."""
        return next(self.student.parameters()).device

    @property
    def carried(self) -> Path | None:
        """The teacher's own checkpoint, where it was copied along."""
        place = self.home / TEACHER if self.home else None
        return place if place and (place / CHECKPOINT).is_file() else None

    def to(self, device: str | torch.device) -> Encoder:
        """This encoder, its student moved to a device."""
        self.student.to(device)
        return self

    @torch.no_grad()
    def encode(self, points: Points | Sequence[Points], *, batch: int = 32) -> Tensor:
        """Unit embeddings, `[B, E]` float32 on the encoder's device.

        A cloud with more points than the contract says is thinned, always to the same points; one with fewer is repeated.

        Args:
            batch: clouds at a time; changes no result.
        """
        clouds = [points] if isinstance(points, Points) else list(points)
        if not clouds:
            raise DataError(what="encode", got="no clouds", wanted="at least one", try_="Points.from_file(PATH, up='y')")
        was_training = self.student.training
        self.student.eval()
        try:
            rows = [self._embed(clouds[first : first + batch]) for first in range(0, len(clouds), batch)]
        finally:
            self.student.train(was_training)
        return F.normalize(torch.cat(rows).float(), dim=-1)

    def similarity(self, things: Points | Sequence[Points] | Tensor, texts: Sequence[str], *, teacher: Teacher | None = None) -> Tensor:
        """Cosines `[B, T]` between B clouds (or their embeddings `[B, E]`) and T texts.

        Args:
            teacher: reads the texts; None: the one the contract names (see `teacher`).

        Raises:
            TeacherError: it is not at hand, or another one than the student learnt from.
        """
        rows = things.float().to(self.device) if isinstance(things, Tensor) else self.encode(things)
        words = torch.from_numpy(self.right(teacher or self.teacher()).texts(list(texts)))
        return F.normalize(rows, dim=-1) @ words.to(self.device).T

    def teacher(self, folder: Path | None = None) -> Teacher:
        """The teacher whose space this is, opened once: from the encoder's own folder if it was copied along, else as its recipe says.

        Args:
            folder: an open_clip checkpoint of it, or where its kind keeps teachers.

        Raises:
            TeacherError: it is not at hand, or is another one by now.
        """
        if self._teacher is None:
            chosen = self.contract.teacher
            place = folder or (self.home / TEACHER if self.home else Path("store/teachers"))
            if (place / CHECKPOINT).is_file():
                # Whatever its recipe called it, it can be opened as what it is.
                chosen = part("teachers", {"kind": "clip", "model": str(place), "precision": getattr(chosen, "precision", "fp32")})
            opened = cast(TeacherConfig, chosen).open(place, _nothing_to_fit, device=str(self.device), progress=silent)
            self._teacher = self.right(opened)
        return self._teacher

    def save(
        self, folder: str | Path, *, teacher_folder: str | Path | None = None, licence: str = "", results: Sequence[Result] = ()
    ) -> Path:
        """Write the encoder as a folder: weights, contract, card. It appears whole or not at all, in place of an encoder of that name.

        The folder is what the Hugging Face hub calls a model: `hf upload ORG/NAME FOLDER` takes it as it is.

        Args:
            licence, results: for the card, see `mrdist.hub.card`.
            teacher_folder: an open_clip checkpoint (`open_clip_config.json` and weights) to copy along, so that `similarity` works
                wherever the folder goes.

        Raises:
            CheckpointError: the folder holds other things.
            TeacherError: `teacher_folder` is no such checkpoint.
        """
        folder = Path(folder)
        if folder.exists() and not written(folder / CONTRACT) and not (folder.is_dir() and not any(folder.iterdir())):
            raise CheckpointError(what=str(folder), got="other things in it", wanted="a new folder, or an encoder's", try_="another name")
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
        try:
            fresh.mkdir()
            save_file({name: value.detach().cpu().contiguous() for name, value in self.student.state_dict().items()}, fresh / WEIGHTS)
            tree = {**self.contract.plain(), "sha256": _sha256(fresh / WEIGHTS)}
            (fresh / CONTRACT).write_text(json.dumps(tree, indent=2) + "\n")
            (fresh / CARD).write_text(card(self.contract, licence=licence, results=results))
            if teacher_folder := teacher_folder or self.carried:
                _copy_teacher(Path(teacher_folder), fresh / TEACHER)
            put(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Encoder:
        """The encoder that `save` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or belongs to another; a tensor is missing, unknown or of another shape.
        """
        folder = Path(folder)
        what = str(folder / CONTRACT)
        try:
            tree = json.loads((folder / CONTRACT).read_bytes())
            if _sha256(folder / WEIGHTS) != tree["sha256"]:
                raise damaged(str(folder / WEIGHTS), "other weights than config.json names")
            # Copied out of the mapped file: aligned as torch likes it, and safe from whoever cuts that file off.
            state = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}
        except FileNotFoundError as wrong:
            raise damaged(str(wrong.filename), "no such file") from None
        except (OSError, ValueError, LookupError, TypeError, SafetensorError, RecursionError) as wrong:
            raise damaged(what, str(wrong)) from None
        contract = Contract.read(tree, what)
        try:
            student = _empty(contract)
        except (MrdistError, ValueError, TypeError, RuntimeError) as wrong:
            raise damaged(what, f"a student that cannot be built: {wrong}") from None
        other = released.differences({n: t.shape for n, t in state.items()}, {n: t.shape for n, t in student.state_dict().items()})
        if other:
            raise CheckpointError(what=folder / WEIGHTS, got=other, wanted="the tensors of its student", try_="export it again")
        student.load_state_dict(state, assign=True)
        encoder = cls(student.eval(), contract).to(device)
        encoder.home = folder
        return encoder

    @classmethod
    def released(cls, file: str | Path, *, device: str | torch.device = "cpu") -> Encoder:
        """The encoder in a file that Uni3D or OpenShape released; see `mrdist.students.released`.

        Its contract is theirs: which axis is up, where the middle of a cloud is. Whether its teacher is at hand, and is the one
        that it learnt from, nobody can say: the file names none. The contract says what the papers say, without a fingerprint.

        Raises:
            CheckpointError: it is no such file, or a tensor is missing, unknown or of another shape.
        """
        found = released.read(file)
        model, tag = found.family.teacher
        teacher = part("teachers", {"kind": "clip", "model": model, "pretrained": tag})
        trained = {"weights": f"{found.family.name} ({found.size}), as released in {Path(file).name}"}
        contract = Contract(found.config, found.width, 10_000, teacher, "", trained, axis=found.family.axis, scale=MEAN)
        student = _empty(contract)
        student.load_state_dict({name: found.tensor(name) for name in found.parts}, assign=True)
        return cls(student.eval(), contract).to(device)

    def _embed(self, clouds: Sequence[Points]) -> Tensor:
        count = self.contract.points
        xyz = np.stack([self.contract.seen(_exactly(cloud.xyz, count)) for cloud in clouds])
        rgb = np.stack([_exactly(cloud.rgb, count) for cloud in clouds])
        embedding: Tensor = self.student(torch.from_numpy(xyz).to(self.device), torch.from_numpy(rgb).to(self.device)).embedding
        return embedding

    def right(self, teacher: Teacher) -> Teacher:
        """The same teacher, if these embeddings can lie in its space.

        Raises:
            TeacherError: they cannot.
        """
        wanted = self.contract.teacher_fingerprint
        if not wanted:
            # Nobody recorded whose space it is: all that can be told is that this one's cannot be it.
            if teacher.width != self.contract.width:
                got, wanted = f"embeddings of width {teacher.width}", f"width {self.contract.width}, as this encoder's"
                raise TeacherError(what="teacher", got=got, wanted=wanted, try_="the one that the encoder's contract names")
        elif teacher.fingerprint != wanted:
            what, try_ = f"teacher {self.contract.teacher.kind}", "the teacher of the recipe that trained this encoder"
            raise TeacherError(what=what, got=f"fingerprint {teacher.fingerprint}", wanted=f"{wanted}, whose space this is", try_=try_)
        return teacher


def from_pretrained(name: str | Path, *, device: str | torch.device = "cpu") -> Encoder:
    """The encoder in a folder that `mrdist export` wrote, in a run folder, or in a file that others released.

    Args:
        name: a path; or ORG/NAME, ORG/NAME@REVISION, ORG/NAME/FILE: what `hf download` fetched of it.

    Raises:
        CheckpointError: there is no encoder, or it is damaged.
    """
    found = Path(name)
    if not found.exists():
        found = cached(str(name)) or found
    if found.is_file():
        return Encoder.released(found, device=device)
    for folder in (found, found / "export"):
        if (folder / CONTRACT).is_file():
            return Encoder.load(folder, device=device)
    raise CheckpointError(
        what=f"encoder {name}",
        got=f"a folder without {CONTRACT}" if found.is_dir() else "no such folder",
        wanted="an encoder's folder",
        try_="mrdist export RUN, then the folder it names; of weights that others released, name the file",
    )


def _exactly(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` of the rows: thinned evenly by chance, but always to the same, or repeated."""
    if len(rows) > count:
        return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]
    return rows[np.arange(count) % len(rows)]


def _empty(contract: Contract) -> Student:
    """The student of a contract, on the meta device: a giant takes no time and no memory, and its tensors are then the file's own."""
    with torch.device("meta"):
        return cast(StudentPart, contract.student).build(contract.width, seed=0)


def _nothing_to_fit() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
    raise TeacherError(
        what="teacher", got="none that is fitted already", wanted="the teacher this encoder learnt from",
        try_="encoder.teacher(FOLDER) with the teacher's own folder, or an export that carries it",
    )  # fmt: skip


def _copy_teacher(source: Path, target: Path) -> None:
    if not (source / CHECKPOINT).is_file():
        raise TeacherError(what=str(source), got=f"no {CHECKPOINT}", wanted="an open_clip checkpoint", try_="the teacher's own folder")
    shutil.copytree(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
