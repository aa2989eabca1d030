"""`mrdist why`: what became of a run: the first rank that failed or went quiet, what Slurm says, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from mrdist.cli.main import DONE, Flags
from mrdist.errors import INTERFACES, RecipeError
from mrdist.presets import layers
from mrdist.progress import significant
from mrdist_cluster import blame, slurm
from mrdist_cluster.blame import Verdict
from mrdist_cluster.cli.jobs import runs_folder
from mrdist_cluster.cli.logs import spoken
from mrdist_cluster.pulse import Pulse, pulse
from mrdist_cluster.runs import find
from mrdist_cluster.standing import Standing, begun, recent, stamps, standing

USAGE = "RUN [runs=FOLDER]"
TOLD = re.compile(r"srun: error|slurmstepd: error|DUE TO|oom", re.IGNORECASE)
"""Lines of a job's log in which Slurm says what it did."""

LOADING = 120.0
"""Seconds that ranks may take to load before anybody wonders."""

UNMET = f"if these words do not change, ranks do not find one another (after ten minutes they end, and name who is missing): {INTERFACES}"

REMEDIES = {
    "OUT_OF_MEMORY": "more memory per node (fewer ranks per node, workers=0), then",
    "NODE_FAIL": "nothing where Slurm puts the job back (mrdist jobs); otherwise",
    "PREEMPTED": "nothing where Slurm puts the job back (mrdist jobs); otherwise",
    "TIMEOUT": "more hours=, if it did not save in time; then",
}
"""What to do about a state in which Slurm leaves a job."""


def why(words: Sequence[str], flags: Flags) -> int:
    """What became of a run, from its folder: the rank that was first to fail or to go quiet; with what Slurm says, where there is one.

    RUN           a run folder, or any part of its name that no other has
    runs=FOLDER   where run folders are; runs
    --json        run, state, the first rank, and how the run moves

    Raises:
        RecipeError: no such run.
    """
    words, root = runs_folder(words)
    if len(words) != 1:
        raise RecipeError(what="mrdist why", got=" ".join(words) or "nothing", wanted=USAGE, try_="mrdist jobs")
    run = standing(find(words[0], root), slurm.queue())
    known = slurm.facts(run.job.job) if run.job is not None and not run.job.local else {}
    began = _began(run, known)
    # What was written before that is of another life: ranks take away why.txt only once they have met.
    heard = [one for one in blame.witnesses(run.folder / "why.txt") if began is None or one.when >= began]
    signs = [stamp for stamp in stamps(run.folder) if began is None or stamp.time >= began]
    verdict = blame.first(heard, signs, alive=run.under_way) if run.state != "done" else None
    moves = None
    if verdict is None and run.state == "running":
        moves = pulse(list(recent(run.folder / "metrics.jsonl")), begun(run.folder), signs, _now())
    if flags.json:
        told = {"first": verdict and asdict(verdict), "pulse": moves and asdict(moves)}
        print(json.dumps({"run": str(run.folder), "state": run.state, **told}, indent=1, default=str))
        return DONE
    print("\n".join(_screen(run, verdict, moves, known, began)))
    return DONE


def _began(run: Standing, known: Mapping[str, str]) -> datetime | None:
    """When the job that has the run last began, as far as anybody says."""
    said = [datetime.fromisoformat(run.job.time)] if run.job is not None and run.job.time else []
    if run.state != "pending" and known.get("StartTime", "").startswith("2"):
        said.append(datetime.fromisoformat(known["StartTime"]).astimezone())
    return max(said, default=None)


def _now() -> datetime:
    return datetime.now().astimezone()


