"""The engine that shares tensors between ranks: DeepSpeed's ZeRO, every field written out."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrdist.errors import INSTALL, RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.training.birth import hand_out
from mrdist.training.engine import MOMENTS, Engine, Make, check_precision
from mrdist.training.optim import adamw
from mrdist.training.two_pass import check_chunk, in_chunks


@dataclass(frozen=True)
class ZeroConfig(Part):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020): stage 1 shares optimiser states, 2 also gradients, 3 also parameters.

    `bf16` is torch's autocast around float32 weights, as in the plain engine: coordinates, norms and losses stay in
    float32. DeepSpeed's own bf16 mode, which casts every input and weight, is not used.
    """

    kind: str = "zero"
    stage: int = 2  # 0..3
    precision: str = "fp32"  # fp32 | bf16
    chunk: int = 0  # rows per rank embedded at once: memory and time, not the loss; 0 = all
    communication: str = "fp32"  # fp32 | bf16: how gradients (and at stage 3 weights) of linear layers travel; bf16 needs precision=bf16
    offload: str = "none"  # none | cpu: where optimiser states live
    build_sharded: bool = False  # stage 3: no rank ever holds the whole objective, not even while building it
    overlap: bool = True  # reduce gradients while the backward pass goes on
    reduce_bucket: int = 50_000_000  # numbers reduced at once
    allgather_bucket: int = 50_000_000  # stages 1, 2: numbers gathered at once
    prefetch_bucket: int = 50_000_000  # stage 3: numbers fetched ahead
    persistence: int = 100_000  # stage 3: parameters smaller than this are never shared
    live: int = 1_000_000_000  # stage 3: numbers held at once before parameters are given back
    reuse: int = 1_000_000_000  # stage 3: a parameter needed again within so many numbers is kept
    sub_group: int = 1_000_000_000  # stage 3: numbers the optimiser moves at once

    def check(self, recipe: Recipe) -> None:
        check_precision(self.kind, self.precision, ("fp32", "bf16"))
        check_chunk(self.chunk)
        if not 0 <= self.stage <= 3:
            raise RecipeError(what="engine.stage", got=self.stage, wanted="0, 1, 2 or 3", try_="engine.stage=2")
        if self.offload not in ("none", "cpu"):
            raise RecipeError(what="engine.offload", got=repr(self.offload), wanted="none or cpu", try_="engine.offload=none")
        if self.offload == "cpu" and self.stage < 2:
            raise RecipeError(what="engine.offload", got=f"cpu at stage {self.stage}", wanted="stage 2 or 3", try_="engine.stage=2")
        if self.communication not in ("fp32", "bf16") or (self.communication == "bf16" and self.precision != "bf16"):
            raise RecipeError(
                what="engine.communication",
                got=repr(self.communication),
                wanted="fp32, or bf16 with precision=bf16",
                try_="engine.communication=fp32",
            )
        if self.build_sharded and self.stage != 3:
            raise RecipeError(what="engine.build_sharded", got=f"true at stage {self.stage}", wanted="stage 3", try_="engine.stage=3")

    def build(self, make: Make, recipe: Recipe, ranks: Ranks, device: torch.device) -> Engine:
        return ZeroEngine(self, make, recipe, ranks, device)


def settings(config: ZeroConfig, recipe: Recipe, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration. A field left out would be DeepSpeed's to change (it changed clipping from 0 to 1)."""
    zero: dict[str, Any] = {
        "stage": config.stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": config.reduce_bucket,
        "allgather_partitions": True,
        "allgather_bucket_size": config.allgather_bucket,
        "overlap_comm": config.overlap,
        "round_robin_gradients": False,
        "ignore_unused_parameters": True,
        "sub_group_size": config.sub_group,
        "stage3_prefetch_bucket_size": config.prefetch_bucket,
        "stage3_param_persistence_threshold": config.persistence,
        "stage3_max_live_parameters": config.live,
        "stage3_max_reuse_distance": config.reuse,
        # Gathering several parameters at once, DeepSpeed waits for the last gather only. On a GPU the stream makes that enough; gloo ends
        # them in any order, and on a busy machine a step now and then began with whatever the memory held before.
        "stage3_allgather_sequential": device.type == "cpu",
        "memory_efficient_linear": False,  # it patches torch.nn.functional.linear for the whole process
    }
    if config.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_batch_size": recipe.batch,
        "train_micro_batch_size_per_gpu": recipe.batch // ranks.size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optim.clip,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": config.communication,
        "sparse_gradients": False,
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {
            "enabled": config.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # `linear_kinds`, once there is an objective to ask
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's CPU Adam needs a compiler on every machine
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
    }


def linear_kinds(objective: nn.Module) -> list[str]:
    """The full names of all classes of linear layers in an objective: DeepSpeed knows a layer by its very class, not by its base."""
    kinds = {type(module) for module in objective.modules() if isinstance(module, nn.Linear | nn.Conv1d)}
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


def deepspeed_for(device: torch.device) -> ModuleType:
    """DeepSpeed, quiet, and with a process group to stand on.

    Raises:
        RecipeError: it is not installed.
    """
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read once, at import; else it looks for a GPU and warns
    try:
        import deepspeed
    except ImportError as missing:
        raise RecipeError(what="engine zero", got=str(missing), wanted="DeepSpeed", try_=f"{INSTALL}, or engine=plain") from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # torch 2.13 renames the collectives that DeepSpeed calls, and says so at every place of a call.
    warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)
    # Not needed here, and compiling it takes minutes at the first start on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    if not dist.is_initialized():
        backend = "gloo" if device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    deepspeed.init_distributed(verbose=False)
    return deepspeed  # type: ignore[no-any-return]


