"""`mrdist why`: what became of a run: the first rank that failed or went quiet, what Slurm says, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist_cluster import blame, slurm
from mrdist_cluster.blame import Verdict
from mrdist_cluster.cli.jobs import runs_folder
from mrdist_cluster.cli.logs import spoken
from mrdist_cluster.runs import JOBS, find
from mrdist_cluster.standing import Standing, stamps, standing

USAGE = "RUN [runs=FOLDER]"
TOLD = re.compile(r"srun: error|slurmstepd: error|DUE TO|oom", re.IGNORECASE)
"""Lines of a job's log in which Slurm says what it did."""

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
    --json        run, state and the first rank

    Raises:
        RecipeError: no such run.
    """
    words, root = runs_folder(words)
    if len(words) != 1:
        raise RecipeError(what="mrdist why", got=" ".join(words) or "nothing", wanted=USAGE, try_="mrdist jobs")
    run = standing(find(words[0], root), slurm.queue())
    verdict = blame.first(blame.witnesses(run.folder / "why.txt"), stamps(run.folder), alive=run.under_way)
    if run.state == "done" or (run.state == "pending" and verdict is None):
        verdict = None
    if flags.json:
        print(json.dumps({"run": str(run.folder), "state": run.state, "first": asdict(verdict) if verdict is not None else None}, indent=1))
        return DONE
    print("\n".join(_screen(run, verdict)))
    return DONE


def _screen(run: Standing, verdict: Verdict | None) -> Iterable[str]:
    yield f"{run.folder}: {run.state}{f' ({run.reason})' if run.reason else ''}, step {run.step:,} of {run.steps:,}"
    if verdict is not None:
        yield f"rank {verdict.rank} {verdict.how}: step {verdict.step:,}, in {verdict.place}; shapes at hand: {verdict.shapes}"
        if verdict.error:
            yield verdict.error
    known = slurm.facts(run.job.job) if run.job is not None and not run.job.local else {}
    if known:
        shown = (
            f"{name} {known[name]}"
            for name in ("Reason", "ExitCode", "NodeList", "Restarts")
            if known.get(name) not in (None, "None", "(null)")
        )
        yield f"Slurm: job {run.job.job if run.job else ''} is {known.get('JobState', 'unknown')}, {', '.join(shown)}"
    log = Path(known.get("StdOut") or (run.job.log if run.job is not None and run.job.log else "/dev/null"))
    yield from (f"  {line}" for line in _last(log, 6) if TOLD.search(line))
    if verdict is None and run.state in ("failed", "stopped", "new"):
        yield from _last_words(run, log)
    if verdict is not None and verdict.text:
        yield from ("", f"rank {verdict.rank} was here:", verdict.text, "")
    yield f"try: {_remedy(run, verdict, known.get('JobState', ''))}"


def _last_words(run: Standing, log: Path) -> Iterable[str]:
    """What was said last, where no rank came so far as to leave a stamp; what ranks of a job before said is not meant."""
    note = run.folder / JOBS
    since = note.stat().st_mtime if note.is_file() else 0.0
    ranks = [(label, file) for label, file in spoken(run.folder) if file.stat().st_mtime >= since]
    for label, file in [*ranks, ("job", log)]:
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
