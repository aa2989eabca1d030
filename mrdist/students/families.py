"""Whose weights there are to begin with: how Uni3D and OpenShape name their tensors, and how they saw their clouds.

Which tensor becomes which is said once more, for readers, in `vit.py` and `pointbert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """What all files of one origin have in common; `beginnings`, `inside` and `split` turn our names into theirs."""

    name: str
    sizes: tuple[str, ...]  # presets of students
    width: int  # of an embedding
    axis: str  # how it saw its clouds: a name of `shapes.AXES`
    teacher: tuple[str, str]  # open_clip's name and tag
    prefix: str  # of their names
    beginnings: Mapping[str, str]
    inside: Mapping[str, tuple[str, ...]]
    split: Mapping[str, tuple[str, ...]]  # instead, where a file has these apart that we keep in one
    unused: tuple[str, ...]  # beginnings of names
    places: Mapping[str, tuple[int, ...]]  # our weights that see coordinates, and at which of their columns
    settings: Mapping[str, Any]  # of the student, besides its size

    def theirs(self, name: str, names: Mapping[str, object]) -> tuple[str, ...]:
        """What a file with these `names` calls our tensor; more than one where it keeps apart what we keep in one."""
        for ours, their in self.beginnings.items():
            if name.startswith(ours):
                name = their + name.removeprefix(ours)
                break
        first = self.beginnings["blocks."] + "0"
        apart = any(first + part in names for parts in self.split.values() for part in parts)
        for ours, parts in (self.split if apart else self.inside).items():
            if ours in name:
                return tuple(name.replace(ours, part) for part in parts)
        return (name,)


UNI3D = Family(
    name="Uni3D",
    sizes=("tiny", "small", "base", "large", "giant"),
    width=1024,
    axis="y",
    teacher=("EVA02-E-14-plus", "laion2b_s9b_b144k"),
    prefix="point_encoder.",
    beginnings={
        "groups.first.": "encoder.first_conv.",
        "groups.joint.": "encoder.second_conv.0.",
        "groups.second.0.": "encoder.second_conv.1.",
        "groups.second.2.": "encoder.second_conv.3.",
        "lift.": "encoder2trans.",
        "place.": "pos_embed.",
        "project.": "trans2embed.",
        "norm.": "visual.fc_norm.",
        "blocks.": "visual.blocks.",
    },
    inside={".attn.qkv.q_bias": (".attn.q_bias",), ".attn.qkv.v_bias": (".attn.v_bias",)},
    split={
        ".attn.qkv.weight": (".attn.q_proj.weight", ".attn.k_proj.weight", ".attn.v_proj.weight"),
        ".attn.qkv.q_bias": (".attn.q_proj.bias",),
        ".attn.qkv.v_bias": (".attn.v_proj.bias",),
        ".mlp.fc1.": (".mlp.fc1_g.", ".mlp.fc1_x."),
    },
    # The scale of a loss; and of the image transformer all that is neither a block nor its last norm: nothing calls it.
    unused=("logit_scale", "visual.pos_embed", "visual.cls_token", "visual.patch_embed.", "visual.head.", "visual.rope."),
    places={"groups.first.0.weight": (0,), "place.0.weight": (0,)},
    settings={"norm": "batch", "start": "first"},
)

OPENSHAPE = Family(
    name="OpenShape",
    sizes=tuple(f"pointbert-{scaling}" for scaling in range(1, 7)),
    width=1280,
    axis="mirrored z",
    teacher=("ViT-bigG-14", "laion2b_s39b_b160k"),
    prefix="",
    beginnings={
        **{f"balls.layers.{k}.0.": f"ppat.sa.mlp_convs.{k}." for k in range(3)},
        **{f"balls.layers.{k}.1.": f"ppat.sa.mlp_bns.{k}." for k in range(3)},
        "lift.": "ppat.lift.0.",
        "lift_norm.": "ppat.lift.2.",
        "cls_token": "ppat.cls_token",
        "project.": "proj.",
        "blocks.": "ppat.transformer.layers.",
    },
    inside={
        ".norm1.": (".0.norm.",),
        ".attn.qkv.": (".0.fn.to_qkv.",),
        ".attn.proj.": (".0.fn.to_out.0.",),
        ".norm2.": (".1.norm.",),
        ".mlp.fc1.": (".1.fn.net.0.",),
        ".mlp.fc2.": (".1.fn.net.3.",),
    },
    split={},
    unused=(),
    places={"balls.layers.0.0.weight": (0, 3), "lift.weight": (0,)},
    settings={"norm": "batch"},
)
