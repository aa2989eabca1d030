"""What is special about one machine or cluster: a `Site` file; and what a job gets of it: an `Allocation`.

A recipe never names a partition, an account or a card; a site never names a model. Sites are files of `configs/site/`, or any YAML file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mrdist.errors import RecipeError
from mrdist.presets import layers, presets, shipped


@dataclass(frozen=True)
class Device:
    """What one rank computes on; rates are of dense matrix products, as the maker states them."""

    name: str
    memory: float  # GiB
    bf16: float  # Tflop/s
    fp32: float  # Tflop/s, without TF32: torch does not use it unless asked


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA's data sheets of the SXM modules; memory as the driver shows it.
        Device("a100", memory=79.2, bf16=312, fp32=19.5),
        Device("h100", memory=79.6, bf16=989, fp32=67),
        Device("h200", memory=140.4, bf16=989, fp32=67),
        # One core of an AMD EPYC: measured with torch 2.13, products of 1,024 x 1,024.
        Device("core", memory=4, bf16=0.5, fp32=0.11),
    )
}

EVER = 10_000.0
"""Hours that no job lasts."""

OURS = {
    **{key: f"{key}: NAME, a key of the site" for key in ("partition", "account", "qos", "constraint")},
    "time": "hours: 24, a key of the site",
    "cpus-per-task": "cores: 96, a key of the site",
    "nodes": "mrdist submit ... nodes=4",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "gpus-per-task"), "mrdist submit ... gpus=4"),
    **dict.fromkeys(("array", "requeue", "no-requeue", "signal", "output", "error", "open-mode", "job-name"), "leave it out"),
}
"""Options of sbatch that a site does not say, and what to do instead."""

LEAST = {int: 1, float: 0}
WANTED = {str: "text", int: "a whole number, at least 1", float: "a number, not negative", dict: "options of sbatch"}
EXAMPLES = {"setup": "|, and its lines below, indented", "hours": 24, "sbatch": "{reservation: lab, exclusive: false}"}
"""Of values, by type and by key."""


@dataclass(frozen=True)
class Site:
    """One cluster: where jobs go, what they may take, and what a node is made of."""

    name: str
    partition: str = ""  # where trainers and teachers run; empty: the scheduler's default
    render_partition: str = ""  # where nodes without GPUs are; empty: renderers run beside the trainers
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: str = ""  # shell lines with which a submitted job begins: modules, networks
    hours: float = 0.0  # longest job; 0 = no limit
    nodes: int = 1  # most nodes of one job
    gpus: int = 1  # per node, each a rank's
    cores: int = 1  # per node
    device: str = "core"  # one of DEVICES, or any other name with memory, bf16 and fp32 below
    memory: float = 0.0  # GiB of a device; 0 = as DEVICES says
    bf16: float = 0.0  # Tflop/s of a device; 0 = as DEVICES says
    fp32: float = 0.0  # likewise
    host: float = 0.0  # GiB of a node's own memory; 0 = unknown
    inside: float = 10.0  # GB/s that a rank sends to its neighbours in the node
    between: float = 10.0  # GB/s that a rank sends to other nodes
    sbatch: Mapping[str, str | float] = field(default_factory=dict, hash=False)  # more of its options; true = a flag, false = none of ours

    def allocation(self, *, nodes: int | None = None, gpus: int | None = None, memory: float | None = None) -> Allocation:
        """What a job gets: the whole site, or fewer nodes, fewer devices per node, other memory.

        Raises:
            RecipeError: more than there is, or an unknown device.
        """
        for name, asked, most in (("nodes", nodes, self.nodes), ("gpus", gpus, self.gpus)):
            if asked is not None and not 1 <= asked <= most:
                wanted = f"1 to {most}, what site {self.name} has"
                raise RecipeError(what=name, got=asked, wanted=wanted, try_=f"{name}={min(max(asked, 1), most)}, or another site=")
        return Allocation(
            nodes=nodes or self.nodes, per_node=gpus or self.gpus, cores=self.cores, device=self._device(memory), host=self.host,
            inside=self.inside, between=self.between, hours=self.hours, site=self.name,
        )  # fmt: skip

    def _device(self, memory: float | None) -> Device:
        known = DEVICES.get(self.device)
        rates = {name: getattr(self, name) or getattr(known, name, 0.0) for name in ("bf16", "fp32", "memory")}
        rates["memory"] = memory or rates["memory"]
        if not all(value > 0 for value in rates.values()):
            missing = ", ".join(name for name, value in rates.items() if value <= 0)
            wanted = f"one of {', '.join(DEVICES)}, or memory, bf16 and fp32 beside it"
            raise RecipeError(
                what=f"device of site {self.name}", got=f"{self.device!r} without {missing}", wanted=wanted, try_="device: h100"
            )
        return Device(self.device, **rates)


@dataclass(frozen=True)
class Allocation:
    """What one job has: so many nodes, each with so many ranks."""

    nodes: int
    per_node: int  # ranks
    device: Device
    cores: int = 1  # per node
    host: float = 0.0  # GiB of a node's own memory; 0 = unknown
    inside: float = 10.0  # GB/s that a rank sends to its neighbours in the node
    between: float = 10.0  # GB/s that a rank sends to other nodes
    hours: float = 0.0  # longest job; 0 = no limit
    site: str = field(default="", compare=False)

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return self.nodes * self.per_node

    @property
    def rate(self) -> float:
        """Bytes per second that a rank sends where the way is narrowest."""
        return 1e9 * (self.inside if self.nodes == 1 else self.between)


def read(name: str) -> Site:
    """A site by its name in `configs/site/`, or from a YAML file.

    Raises:
        RecipeError: no such site, an unknown key (with the nearest one), a value of another type, or a site of GPUs that does not
            say which.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped() / "site" / f"{name}.yaml"
    if not path.is_file():
        known = presets("site")
        near = difflib.get_close_matches(name, known, n=1)
        wanted = f"one of {', '.join(known)}, or a file"
        raise RecipeError(what=f"site {name!r}", got="no such site", wanted=wanted, try_=f"site={near[0]}" if near else "site=PATH.yaml")
    return _site({"name": path.stem, **layers(path)}, path)


