"""Checkpoints: one folder per step, readable by any engine on any number of ranks.

    steps/00012000/
      index.json                what is where, hashes, recipe, versions; written last but one
      rank-0000.safetensors     the full tensors that this rank was dealt, and its random states

A folder is written beside (`.00012000.part`), flushed to disk and renamed: it is there in full, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mrdist.errors import CheckpointError
from mrdist.files import settle
from mrdist.ranks import Ranks

FORMAT = 1
INDEX = "index.json"
FACTS = ("step", "best", "exported", "recipe", "ranks", "files")
"""What an index must say, besides its format."""


def write(folder: Path, state: Iterable[tuple[str, Tensor]], own: Mapping[str, Tensor], facts: Mapping[str, Any], ranks: Ranks) -> None:
    """Write one checkpoint; every rank calls.

    Args:
        folder: where it will be; must not exist yet.
        state: full tensors by name, the same on every rank; dealt out one by one, so that no rank keeps them all.
        own: tensors of this rank alone, kept under `rank/<number>/`.
        facts: JSON to keep beside them.

    Raises:
        CheckpointError: some rank could not write; nothing is left of this checkpoint, older ones are untouched.
    """
    part = folder.with_name(f".{folder.name}.part")
    if refused := ranks.objects(_begun(part) if ranks.first else "")[0]:
        raise _unwritten(folder, [f"rank 0: {refused}"])
    mine = {f"rank/{ranks.rank}/{name}": tensor for name, tensor in own.items()}
    for number, (name, tensor) in enumerate(state):
        if number % ranks.size == ranks.rank:
            mine[name] = tensor.detach().to("cpu", copy=True).contiguous()
    try:
        written: dict[str, Any] = _write_tensors(part / f"rank-{ranks.rank:04d}.safetensors", mine)
    except (OSError, SafetensorError) as wrong:
        written = {"trouble": str(wrong)}
    files = ranks.objects(written)
    if ranks.first and not any("trouble" in f for f in files):
        try:
            _write_index(part / INDEX, files, facts)
            os.rename(part, folder)
            settle(folder.parent)
        except OSError as wrong:
            files[0] = {"trouble": str(wrong)}
    trouble = [f"rank {rank}: {f['trouble']}" for rank, f in enumerate(ranks.objects(files)[0]) if "trouble" in f]
    if trouble:
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
        raise _unwritten(folder, trouble)


def _begun(part: Path) -> str:
    """Make the folder to write in; why it cannot be made, or nothing."""
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as wrong:
        return str(wrong)
    return ""


def _unwritten(folder: Path, trouble: list[str]) -> CheckpointError:
    return CheckpointError(
        what=str(folder),
        got="; ".join(trouble),
        wanted="a place to write",
        try_="free some space and resume: the checkpoint before this one is whole",
    )


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    save_file(tensors, path)
    settle(path)
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": _hash(path),
        "tensors": {n: [list(t.shape), str(t.dtype)] for n, t in tensors.items()},
    }


def _write_index(path: Path, files: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"format": FORMAT, **facts, "ranks": len(files), "files": files}, indent=1))
    settle(path)
    settle(path.parent)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stored(Mapping[str, Tensor]):
    """A checkpoint on disk: tensors by name, read one at a time; `facts` is everything else.

    Raises:
        CheckpointError: the folder holds no complete checkpoint of this format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.facts: dict[str, Any] = json.loads((folder / INDEX).read_text())
            if self.facts["format"] != FORMAT:
                raise CheckpointError(
                    what=str(folder),
                    got=f"format {self.facts['format']}",
                    wanted=f"format {FORMAT}",
                    try_="the version of mrdist that wrote it",
                )
            missing = [name for name in FACTS if name not in self.facts]
            if missing:
                raise KeyError(*missing)
            self._where = {
                name: (file["name"], tuple(shape)) for file in self.facts["files"] for name, (shape, _) in file["tensors"].items()
            }
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            raise CheckpointError(
                what=str(folder), got=f"an unreadable {INDEX} ({wrong})", wanted="a complete checkpoint", try_="an older one"
            ) from None
        for file in self.facts["files"]:
            path = folder / Path(file["name"]).name
            size = path.stat().st_size if path.is_file() else 0
            if size != file["bytes"]:
                raise CheckpointError(what=str(path), got=f"{size} bytes", wanted=f"{file['bytes']} bytes", try_="an older checkpoint")
        self._open: dict[str, Any] = {}

    def damage(self, files: slice) -> str:
        """The first of these files whose bytes are not those that were written; "" if all are."""
        for file in self.facts["files"][files]:
            if _hash(self.folder / Path(file["name"]).name) != file["sha256"]:
                return f"{file['name']} holds other bytes than were written"
        return ""

    def __getitem__(self, name: str) -> Tensor:
        file = Path(self._where[name][0]).name
        if file not in self._open:
            self._open[file] = safe_open(self.folder / file, framework="pt")
        tensor: Tensor = self._open[file].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def own(self, ranks: Ranks) -> dict[str, Tensor]:
        """The tensors that the rank of this number kept for itself; empty on another number of ranks."""
        if self.facts["ranks"] != ranks.size:
            return {}
        prefix = f"rank/{ranks.rank}/"
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError where a tensor of `wanted` (name to shape) is missing, strange, or of another shape.

        The running average may be absent, or not wanted.
        """
        held = {name: shape for name, (_, shape) in self._where.items() if not name.startswith("rank/")}
        missing = [n for n in wanted if n not in held and not n.startswith("average/")]
        strange = [n for n in held if n not in wanted and not n.startswith("average/")]
        other = [f"{n} {list(held[n])} not {list(wanted[n])}" for n in wanted if n in held and held[n] != tuple(wanted[n])]
        if missing or strange or other:
            parts = [
                f"{word} {_few(names)}"
                for word, names in (("without", missing), ("with strange", strange), ("with other shapes:", other))
                if names
            ]
            raise CheckpointError(
                what=str(self.folder),
                got="tensors " + ", ".join(parts),
                wanted="the tensors of this recipe's objective",
                try_="the recipe that wrote it",
            )

    def student(self) -> dict[str, Tensor]:
        """The exported module's state dict: its running average if there is one, else its weights. Needs no engine."""
        prefix = self.facts["exported"]
        averaged = any(name.startswith("average/") for name in self)
        out = {name.removeprefix("average/"): self[name] for name in self if name.startswith("average/")}
        for kind in ("buffers/", *(() if averaged else ("weights/",))):
            start = kind + prefix
            out.update({name.removeprefix(start): self[name] for name in self if name.startswith(start)})
        return out


