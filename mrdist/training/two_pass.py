"""Batches wider than memory: rows are embedded a chunk at a time, compared all together, and embedded again for their gradients.

A relation is as wide as what is compared together, so a batch cannot be cut and its gradients added. But what needs all rows is the
comparison, and all it needs of them is their embeddings (GradCache: Gao et al. 2021, arXiv 2101.06983). With rows X_1 … X_C of a rank:

    (1) embed chunk after chunk, keep no activation      E = [embed(X_1); …; embed(X_C)]                   [b, E]
    (2) compare all rows                                 L(E), its gradient ∂L/∂E, and those of the comparison's own parameters
    (3) embed each chunk again, and go back through it   dL/dθ = Σ_c ⟨∂ embed(X_c) / ∂θ, ∂L/∂E_c⟩

This is the chain rule: nothing is approximated. (3) is torch's recomputation, chunk by chunk inside one backward pass, so that an engine
sees one forward, one backward and each gradient once, when all chunks have added to it; and no engine accumulates anything.

**Chance.** What a row draws from its key it draws in any chunk. torch's generators, of the CPU and of the batch's device, are put back for
(3) to what they were when the chunk was first embedded, and afterwards stand where (2) left them. `nn.Dropout` is therefore exact too,
though it drops others than it would in a batch embedded at once. A generator that torch does not know of is not put back.

**BatchNorm** sees a chunk, not the batch, and would count each chunk twice. Measured with 64 rows in 2 to 16 chunks: gradients off by 0.2
to 0.5 %, running variances by 24 to 85 %. So it is refused, unless it is frozen (in evaluation mode), where it is exact.

**What a step costs**, in C chunks, beside one pass. Memory: the activations of one chunk, [b, E], and 5 kB of random state per chunk. Time:
embedding forward twice. Communication, counted on two ranks (DeepSpeed 0.19.7) in P, the number of parameters:

    engine           gradients sent   weights gathered                                         whole gradients held on a rank
    plain, zero 0    P,  as before    -                                                        P, as before
    zero 1           P,  as before    P, as before                                             P, as before
    zero 2           P,  as before    P, as before                                             P, instead of a bucket
    zero 3           P,  as before    P, as before, where they fit into `live` and `reuse`;    P, instead of a bucket
                                      else 3 C P instead of 2 P

To send each chunk's gradients at stages 2 and 3 would save the last column, and send C P.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mrdist.errors import RecipeError
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks


class Rows(Protocol):
    """A batch that can be taken apart."""

    def __len__(self) -> int: ...

    def rows(self, which: slice) -> Self:
        """Some of the rows."""

    def tensors(self) -> dict[str, Any]:
        """The tensors it holds, by name."""


class TwoPass(nn.Module):
    """An objective whose rows are embedded `chunk` at a time; called as the objective is, with the same result.

    Raises:
        RecipeError: rows of this objective see one another.
    """

    def __init__(self, objective: Objective[Any], chunk: int) -> None:
        super().__init__()
        _check_rows_are_apart(objective, chunk)
        self.objective, self.chunk = objective, chunk

    def forward(self, batch: Rows, ranks: Ranks) -> Loss:
        """The loss of my rows of a global batch."""
        if len(batch) <= self.chunk:
            return self.objective.compare(self.objective.embed(batch), batch, ranks)
        chunks = [batch.rows(slice(at, at + self.chunk)) for at in range(0, len(batch), self.chunk)]
        return self.objective.compare(torch.cat([self._embed_twice(chunk) for chunk in chunks]), batch, ranks)

    def _embed_twice(self, chunk: Rows) -> Tensor:
        """The embeddings of a chunk: now without keeping an activation, and again in backward."""

        def embed(*_: Tensor) -> Tensor:
            # Weights cast for one chunk would collect the gradients of all chunks, in bfloat16.
            torch.clear_autocast_cache()
            rows = self.objective.embed(chunk)
            # Backward begins a chunk here, outside every module, with the second forward: the hooks by which ZeRO-3 lends and takes back
            # weights then run as in any forward and backward. Begun inside a module, they take back what its backward still needs.
            return rows * rows.new_ones(())

        # torch looks for devices, whose generators are to be put back, among the arguments; it does not look into a batch.
        out: Tensor = checkpoint(embed, *chunk.tensors().values(), use_reentrant=False, preserve_rng_state=True)
        return out


def in_chunks(objective: Objective[Any], chunk: int) -> nn.Module:
    """What an engine calls with (batch, ranks): the objective itself where `chunk` is 0, else in chunks of so many rows per rank.

    Raises:
        RecipeError: as `TwoPass`.
    """
    return TwoPass(objective, chunk) if chunk else objective


def check_chunk(chunk: int) -> None:
    """Raises RecipeError where `chunk` is no number of rows."""
    if chunk < 0:
        raise RecipeError(what="engine.chunk", got=chunk, wanted="0 (all rows at once) or more", try_="engine.chunk=0")


def _check_rows_are_apart(objective: Objective[Any], chunk: int) -> None:
    name = type(objective).__name__
    if type(objective).forward is not Objective.forward:
        got = f"{chunk} for {name}, which has a forward of its own"
        raise RecipeError(what="engine.chunk", got=got, wanted="an objective that is embed and compare", try_="engine.chunk=0")
    for where, module in objective.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            got = f"{chunk} for {name}, whose rows see one another in {where} ({type(module).__name__})"
            raise RecipeError(what="engine.chunk", got=got, wanted="rows embedded apart", try_="engine.chunk=0, or student.norm=layer")
