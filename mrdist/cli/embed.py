"""`mrdist embed`: anybody's meshes and clouds -> embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.main import DONE, YOURS, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import AxisError, MrdistError, RecipeError


def embed(words: Sequence[str], flags: Flags) -> int:
    """`embed MODEL FILE... up=AXIS [out=FILE]`: one unit row per file, in a safetensors file with the names beside it."""
    from safetensors.numpy import save_file

    from mrdist.encoder import from_pretrained
    from mrdist.shapes import Points

    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if stray := sorted(options.keys() - {"up", "out"}):
        raise RecipeError(what=f"{stray[0]}=", got="no such option", wanted="up=AXIS, out=FILE", try_="mrdist embed MODEL FILE... up=y")
    if len(names) < 2:
        raise RecipeError(what="mrdist embed", got=" ".join(words), wanted="a model folder and files", try_="mrdist embed MODEL a.glb up=y")
    if "up" not in options:
        raise AxisError(what="mrdist embed", got="no up axis", wanted="up=x, up=y or up=z", try_="up=y for glTF, up=z for most CAD")
    out = Path(options.get("out", "embeddings.safetensors"))
    if not out.absolute().parent.is_dir():
        raise RecipeError(what=f"out={out}", got="no such folder", wanted="a place to write", try_=f"mkdir -p {out.parent}")
    if flags.dry_run:
        print(f"would embed {len(names) - 1} files with {names[0]} into {out}")
        return DONE
    encoder = from_pretrained(names[0])
    screen, clouds, kept, skipped = Screen(quiet=flags.quiet), [], [], []
    for number, name in enumerate(names[1:], 1):
        try:
            clouds.append(Points.from_file(name, up=options["up"], points=encoder.contract.points))
            kept.append(name)
        except MrdistError as wrong:
            skipped.append(f"{name}: {wrong}")
        screen("read", number, len(names) - 1)
    for line in skipped:
        print(f"skipped {line}")
    if not clouds:
        return YOURS
    rows = encoder.encode(clouds).cpu().numpy()
    save_file({"embeddings": rows}, out, metadata={"names": json.dumps(kept)})
    print(f"{len(kept)} embeddings of width {rows.shape[1]} -> {out}" + (f", {len(skipped)} skipped" if skipped else ""))
    return DONE
