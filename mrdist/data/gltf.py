"""A glTF scene as pieces: nodes, skins in their rest pose, primitives, materials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.assets import Assets
from mrdist.data.flatten import NEUTRAL, PLAIN, Piece
from mrdist.data.glb import Gltf
from mrdist.data.mesh import Material

_NODES = 100_000
_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # glTF's numbers for how indices make triangles

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class _Look:
    """A material, and what of it is baked into vertices."""

    material: Material
    colour: NDArray[np.float32]  # [4] linear
    texcoord: int = 0
    uv_matrix: Matrix | None = None  # [2, 3]


def read_gltf(data: bytes, assets: Assets) -> list[Piece]:
    """The triangles of the file's scene, in the file's axes.

    Points and lines are skipped; animations and morph targets stay at rest; lights and cameras do not matter here.

    Raises:
        DataError: see `Gltf`; also nodes that form no tree. Malformed JSON raises whatever Python makes of it.
    """
    return _Scene(Gltf(data, assets)).pieces()


class _Scene:
    def __init__(self, file: Gltf) -> None:
        self.file = file
        self.world = self._places()
        self._looks: dict[int, _Look] = {}
        self._drawn: dict[tuple[int, int], Piece | None] = {}

    def _places(self) -> dict[int, Matrix]:
        """Where each node of the scene is, parents first."""
        nodes, scenes = self.file.json.get("nodes", []), self.file.json.get("scenes", [])
        if scenes:
            roots = self.file.part("scenes", self.file.json.get("scene", 0)).get("nodes", [])
        else:
            below = {child for node in nodes for child in node.get("children", [])}
            roots = [i for i in range(len(nodes)) if i not in below]
        world: dict[int, Matrix] = {}
        waiting = [(root, np.eye(4)) for root in roots]
        while waiting:
            number, above = waiting.pop()
            if number in world:
                # The specification wants trees; anything else may repeat itself for ever, or 2^depth times.
                raise self.file.refused(f"node {number} twice", "nodes that form a tree", "export it again")
            if len(world) >= _NODES:
                raise self.file.refused(f"more than {_NODES} nodes", "fewer", "join the parts of the model")
            node = self.file.part("nodes", number)
            world[number] = above @ _matrix(node)
            waiting += [(child, world[number]) for child in node.get("children", [])]
        return world

    def pieces(self) -> list[Piece]:
        found: list[Piece] = []
        faces, most = 0, self.file.assets.limits.faces
        for number, place in self.world.items():
            node = self.file.part("nodes", number)
            if "mesh" not in node:
                continue
            for k, primitive in enumerate(self.file.part("meshes", node["mesh"])["primitives"]):
                piece = self._piece((node["mesh"], k), primitive)
                if piece is None:
                    continue
                # Counted while instances are made: a small file may ask for one mesh a million times.
                faces += len(piece.faces)
                if faces > most:
                    raise self.file.refused(f"more than {most} faces", f"at most {most} faces", "decimate it, or raise limits.faces")
                if "skin" in node and "JOINTS_0" in primitive["attributes"]:
                    found.append(self._posed(piece, primitive["attributes"], node["skin"]))
                else:
                    found.append(_moved(piece, place[None, :3]))
        return found

    def _piece(self, key: tuple[int, int], primitive: dict[str, Any]) -> Piece | None:
        """A primitive in its own axes; None if it has no triangles. Made once, however often it is placed."""
        if key not in self._drawn:
            self._drawn[key] = self._made(primitive) if primitive.get("mode", _TRIANGLES) in (_TRIANGLES, _STRIP, _FAN) else None
        return self._drawn[key]

    def _made(self, primitive: dict[str, Any]) -> Piece:
        attributes = {name: self.file.accessor(number) for name, number in primitive["attributes"].items() if _wanted(name)}
        vertices = attributes["POSITION"].astype(np.float64)
        if any(len(rows) != len(vertices) for rows in attributes.values()):
            raise self.file.refused("attributes of unequal length", "one row per vertex", "export it again")
        indices = self.file.accessor(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(len(vertices), dtype=np.uint32)
        if indices.dtype.kind != "u":
            raise self.file.refused(f"indices of type {indices.dtype}", "unsigned integers", "export it again")
        look = self._look(primitive["material"]) if "material" in primitive else None
        uv = None
        if look is not None and look.material.texture is not None:
            uv = attributes.get(f"TEXCOORD_{look.texcoord}")
            if uv is None:
                look = replace(look, material=replace(look.material, texture=None))
            elif look.uv_matrix is not None:
                uv = uv @ look.uv_matrix[:, :2].T + look.uv_matrix[:, 2]
        colour = look.colour if look else NEUTRAL
        if "COLOR_0" in attributes:
            colour = (look.colour if look else np.ones(4, np.float32)) * _rgba(attributes["COLOR_0"])
        faces = _triangles(indices.astype(np.int64), primitive.get("mode", _TRIANGLES))
        return Piece(vertices, faces, colour, attributes.get("NORMAL"), uv, look.material if look else PLAIN)

    def _posed(self, piece: Piece, attributes: dict[str, int], skin: int) -> Piece:
        """A skinned primitive in its rest pose: joints place it, and its own node does not (glTF 2.0, 3.7.3)."""
        about = self.file.part("skins", skin)
        joints = np.stack([self.world[joint] for joint in about["joints"]])
        if "inverseBindMatrices" in about:
            joints = joints @ self.file.accessor(about["inverseBindMatrices"])[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
        blend, total = np.zeros((len(piece.vertices), 3, 4)), np.zeros(len(piece.vertices))
        sets = [k for k in range(4) if f"JOINTS_{k}" in attributes and f"WEIGHTS_{k}" in attributes]
        for k in sets:
            which, weights = self.file.accessor(attributes[f"JOINTS_{k}"]).astype(np.int64), self.file.accessor(attributes[f"WEIGHTS_{k}"])
            for column in range(4):
                blend += weights[:, column, None, None] * joints[which[:, column], :3]
                total += weights[:, column]
        return _moved(piece, blend / np.where(total > 0, total, 1)[:, None, None])

    def _look(self, number: int) -> _Look:
        if number not in self._looks:
            self._looks[number] = self._read_look(self.file.part("materials", number))
        return self._looks[number]

    def _read_look(self, about: dict[str, Any]) -> _Look:
        base = about.get("pbrMetallicRoughness", {})
        factor, texture = base.get("baseColorFactor", [1, 1, 1, 1]), base.get("baseColorTexture")
        gloss = about.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if gloss is not None:
            factor, texture = gloss.get("diffuseFactor", [1, 1, 1, 1]), gloss.get("diffuseTexture")
        if max(factor[:3]) == 0 and max(about.get("emissiveFactor", [0])) > 0:
            # What is black and glows looks like its glow: so are "shadeless" models exported.
            factor, texture = [*about["emissiveFactor"], factor[3]], about.get("emissiveTexture")
        alpha = {"MASK": "mask", "BLEND": "blend"}.get(about.get("alphaMode", "OPAQUE"), "opaque")
        picture = self.file.texture(texture["index"]) if texture is not None else None
        material = Material(picture, alpha, float(about.get("alphaCutoff", 0.5)))  # type: ignore[arg-type]
        colour = np.clip(np.array(factor, np.float64), 0, 1).astype(np.float32).reshape(4)
        if alpha == "opaque":
            colour[3] = 1
        if texture is None:
            return _Look(material, colour)
        moved = texture.get("extensions", {}).get("KHR_texture_transform")
        if moved is None:
            return _Look(material, colour, texture.get("texCoord", 0))
        return _Look(material, colour, moved.get("texCoord", texture.get("texCoord", 0)), _uv_matrix(moved))


def _wanted(attribute: str) -> bool:
    return attribute in ("POSITION", "NORMAL", "COLOR_0") or attribute.startswith("TEXCOORD_")


def _rgba(colour: NDArray[Any]) -> NDArray[np.float32]:
    """[V, 4] of COLOR_0, which is linear; integers that do not say that they are normalised are meant to be."""
    if colour.dtype.kind == "u":
        colour = colour / np.iinfo(colour.dtype).max
    if colour.shape[1] == 3:
        colour = np.concatenate([colour, np.ones((len(colour), 1))], axis=1)
    return colour.astype(np.float32)


def _triangles(indices: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    if mode == _TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if len(indices) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(indices) - 2, indices[0]), indices[1:-1], indices[2:]], axis=1)
    strip = np.stack([indices[:-2], indices[1:-1], indices[2:]], axis=1)
    strip[1::2] = strip[1::2, [1, 0, 2]]  # every second triangle of a strip is turned over
    return strip


def _moved(piece: Piece, place: Matrix) -> Piece:
    """The piece placed by [1, 3, 4] one matrix, or [V, 3, 4] one per vertex."""
    one = len(place) == 1
    # Infinities among the vertices are dropped later, by face.
    with np.errstate(all="ignore"):
        vertices = piece.vertices @ place[0, :, :3].T if one else np.einsum("vij,vj->vi", place[:, :, :3], piece.vertices)
        vertices = vertices + place[:, :, 3]
        mirrored = np.linalg.det(place[:, :, :3]) < 0
        normals = piece.normals
        if normals is not None:
            a, b, c = (place[:, :, k] for k in range(3))
            # The cofactors: they turn normals as the inverse transpose does, and exist for flat matrices too.
            turn = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=2) * np.where(mirrored, -1, 1)[:, None, None]
            normals = normals @ turn[0].T if one else np.einsum("vij,vj->vi", turn, normals)
            length = np.linalg.norm(normals, axis=1, keepdims=True)
            normals = normals / np.where(length > 0, length, 1)
    faces = piece.faces[:, ::-1] if one and mirrored[0] else piece.faces  # front stays front
    return replace(piece, vertices=vertices, normals=normals, faces=faces)


def _matrix(node: dict[str, Any]) -> Matrix:
    """[4, 4] what a node does to its children."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    found = np.eye(4)
    x, y, z, w = (float(value) for value in node.get("rotation", (0, 0, 0, 1)))
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    found[:3, :3] = np.array(turn) * np.array(node.get("scale", (1, 1, 1)), np.float64)
    found[:3, 3] = node.get("translation", (0, 0, 0))
    return found


def _uv_matrix(about: dict[str, Any]) -> Matrix:
    """[2, 3] of KHR_texture_transform: scale, then turn, then shift; v points down, so the turn looks clockwise on paper."""
    angle = float(about.get("rotation", 0))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * np.array(about.get("scale", (1, 1)), np.float64)
    return np.column_stack([turn, np.array(about.get("offset", (0, 0)), np.float64)])