def _site(tree: dict[str, Any], path: Path) -> Site:
    defaults: dict[str, Any] = {f.name: getattr(Site, f.name, "") for f in fields(Site)} | {"sbatch": {}}
    for key in tree:
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1, cutoff=0.5)
            raise RecipeError(
                what=f"{path}: {key}", got="a key that does not exist", wanted=f"one of {', '.join(defaults)}",
                try_=f"did you mean {near[0]!r}?" if near else "see configs/site/example.yaml",
            )  # fmt: skip
    tree = {key: value for key, value in tree.items() if value is not None or type(defaults[key]) in (int, float)}
    for key, value in tree.items():
        kind = type(defaults[key])
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits or (kind in LEAST and value < LEAST[kind]):
            example = EXAMPLES.get(key, "NAME" if kind is str else defaults[key] or 1)
            raise RecipeError(what=f"{path}: {key}", got=repr(value), wanted=WANTED[kind], try_=f"{key}: {example}")
    # YAML reads 24:00:00 as a number of base 60.
    if (clock := re.search(r"^hours: *(\d+:.*)", path.read_text(), re.MULTILINE)) or tree.get("hours", 0) > EVER:
        got = clock[1] if clock else tree["hours"]
        raise RecipeError(what=f"{path}: hours", got=got, wanted=f"a number of hours, at most {EVER:,.0f}", try_="hours: 24")
    if "device" not in tree and (said := [f"{key}: {tree[key]}" for key in ("gpus", "partition") if tree.get(key, 1) not in (1, "")]):
        raise RecipeError(
            what=f"{path}: device", got=f"nothing beside {said[0]}",
            wanted=f"one of {', '.join(DEVICES)}, or another name with memory, bf16 and fp32 beside it",
            try_="device: h100, or device: core where ranks train on cores",
        )  # fmt: skip
    if (known := tree.get("device", "").lower()) in DEVICES:
        tree["device"] = known
    return Site(**{**tree, "sbatch": _options(tree.get("sbatch", {}), path)})


def _options(said: dict[str, Any], path: Path) -> dict[str, str | float]:
    """Options of sbatch, as sbatch spells them."""
    options = {key.replace("_", "-"): value for key, value in said.items()}
    for key, value in options.items():
        what = f"{path}: sbatch.{key}"
        if key in OURS:
            raise RecipeError(what=what, got="what mrdist says itself", wanted="another option of sbatch", try_=OURS[key])
        if not re.fullmatch(r"[a-z][a-z-]+", key):
            raise RecipeError(what=what, got="no long name of an option", wanted="a name without dashes before it", try_="reservation: lab")
        if not isinstance(value, str | float | int):
            raise RecipeError(what=what, got=repr(value), wanted="text, a number, true or false", try_=f"{key}: VALUE")
    return options
