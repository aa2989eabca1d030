"""`mrdist logs`: what the ranks of a run say, each line behind its rank."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mrdist.cli.launching import LOG
from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist_cluster import slurm
from mrdist_cluster.cli.jobs import runs_folder
from mrdist_cluster.runs import find, submitted
from mrdist_cluster.standing import standing

USAGE = "RUN [rank=N] [follow=true] [runs=FOLDER]"
EVERY = 0.5
"""Seconds between two looks at the files of a run that goes on."""

ASK = 10.0
"""Seconds between two questions to Slurm meanwhile: its controller has all users to answer."""


def logs(words: Sequence[str], flags: Flags) -> int:
    """All that the ranks of a run said, each line behind its rank; what its job said, if none has spoken.

    RUN           a run folder, or any part of its name that no other has
    rank=N        of one rank only
    follow=true   and what they say from now on, until the run is no longer under way
    runs=FOLDER   where run folders are; runs

    Raises:
        RecipeError: no such run, or it has not that rank.
    """
    words, root = runs_folder(words)
    own = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if len(names) != 1 or set(own) - {"rank", "follow"}:
        raise RecipeError(what="mrdist logs", got=" ".join(words) or "nothing", wanted=USAGE, try_="mrdist jobs")
    folder = find(names[0], root)
    read: dict[Path, int] = {}
    follows = own.get("follow") == "true"
    queue, asked = slurm.queue() if follows else {}, time.monotonic()
    while True:
        if follows and time.monotonic() - asked > ASK:
            asked = time.monotonic()
            with suppress(slurm.SlurmError):  # a busy controller is no end
                queue = slurm.queue()
        # Looked at before the files: what a rank says last is read after its end is seen.
        goes_on = follows and standing(folder, queue).under_way
        files = spoken(folder) or of_job(folder)
        if "rank" in own:
            files = [(label, file) for label, file in files if label == own["rank"]]
        if not files and not goes_on:
            rank = f" of rank {own['rank']}" if "rank" in own else ""
            raise RecipeError(what=str(folder), got=f"no log{rank}", wanted="a run that has begun", try_=f"mrdist why {folder}")
        for label, file in files:
            for line in fresh(file, read):
                print(f"{label}: {line}", flush=True)
        if not goes_on:
            return DONE
        time.sleep(EVERY)


def spoken(folder: Path) -> list[tuple[str, Path]]:
    """The files that ranks write, behind the number of the rank, or its node and number there, where torchrun has started no rank yet."""
    ranks = folder / "ranks"
    found = [("0", folder / LOG)] if (folder / LOG).is_file() else []
    found += [(str(int(file.name[:4])), file) for file in ranks.glob("[0-9][0-9][0-9][0-9].*") if file.suffix in (".out", ".log")]
    found += [(_rank_of(file) or f"{file.relative_to(ranks).parts[0]}/{file.parent.name}", file) for file in ranks.glob("*/**/std*.log")]
    # By number, not by letter; a rank's own words before its library's; one start after the other.
    return sorted(found, key=lambda one: (_natural(one[0]), bool(re.fullmatch(r"\d+\.log", one[1].name)), _natural(str(one[1]))))


def _rank_of(file: Path) -> str:
    """The rank whose words torchrun wrote into a file: slurm/rank.sh says it first of all."""
    beside = file.with_name("stdout.log")
    with (beside if beside.is_file() else file).open("rb") as stream:
        said = re.match(rb"rank (\d+) of \d+ on ", stream.read(80))
    return said[1].decode() if said else ""


def _natural(text: str) -> list[tuple[int, str]]:
    """For sorting: numbers by size, before letters."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def of_job(folder: Path) -> list[tuple[str, Path]]:
    """Where a job speaks until its ranks do: Slurm, and the site's setup."""
    job = submitted(folder, {})
    return [("job", Path(job.log))] if job is not None and Path(job.log).is_file() else []


def fresh(file: Path, read: dict[Path, int]) -> Iterator[str]:
    """The whole lines that a file has beyond what was read of it; notes how far that is."""
    with file.open("rb") as stream:
        stream.seek(read.get(file, 0))
        for line in stream:
            if not line.endswith(b"\n"):
                break
            read[file] = read.get(file, 0) + len(line)
            yield line.decode(errors="replace").rstrip()
