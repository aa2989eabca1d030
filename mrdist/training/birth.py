"""How ranks that hold an objective in shards get the numbers of a whole one, which none of them ever holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from mrdist.ranks import Ranks
from mrdist.training.engine import Make

Give = Callable[[str, Tensor | None], None]
"""Hands the first rank's numbers of a parameter, by name, to the shards of all; None on the other ranks."""

SMALL = 4096
"""Numbers of a parameter that the first rank keeps until the end."""

_REST, _AGAIN = "", " "


def hand_out(make: Make, ranks: Ranks, give: Give) -> None:
    """Give all parameters of `make()`, one by one. Every rank calls.

    The first rank makes the objective, hands out what a module holds as soon as that stands in another one, and forgets it: it holds one
    module's numbers at a time. Where a module's numbers are changed after that (released weights are read into a finished student),
    which is noticed, it makes the objective once more, whole.
    """
    if not ranks.first:
        _follow(make, ranks, give)
        return
    given: dict[str, nn.Parameter] = {}
    modules = _names(make)

    def finished(module: nn.Module) -> None:
        for parameter, name in zip(module.parameters(recurse=False), next(modules), strict=True):
            if name and name not in given and parameter.numel() >= SMALL:
                ranks.objects(name)
                give(name, parameter.data)
                # Keeps its shape. Whatever is written into one number that stands for many is refused, or can be seen in it.
                parameter.data = parameter.data.new_full((), torch.nan).expand(parameter.shape)
                given[name] = parameter

    whole = None
    try:
        with _seen(finished):
            whole = make()
    except RuntimeError as refused:
        if not given or "single memory location" not in str(refused):
            raise
    if whole is None or not all(bool(parameter.view(-1)[0].isnan()) for parameter in given.values()):
        given.clear()
        whole = make()
        ranks.objects(_AGAIN)
    ranks.objects(_REST)
    for name, parameter in whole.named_parameters():
        if name not in given:
            give(name, parameter.data)


def _follow(make: Make, ranks: Ranks, give: Give) -> None:
    """What the other ranks do meanwhile."""
    with torch.device("meta"):
        names = [name for name, _ in make().named_parameters()]
    given: set[str] = set()
    while (name := str(ranks.objects(None)[0])) != _REST:
        if name == _AGAIN:
            given.clear()
        else:
            give(name, None)
            given.add(name)
    for name in names:
        if name not in given:
            give(name, None)


def _names(make: Make) -> Iterator[list[str]]:
    """The names of the parameters of each module itself, in the order in which modules are finished; "" for one that is left out."""
    modules: list[list[nn.Parameter]] = []
    with torch.device("meta"), _seen(lambda module: modules.append(list(module.parameters(recurse=False)))):
        objective = make()
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return iter([[names.get(id(parameter), "") for parameter in module] for module in modules])


@contextmanager
def _seen(finished: Callable[[nn.Module], None]) -> Iterator[None]:
    """Inside, `finished` is told of every module that is put into another one: its constructor is done."""
    hook = register_module_module_registration_hook(lambda parent, name, module: finished(module) if module is not None else None)
    try:
        yield
    finally:
        hook.remove()
