"""What a driver finds when it begins: which run folder its command means, whether another driver has it, and what is prepared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mrdist.cli.evaluate import is_run
from mrdist.cli.train import free_name
from mrdist.data.claims import SILENCE, Claims
from mrdist.errors import RecipeError
from mrdist.prepare import brings
from mrdist.prepare.prepared import complete
from mrdist.prepare.work import Work, data_marker
from mrdist.recipe import Recipe, load, to_yaml
from mrdist_cluster.runs import listed


def meant(words: Sequence[str]) -> tuple[Recipe, Path]:
    """The recipe of RECIPE|RUN [key=value ...] as ranks on any node understand it, and its run folder, which need not be there yet.

    The same words mean the same run until it is done: whoever starts a driver again, for whatever reason, goes on.

    Raises:
        RecipeError: as `load`, or a folder would lie where only one node sees it.
    """
    recipe = load(words[0], words[1:])
    recipe = replace(recipe, live=True, runs=_everywhere("runs", recipe.runs), store=_everywhere("store", recipe.store))
    if is_run(words[0]):
        return recipe, Path(words[0]).absolute()
    return recipe, _unfinished(recipe) or free_name(recipe)


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Being the only driver of a run, for the length of the block.

    Raises:
        DataError: another one is at work.
    """
    with Claims(run.parent, silence=SILENCE) as claims, claims.hold(run.name, within=1.5 * SILENCE):
        yield


def is_prepared(recipe: Recipe) -> bool:
    """Whether nobody has to render or teach: every unit is there, and as long as it was when it was written."""
    if brings(recipe):
        return True
    return data_marker(recipe).exists() and complete(Work.open(recipe))


def _unfinished(recipe: Recipe) -> Path | None:
    """The youngest run of exactly this recipe that is not done."""
    text = to_yaml(recipe)
    same = [folder for folder in listed(Path(recipe.runs)) if (folder / "recipe.yaml").read_text() == text]
    return next((folder for folder in reversed(same) if not (folder / "done").exists()), None)


def _everywhere(key: str, folder: str) -> str:
    """A folder's full path.

    Raises:
        RecipeError: it lies in a job's own copy of its working directory, which no other node sees and nobody keeps.
    """
    path = Path(folder).absolute()
    if "runtime_resources" in path.parts and not os.path.isabs(folder):
        raise RecipeError(
            what=f"{key}={folder}",
            got="a folder in this job's copy of its working directory",
            wanted="a folder that all nodes share",
            try_=f"{key}=/a/shared/folder",
        )
    return str(path)
