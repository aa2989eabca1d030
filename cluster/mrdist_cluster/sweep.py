"""Words that say several things at once: `seed=0,1 optim.lr=1e-3,3e-3` is four runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

COMMA = re.compile(r",(?![^\[{]*[\]}])")
"""A comma that is in no bracket."""


def runs(words: Sequence[str]) -> list[list[str]]:
    """The words of every run: the product of all lists; one run where there is no list. `optim.betas=[0.9,0.98]` is a value, no list.

    Example:
        >>> runs(["steps=10", "seed=0,1"])
        [['steps=10', 'seed=0'], ['steps=10', 'seed=1']]
    """
    choices = []
    for word in words:
        key, equals, value = word.partition("=")
        choices.append([f"{key}{equals}{one}" for one in COMMA.split(value)])
    return [list(chosen) for chosen in product(*choices)]