def opened(folder: Path, ranks: Ranks) -> Stored:
    """A checkpoint whose every byte is as it was written; each rank reads its share of the files to be sure of it. Every rank calls.

    Raises:
        CheckpointError: it is damaged; on every rank.
    """
    stored, trouble = None, ""
    try:
        stored = Stored(folder)
        trouble = stored.damage(slice(ranks.rank, None, ranks.size))
    except CheckpointError as wrong:
        trouble = f"{wrong.what}: {wrong.got}"
    found = [t for t in ranks.objects(trouble) if t]
    if found or stored is None:
        raise CheckpointError(what=str(folder), got=found[0], wanted="the checkpoint that was written", try_="an older one")
    return stored


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def complete(steps: Path) -> list[Path]:
    """The complete checkpoints in a folder `steps/`, newest first."""
    found = (p.parent for p in steps.glob(f"*/{INDEX}") if p.parent.name.isdecimal())
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def set_aside(folder: Path) -> None:
    """Keep a damaged checkpoint for whoever wants to mend it, out of the way of the one that will be written for its step."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)


def sweep(steps: Path) -> None:
    """Remove what processes that died while saving, or removing, left behind."""
    for folder in steps.glob("*") if steps.is_dir() else ():
        if folder.is_dir() and (folder.name.endswith(".part") or not (folder / INDEX).is_file()):
            shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a checkpoint: first what makes it one, so that half of it is never taken for a whole."""
    (folder / INDEX).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def point(link: Path, target: Path) -> None:
    """Make `link` point to `target`, a folder beneath its own, in one instant."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.relative_to(link.parent))
    os.replace(fresh, link)


def find(place: Path) -> Path:
    """The checkpoint meant by a path: a checkpoint itself, or the best, else the newest, of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (place / INDEX).is_file():
        return place
    if (place / "best" / INDEX).is_file():
        return (place / "best").resolve()
    found = complete(place / "steps")
    if not found:
        raise CheckpointError(
            what=str(place),
            got="no checkpoint",
            wanted="a run folder that has been saved, or a folder of its steps/",
            try_="mrdist train first",
        )
    return found[0]
