"""python -m mrdist_cluster train RECIPE|RUN [key=value ...]"""

from __future__ import annotations

import sys

from mrdist.cli.main import DONE, carefully, flags_in
from mrdist.errors import RecipeError
from mrdist_cluster.cli.train import train

USAGE = """python -m mrdist_cluster train RECIPE|RUN [key=value ...]

Renders, teaches and trains at once on a Ray cluster: that of RAY_ADDRESS or of `ray job submit`; with none, a private one on this machine.
The same command goes on with what it began, until that is done. A file `stop` in the run folder, SIGTERM or SIGUSR1 ends it after a step.
Everything else is said by `mrdist --help`."""


def main() -> int:
    """Run one command line; returns its exit code."""
    flags, words = flags_in(sys.argv[1:])
    if not words or words[0] in ("help", "-h", "--help"):
        sys.stdout.write(f"{USAGE}\n")
        return DONE

    def work() -> int:
        if words[0] != "train":
            raise RecipeError(what=f"mrdist_cluster {words[0]}", got="no such verb", wanted="train", try_=f"mrdist {words[0]}")
        return train(words[1:], flags)

    return carefully(work, verbose=flags.verbose)


raise SystemExit(main())
