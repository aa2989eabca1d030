"""`mrdist export`: a run's student as a folder that anybody can use, without DeepSpeed, and that a hub takes as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.evaluate import run_folder
from mrdist.cli.main import DONE, Flags
from mrdist.cli.outcome import results, trained
from mrdist.errors import RecipeError
from mrdist.recipe import load


def export(words: Sequence[str], flags: Flags) -> int:
    """`export RUN [FOLDER] [licence=ID]`: safetensors, contract and card with the run's figures; a teacher that was fitted goes along."""
    from mrdist.evaluation import report
    from mrdist.prepare import open_prepared
    from mrdist.ranks import Ranks

    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if stray := sorted(options.keys() - {"licence", "license"}):
        raise RecipeError(
            what=f"{stray[0]}=", got="no such option", wanted="licence=ID", try_="mrdist export RUN FOLDER licence=apache-2.0"
        )
    folder = run_folder("export", names)
    target = Path(names[1]) if len(names) > 1 else folder / "export"
    if flags.dry_run:
        print(f"would export the student of {folder} to {target}")
        return DONE
    recipe = load(folder)
    prepared = open_prepared(recipe)
    encoder = trained(folder, recipe, prepared, Ranks.alone())
    figures = results(report.read(folder), recipe) if (folder / report.REPORT).is_file() else []
    licence = options.get("licence", options.get("license", ""))
    encoder.save(target, teacher_folder=getattr(prepared.teacher, "folder", None), licence=licence, results=figures)
    print(f"{target}\nnext: mrdist embed {target} FILE... up=y; or, for others: hf upload ORG/NAME {target}")
    if not licence:
        print("its card says that the licence is unknown: licence=ID, as your data and teacher allow")
    return DONE