def _screen(run: Standing, verdict: Verdict | None, moves: Pulse | None, known: Mapping[str, str], began: datetime | None) -> Iterable[str]:
    yield f"{run.folder}: {run.state}{f' ({run.reason})' if run.reason else ''}, step {run.step:,} of {run.steps:,}"
    mute = verdict is None and moves is None and run.state == "running" and run.step < run.steps
    since = (_now() - began).total_seconds() if began is not None else 0.0
    if verdict is not None:
        yield f"rank {verdict.rank} {verdict.how}: step {verdict.step:,}, in {verdict.place}; shapes at hand: {verdict.shapes}"
        if verdict.error:
            yield verdict.error
    if moves is not None:
        yield _told(moves, run)
    if mute:
        yield f"no rank has come so far as to say where it is{f', {since:.0f} s after the job began' if began is not None else ''}"
    if known:
        shown = (
            f"{name} {known[name]}"
            for name in ("Reason", "ExitCode", "NodeList", "Restarts")
            if known.get(name) not in (None, "None", "(null)")
        )
        yield f"Slurm: job {run.job.job if run.job else ''} is {known.get('JobState', 'unknown')}, {', '.join(shown)}"
    log = Path(known.get("StdOut") or (run.job.log if run.job is not None and run.job.log else "/dev/null"))
    yield from (f"  {line}" for line in _last(log, 6) if TOLD.search(line))
    if mute or (verdict is None and run.state in ("failed", "stopped", "new")):
        yield from _last_words(run, log, began)
    if verdict is not None and verdict.text:
        yield from ("", f"rank {verdict.rank} was here:", verdict.text, "")
    if mute:
        yield f"try: {'wait: ranks load, prepare what is not prepared, and meet' if since < LOADING else UNMET}"
    elif moves is not None and moves.strange:
        yield f"try: {_way_out(run, moves)}"
    else:
        yield f"try: {_remedy(run, verdict, known.get('JobState', ''))}"


def _told(moves: Pulse, run: Standing) -> str:
    """How long ago the last step was, and who is where."""
    if moves.strange:
        usual = f", where {significant(run.pace)} s are usual" if moves.begun and run.pace is not None else ""
        return f"no step for {moves.quiet:.0f} s{usual}: {moves.where}"
    return f"{'a step' if moves.begun else 'the ranks began'} {moves.quiet:.0f} s ago; {moves.where}"


def _way_out(run: Standing, moves: Pulse) -> str:
    """What to do about a run that does not move."""
    silence = layers(run.folder)["watch"]["silence"]
    stacks = f"; after {silence:g} s at one place its stacks are in why.txt, and here" if silence else ""
    end = f"; mrdist jobs cancel {run.folder.name} ends it"
    if moves.suspect is None:
        if moves.where.endswith("in wait"):
            return f"nobody has a batch for them: do others still prepare (mrdist logs {run.folder.name}), does the disk answer?{end}"
        return f"if it lasts, they do not hear from one another: {INTERFACES}{end}"
    rank, place = moves.suspect.rank, moves.suspect.place
    doubt = "its disk, or the shapes at hand" if place.endswith("wait") else f"what it does in {place}"
    return f"the others wait for rank {rank}: {doubt} (mrdist logs {run.folder.name} rank={rank}){stacks}{end}"


def _last_words(run: Standing, log: Path, began: datetime | None) -> Iterable[str]:
    """What was said last, since the job began, where no rank came so far as to leave a stamp."""
    for label, file in [*spoken(run.folder), ("job", log)]:
        if began is not None and file.is_file() and file.stat().st_mtime < began.timestamp():
            continue
        if lines := _last(file, 8):
            yield f"the last of {label}:"
            yield from (f"  {line}" for line in lines)
            return


def _last(file: Path, lines: int) -> list[str]:
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 65536))
        return [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()][-lines:]


def _remedy(run: Standing, verdict: Verdict | None, state: str) -> str:
    if verdict is not None and verdict.remedy:
        return verdict.remedy
    if verdict is None and run.under_way:
        return "nothing: it goes its way" if run.state == "running" else f"wait: {run.reason or run.state}"
    if run.state == "done":
        return f"nothing: mrdist evaluate {run.folder}"
    if verdict is not None and state not in REMEDIES:
        return f"the node's own log says what killed it (out of memory?); {_again(run)}"
    return f"{REMEDIES.get(state, '')} {_again(run)}".strip()


def _again(run: Standing) -> str:
    """What to type, and where it then begins."""
    where = f"goes on from step {run.saved:,}" if run.saved else "begins again"
    return f"mrdist submit {run.folder} site=..., which {where}"
