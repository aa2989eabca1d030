"""`mrdist export`: a run's student as a folder that anybody can use, without DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.evaluate import run_folder
from mrdist.cli.main import DONE, Flags
from mrdist.cli.outcome import trained
from mrdist.recipe import load


def export(words: Sequence[str], flags: Flags) -> int:
    """`export RUN [FOLDER]`: safetensors, contract and card; a teacher that was fitted goes along."""
    from mrdist.prepare import open_prepared
    from mrdist.ranks import Ranks

    folder = run_folder("export", words)
    target = Path(words[1]) if len(words) > 1 else folder / "export"
    if flags.dry_run:
        print(f"would export the student of {folder} to {target}")
        return DONE
    recipe = load(folder)
    prepared = open_prepared(recipe)
    encoder = trained(folder, recipe, prepared, Ranks.alone())
    encoder.save(target, teacher_folder=getattr(prepared.teacher, "folder", None))
    print(f"{target}\nnext: mrdist embed {target} FILE... up=y")
    return DONE
