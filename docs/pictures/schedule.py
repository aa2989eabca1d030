"""Draws schedule.png: which of four ranks computes which tile, from the schedule itself. `python docs/pictures/schedule.py`"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from mrdist.relation.schedule import Layout, choose

matplotlib.use("agg")
from matplotlib import pyplot as plt

RANKS, ROWS, BLOCK = 4, 6, 1
COLOURS = np.array([[0.90, 0.62, 0.00], [0.34, 0.71, 0.91], [0.00, 0.62, 0.45], [0.80, 0.47, 0.65]])
NOTES = {
    "row": "no gradient travels",
    "pair": "each pair once (pale: its mirror)",
    "ring": "as row, a rank's columns at a time",
    "grid": "a line's rows, a file's columns",
}


def drawn(name: str) -> np.ndarray:
    """[tiles, tiles, 3]: the colour of the rank that computes a tile; pale where its mirror says it all."""
    files = choose(name, rows=ROWS, width=1, bytes_each=4, size=RANKS).files
    out = np.zeros((RANKS * ROWS, RANKS * ROWS, 3))
    for rank in range(RANKS):
        layout = Layout(name, rank, RANKS, files)
        for i, j, both in layout.meetings(ROWS, BLOCK, layout.columns):
            row, column = (block.owner * ROWS + block.start for block in (i, j))
            out[row, column] = COLOURS[rank]
            if both:
                out[column, row] = 1 - (1 - COLOURS[rank]) * 0.45
    return out


def main() -> None:
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
    for axis, (name, note) in zip(axes, NOTES.items(), strict=True):
        axis.imshow(drawn(name), interpolation="nearest")
        for edge in range(1, RANKS):
            axis.axhline(edge * ROWS - 0.5, color="white", linewidth=2)
            axis.axvline(edge * ROWS - 0.5, color="white", linewidth=2)
        axis.set(title=f"{name}: {note}", xlabel="columns", ylabel="rows" if name == "row" else "", xticks=[], yticks=[])
        axis.title.set_fontsize(9)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