class ZeroEngine(Engine):
    """DeepSpeed's engine around the whole objective; torch's AdamW is passed in."""

    def __init__(self, config: ZeroConfig, make: Make, recipe: Recipe, ranks: Ranks, device: torch.device) -> None:
        self._deepspeed = deepspeed_for(device)
        self._stage = config.stage
        chosen = settings(config, recipe, ranks, device)
        objective = self._sharded(make, ranks, chosen) if config.build_sharded else make()
        if config.communication == "bf16":
            chosen["torch_autocast"]["lower_precision_safe_modules"] = linear_kinds(objective)
        self._optimizer = adamw(objective, recipe.optim, fused=device.type == "cuda" and config.offload == "none")
        module = in_chunks(objective, config.chunk)
        self._engine, *_ = self._deepspeed.initialize(model=module, optimizer=self._optimizer, config=chosen)
        self._zero = self._engine.optimizer  # at stage 0 this is AdamW itself
        super().__init__(objective, recipe, ranks, device)
        self._begin_moments()

    def _sharded(self, make: Make, ranks: Ranks, chosen: dict[str, Any]) -> Objective[Any]:
        """An objective born in shards, with exactly the numbers of `make()`.

        Under `zero.Init` a parent cannot initialise its children's parameters: they are already empty. And a GPU draws other random
        numbers. So shards are born with whatever they are, and `hand_out` tells them what they should be.
        """
        zero = self._deepspeed.zero
        with zero.Init(config_dict_or_path=chosen):
            objective = make()
        shards = dict(objective.named_parameters())

        def give(name: str, value: Tensor | None) -> None:
            with torch.no_grad(), zero.GatheredParameters([shards[name]], modifier_rank=0):
                if value is not None:
                    shards[name].copy_(value)

        hand_out(make, ranks, give)
        return objective

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return self._optimizer

    def _flats(self) -> list[Tensor]:
        """The tensors AdamW moves on this rank: parameters at stage 0, flat shards of many parameters above it."""
        if self._stage == 0:
            return [p for _, p in self._learnt()]
        return list(self._zero.single_partition_of_fp32_groups if self._stage < 3 else self._zero.fp32_partitioned_groups_flat)

    def _begin_moments(self) -> None:
        """AdamW's state from the start, not from the first step: a checkpoint can be read into it at once."""
        fused = self._optimizer.defaults["fused"]
        for flat in self._flats():
            self._optimizer.state[flat] = {
                "step": torch.zeros((), device=flat.device if fused else "cpu"),
                **{m: torch.zeros_like(flat) for m in MOMENTS},
            }
        if self._stage in (1, 2):
            self._zero._lazy_init_hp_params_optimizer_state()

    def _forward(self, batch: Any) -> Loss:
        loss: Loss = self._engine(batch, self.ranks)
        return loss

    def _step(self, total: Tensor) -> float:
        self._engine.backward(total)
        if self._stage == 0:
            # DeepSpeed knows the norm only where it clips; the gradients are averaged by now.
            norm = float(torch.nn.utils.get_total_norm([p.grad for _, p in self._learnt() if p.grad is not None]))
            self._engine.step()
            return norm
        self._engine.step()
        # DeepSpeed takes -1 for the norm of a group that is not finite: nan looks like a small gradient. The moments cannot lie.
        moved = torch.stack([self._optimizer.state[flat]["exp_avg"].sum().to(self.device) for flat in self._flats()]).sum()
        return float(self._engine.get_global_grad_norm()) if bool(moved.isfinite()) else float("nan")

    def shard(self, parameter: nn.Parameter) -> Tensor:
        # `parameter.data` is empty at stage 3, and writing to it changes nothing, without a word.
        return parameter.ds_tensor.data if self._stage == 3 else parameter.data  # type: ignore[attr-defined]

    def whole(self, shard: Tensor, parameter: nn.Parameter) -> Tensor:
        if self._stage < 3:
            return shard
        flat = self.ranks.gather(shard.flatten())
        return flat[: parameter.ds_numel].view(parameter.ds_shape)  # type: ignore[attr-defined]

    def _write(self, shard: Tensor, parameter: nn.Parameter, value: Tensor) -> None:
        if self._stage < 3:
            shard.copy_(value)
            return
        mine = value.flatten()[self.ranks.rank * shard.numel() : (self.ranks.rank + 1) * shard.numel()]
        shard.zero_()  # the last rank's shard is longer than what is left for it
        shard[: len(mine)].copy_(mine)

    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        if self._stage == 0:
            held: Tensor = self._optimizer.state[parameter][moment]
            return held
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, moment)  # type: ignore[no-any-return]

    def _set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        if self._stage == 0:
            self._optimizer.state[parameter][moment].copy_(value)
            return
        if self._stage == 3:
            # DeepSpeed cuts equal parts from the full value; the last rank's would end outside it.
            share: int = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            value = nn.functional.pad(value.flatten(), (0, share * self.ranks.size - value.numel()))
            self._zero.set_local_hp_param(value[self.ranks.rank * share : (self.ranks.rank + 1) * share], parameter, moment)
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value, moment)

    def _settle(self, step: int) -> None:
        for held in self._optimizer.state.values():
            held["step"].fill_(step)
        if self._stage > 0:
            self._zero.refresh_fp32_params()
        if self._stage == 3 and self._zero.persistent_parameters:
            kept = self._zero.persistent_parameters
            kept[0].partition(kept)
            kept[0].all_gather(kept)

    def readable(self) -> AbstractContextManager[Any]:
        held = list(self.objective.parameters(recurse=False)) if self._stage == 3 else []
        gathered: AbstractContextManager[Any] = self._deepspeed.zero.GatheredParameters(held, enabled=bool(held))
        return gathered

    def close(self) -> None:
        self._engine.destroy()
