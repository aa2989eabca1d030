"""`mrdist VERB WORDS`: one place for verbs, flags, errors and exit codes.

Nothing is imported before a verb is chosen, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from mrdist.errors import INSTALL, MrdistError, RecipeError

DONE, YOURS, OURS, STOPPED = 0, 1, 2, 75
"""Exit codes: done; something the user can fix; a bug of ours; stopped, run the same again to go on."""

EXTRAS = ("deepspeed", "ray", "submitit")
"""Packages that come with `mrdist[cluster]` only."""


@dataclass(frozen=True)
class Flags:
    """What every verb understands."""

    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False


Verb = Callable[[Sequence[str], Flags], int]

VERBS: dict[str, tuple[str, str]] = {
    "train": ("mrdist.cli.train:train", "RECIPE|RUN [key=value ...]   train a recipe from meshes to figures, or go on with a run"),
    "resume": ("mrdist.cli.train:resume", "RUN [key=value ...]          go on with a run (train RUN says the same)"),
    "prepare": ("mrdist.cli.prepare:prepare", "RECIPE [key=value ...]       meshes -> views -> embeddings -> triplets, and no training"),
    "teacher": (
        "mrdist.cli.prepare:teacher",
        "fit RECIPE [key=value ...]   train a small CLIP teacher on a catalogue's own views and captions",
    ),
    "plan": ("mrdist.cli.plan:plan", "RECIPE [site=NAME] [nodes=N]  what it costs, before anything is spent"),
    "evaluate": (
        "mrdist.cli.evaluate:evaluate",
        "RUN|MODEL [SPLIT ...] [data=...]  zero-shot and retrieval of a student, also on another catalogue or a test set",
    ),
    "compare": ("mrdist.cli.evaluate:compare", "RUN RUN [...]                the figures of several runs, side by side"),
    "scale": ("mrdist.cli.scale:scale", "RECIPE [jobs=K] [launcher=...]   a grid of sizes and seeds: table, law, figure"),
    "embed": ("mrdist.cli.embed:embed", "MODEL FILE... up=AXIS        meshes or clouds -> embeddings"),
    "export": (
        "mrdist.cli.export:export",
        "RUN [FOLDER] [licence=ID]    a run's student -> safetensors, contract and card, as hubs take them",
    ),
    "data": ("mrdist.cli.data:data", "sample RECIPE | convert PROJECT FOLDER   a picture of what is seen | others' data as a store"),
    "config": ("mrdist.cli.config:config", "show|explain|diff ...        what a recipe says, and what its keys mean"),
    "doctor": ("mrdist.cli.doctor:doctor", "[RECIPE]                     is this machine able to train?"),
}
"""verb -> (address, usage). Plugins add theirs by the entry-point group `mrdist.commands`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags, words = flags_in(words)
    if not words or words[0] in ("help", "-h", "--help"):
        return carefully(lambda: tell(words[1:]), verbose=flags.verbose)
    if words[0] == "--version":
        from mrdist import __version__

        print(__version__)
        return DONE
    return carefully(lambda: find(words[0])(words[1:], flags), verbose=flags.verbose)


def carefully(work: Callable[[], int], *, verbose: bool) -> int:
    """Do the work of a command line; an error becomes a message and an exit code."""
    # Before torch is loaded: its threads spin while they wait for one another, and where another process wants a core, too (a loader,
    # a renderer, a neighbour), a step takes ten times as long. Asleep, they cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    log_to_screen(verbose=verbose)
    try:
        return work()
    except MrdistError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return wrong.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as wrong:
        if isinstance(wrong, ModuleNotFoundError) and wrong.name in EXTRAS:
            print(f"error: {missing(wrong.name)}", file=sys.stderr)
            return YOURS
        import traceback

        traceback.print_exc()
        print("\nThis is a bug of mrdist, not of yours: please report it with the lines above.", file=sys.stderr)
        return OURS


def missing(package: str) -> MrdistError:
    """What to say where one of EXTRAS is not there."""
    return MrdistError(what=package, got="not installed", wanted="what mrdist on a cluster stands on", try_=f"{INSTALL} in the checkout")


def log_to_screen(*, verbose: bool = False) -> None:
    """Show what is logged on standard error: warnings, or everything."""
    # Said before any library does: open_clip logs to the root logger, which then prints everything of everybody.
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    logging.getLogger().handlers[0].setLevel(logging.INFO if verbose else logging.WARNING)


def find(verb: str) -> Verb:
    """The function behind a verb.

    Raises:
        RecipeError: nobody knows the verb.
    """
    plugins = {e.name: e.value for e in entry_points(group="mrdist.commands")}
    table = {**plugins, **{name: address for name, (address, _) in VERBS.items()}}
    if verb not in table:
        near = difflib.get_close_matches(verb, table, n=1)
        raise RecipeError(
            what=f"mrdist {verb}",
            got="no such verb",
            wanted=f"one of {', '.join(sorted(table))}",
            try_=f"mrdist {near[0]}" if near else "mrdist --help",
        )
    module, _, name = table[verb].partition(":")
    found: Verb = getattr(import_module(module), name)
    return found


def tell(verbs: Sequence[str]) -> int:
    """Print what a verb does, or which there are."""
    print(about(verbs[0]) if verbs else usage())
    return DONE


def about(verb: str) -> str:
    """What `mrdist VERB --help` says: USAGE of the verb's module, else its line above, and what its function promises.

    Raises:
        RecipeError: nobody knows the verb.
    """
    from inspect import getdoc, getmodule

    found = find(verb)
    _, line = VERBS.get(verb, ("", ""))
    promise = re.split(r"\n+(?=Raises:)", getdoc(found) or "")[0]
    return f"mrdist {verb} {getattr(getmodule(found), 'USAGE', line)}\n\n{promise}"


def usage() -> str:
    """What `mrdist --help` says."""
    lines = ["mrdist VERB WORDS", "", "verbs"]
    lines += [f"  {name:<9} {text}" for name, (_, text) in VERBS.items()]
    lines += [f"  {e.name:<9} (installed by {e.value.split('.')[0]})" for e in entry_points(group="mrdist.commands") if e.name not in VERBS]
    lines += [
        "",
        "A RECIPE is a name under configs/recipe (smoke, furniture), a .yaml file, or a run folder.",
        "key=value changes a recipe; dots are depth: optim.lr=1e-4; a group takes a preset: student=small.",
    ]
    lines += [
        "",
        "mrdist VERB --help says more of one.",
        "flags  --dry-run  say it, do nothing   --json  for machines   -q, -v  less, more   --version",
        "exit   0 done   1 you can fix it   2 a bug of ours   75 stopped: the same command goes on",
    ]
    return "\n".join(lines)


def flags_in(words: list[str]) -> tuple[Flags, list[str]]:
    """The flags, wherever they stand, and the other words; `--help` comes first: `mrdist train --help` is `mrdist help train`."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--dry-run", action="store_true")
    reader.add_argument("--json", action="store_true")
    reader.add_argument("-q", "--quiet", action="store_true")
    reader.add_argument("-v", "--verbose", action="store_true")
    known, rest = reader.parse_known_args(words)
    if any(word in ("-h", "--help") for word in rest):
        rest = ["--help", *(word for word in rest if word not in ("-h", "--help", "help"))]
    return Flags(known.dry_run, known.json, known.quiet, known.verbose), rest
