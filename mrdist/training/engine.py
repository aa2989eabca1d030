"""How an objective is trained, whatever holds its tensors; and the engine that holds them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.training.ema import Average
from mrdist.training.optim import adamw, rate, set_rate, shape_of
from mrdist.training.two_pass import check_chunk, in_chunks

Make = Callable[[], Objective[Any]]
"""Builds the objective from the recipe's seed: the same on every rank, as often as it is called."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter, besides how many steps it took."""


class Engine(ABC):
    """Forward, backward, clip, step. What is common lives here; where tensors live is said by each kind.

    There is no gradient accumulation, on purpose: a relation is as wide as what is compared together, so two
    half batches train another method than one whole batch. Where memory is short, `chunk` embeds in parts (`two_pass`).

    A parameter that received no gradient has gradient zero: it decays and its moments fade. (torch's AdamW would skip it, ZeRO's
    cannot; all engines do the same.)
    """

    def __init__(self, objective: Objective[Any], recipe: Recipe, ranks: Ranks, device: torch.device) -> None:
        self.objective, self.recipe, self.ranks, self.device = objective, recipe, ranks, device
        self.done = 0  # finished steps
        self.learning_rate = 0.0  # of the last step
        self.gradient_norm = 0.0  # of the last step, before clipping; nan where this rank has seen that it is not finite
        self.average: Average | None = None
        if recipe.optim.ema > 0:
            self.average = Average(self.exported, recipe.optim.ema, self.shard)

    @property
    def exported(self) -> nn.Module:
        """The part of the objective that others will use."""
        return self.objective.exported()

    def forward(self, batch: Any) -> Loss:
        """The loss of this rank's rows of a global batch."""
        self.objective.at_step(self.done, self.recipe.steps)
        with self.ranks.clock.at("forward"):
            return self._forward(batch)

    def step(self, loss: Loss) -> None:
        """Differentiate `loss.total`, average over ranks, clip, and move the parameters."""
        self.learning_rate = rate(self.done, self.recipe.optim, self.recipe.steps)
        set_rate(self._adam, self.learning_rate)
        with self.ranks.clock.at("step"):
            self.gradient_norm = self._step(loss.total)
        self.done += 1
        self.objective.after_step(self.ranks, self.done)
        if self.average is not None:
            self.average.follow(self.done)

    @torch.no_grad()
    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything a checkpoint keeps, one full tensor at a time, on every rank; every rank must finish the loop.

        Names are `weights/`, `buffers/`, `exp_avg/`, `exp_avg_sq/` and `average/` before the parameter's own name: the same for
        every engine and any number of ranks.
        """
        for name, parameter in self.objective.named_parameters():
            yield f"weights/{name}", self.whole(self.shard(parameter), parameter)
        for name, buffer in buffers(self.objective):
            yield f"buffers/{name}", buffer
        for moment in MOMENTS:
            for name, parameter in self._learnt():
                yield f"{moment}/{name}", self._moment(parameter, moment)
        if self.average is not None:
            for name, parameter in self.exported.named_parameters():
                yield f"average/{name}", self.whole(self.average.held[name], parameter)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], step: int) -> None:
        """Continue from what `state()` of any engine, on any number of ranks, gave after `step` steps.

        `state` is asked for one tensor at a time. Without `average/` in it, the average starts from the weights.
        """
        for name, parameter in self.objective.named_parameters():
            self._write(self.shard(parameter), parameter, state[f"weights/{name}"])
        for name, buffer in buffers(self.objective):
            buffer.copy_(state[f"buffers/{name}"])
        for moment in MOMENTS:
            for name, parameter in self._learnt():
                self._set_moment(parameter, moment, state[f"{moment}/{name}"].to(self.device))
        if self.average is not None:
            kind = "average/" if any(name.startswith("average/") for name in state) else f"weights/{self.export_prefix()}"
            for name, parameter in self.exported.named_parameters():
                self._write(self.average.held[name], parameter, state[kind + name])
        self._settle(step)
        self.done = step

    @torch.no_grad()
    def student_state(self, *, keep: bool = True) -> dict[str, Tensor]:
        """The exported module's state dict in full, on the CPU, averaged weights if there are any. Every rank calls.

        Args:
            keep: whether this rank wants it; a rank that does not still takes part, and gets nothing.
        """
        out: dict[str, Tensor] = {}
        for name, parameter in self.exported.named_parameters():
            shard = self.shard(parameter) if self.average is None else self.average.held[name]
            whole = self.whole(shard, parameter)
            if keep:
                out[name] = whole.detach().to("cpu", copy=True)
        out.update({name: buffer.detach().to("cpu", copy=True) for name, buffer in buffers(self.exported) if keep})
        return out

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The names that `state()` gives, with the shapes of the full tensors."""
        whole = {name: shape_of(p) for name, p in self.objective.named_parameters()}
        out = {f"weights/{name}": shape for name, shape in whole.items()}
        out |= {f"buffers/{name}": tuple(buffer.shape) for name, buffer in buffers(self.objective)}
        out |= {f"{moment}/{name}": whole[name] for moment in MOMENTS for name, _ in self._learnt()}
        if self.average is not None:
            out |= {f"average/{name}": whole[self.export_prefix() + name] for name in self.average.held}
        return out

    def export_prefix(self) -> str:
        """Where the exported module sits in the objective: "student." """
        return next(f"{name}." if name else "" for name, module in self.objective.named_modules() if module is self.exported)

    def readable(self) -> AbstractContextManager[Any]:
        """Inside, parts of the objective may be called outside `forward`; every rank enters."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027 (most engines have nothing to give back)
        """Give back what the engine holds outside Python."""

    def _learnt(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.objective.named_parameters() if p.requires_grad)

    @property
    @abstractmethod
    def _adam(self) -> torch.optim.Optimizer: ...

    @abstractmethod
    def _forward(self, batch: Any) -> Loss: ...

    @abstractmethod
    def _step(self, total: Tensor) -> float:
        """Backward, average, clip, move; the norm of the averaged gradient before clipping."""

    @abstractmethod
    def shard(self, parameter: nn.Parameter) -> Tensor:
        """This rank's numbers of a parameter, writable in place."""

    @abstractmethod
    def whole(self, shard: Tensor, parameter: nn.Parameter) -> Tensor:
        """The full tensor of which every rank gives its shard, in the shape of `parameter`."""

    @abstractmethod
    def _write(self, shard: Tensor, parameter: nn.Parameter, value: Tensor) -> None:
        """Put this rank's part of the full `value` into `shard`."""

    @abstractmethod
    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor: ...

    @abstractmethod
    def _set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None: ...

    @abstractmethod
    def _settle(self, step: int) -> None:
        """Called after shards were written: set the optimiser's count to `step`, refresh copies of the weights."""


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that are learnt or counted; a non-persistent one belongs to the code, not to the weights."""
    kept = module.state_dict().keys()
    return ((name, buffer) for name, buffer in module.named_buffers() if name in kept)


def check_precision(kind: str, precision: str, allowed: tuple[str, ...]) -> None:
    """Raises RecipeError where `precision` is not one of `allowed`."""
    if precision not in allowed:
        raise RecipeError(
            what=f"engine.precision of {kind}", got=repr(precision), wanted=" or ".join(allowed), try_=f"engine.precision={allowed[0]}"
        )


@dataclass(frozen=True)
class PlainConfig(Part):
    """Every rank holds everything and averages gradients: one process, or a few small ranks.

    `bf16` keeps weights and optimiser in float32 and lets autocast choose bfloat16 where it is safe. `fp64` is for tests, and wants
    batches in float64.
    """

    kind: str = "plain"
    precision: str = "fp32"  # fp32 | bf16 | fp64
    chunk: int = 0  # rows per rank embedded at once: memory and time, not the loss; 0 = all

    def check(self, recipe: Recipe) -> None:
        check_precision(self.kind, self.precision, ("fp32", "bf16", "fp64"))
        check_chunk(self.chunk)

    def build(self, make: Make, recipe: Recipe, ranks: Ranks, device: torch.device) -> Engine:
        return PlainEngine(self, make, recipe, ranks, device)


class PlainEngine(Engine):
    """Plain torch; with several ranks, `Ranks.average_` of the gradients before clipping."""

    def __init__(self, config: PlainConfig, make: Make, recipe: Recipe, ranks: Ranks, device: torch.device) -> None:
        objective = make().to(device, torch.float64) if config.precision == "fp64" else make().to(device)
        self._module = in_chunks(objective, config.chunk)
        self._autocast = config.precision == "bf16"
        self._optimizer = adamw(objective, recipe.optim, fused=device.type == "cuda")
        super().__init__(objective, recipe, ranks, device)
        self._begin_moments()
        # Replicas that start apart stay apart, and nothing else would say so.
        ranks.agree(repr(sum(float(p.detach().double().sum()) for p in objective.parameters())), what="initial weights")

    def _begin_moments(self) -> None:
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                self._optimizer.state[p] = {
                    "step": torch.zeros((), device=p.device if group["fused"] else "cpu"),
                    **{m: torch.zeros_like(p) for m in MOMENTS},
                }

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return self._optimizer

    def _forward(self, batch: Any) -> Loss:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            loss: Loss = self._module(batch, self.ranks)
        return loss

    def _step(self, total: Tensor) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        learnt = [p for _, p in self._learnt()]
        for p in learnt:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = [p.grad for p in learnt if p.grad is not None]
        self.ranks.average_(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.recipe.optim.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(learnt, self.recipe.optim.clip, norm)
        self._optimizer.step()
        return float(norm)

    def shard(self, parameter: nn.Parameter) -> Tensor:
        return parameter.data

    def whole(self, shard: Tensor, parameter: nn.Parameter) -> Tensor:
        return shard

    def _write(self, shard: Tensor, parameter: nn.Parameter, value: Tensor) -> None:
        shard.copy_(value)

    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        held: Tensor = self._optimizer.state[parameter][moment]
        return held

    def _set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        self._moment(parameter, moment).copy_(value)

    def _settle(self, step: int) -> None:
        for held in self._optimizer.state.values():
            held["step"].fill_(step)
