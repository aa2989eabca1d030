"""glTF: what the file says is what the mesh looks like."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from mrdist.data.mesh import Mesh
from mrdist.data.readers import read_mesh
from mrdist.data.sampling import sample
from mrdist.errors import DataError
from mrdist.recipe import Limits
from tests.assets import CUBE, Asset, Json, asset, cube, png
from tests.unit.data.triangles import same_triangles

QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
QUAD_FACES = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
QUAD_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # v down: the picture stands upright in x, y
FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # red green / blue yellow


def read(tmp_path: Path, made: Asset | bytes, *, up: str = "z", **limits: Any) -> Mesh:
    path = tmp_path / "made.glb"
    path.write_bytes(made if isinstance(made, bytes) else made.glb())
    return read_mesh(path, up=up, root=tmp_path, limits=Limits(**limits))


def quad(change: Callable[[Json], object] = lambda tree: None, *, texture: NDArray[np.uint8] = FOUR, **parts: Any) -> Asset:
    made = asset(QUAD, QUAD_FACES, uv=QUAD_UV, image=png(texture), **parts)
    change(made.json)
    return made


def seen(mesh: Mesh) -> dict[str, tuple[int, ...]]:
    """The colour of each quarter of a quad, as bytes."""
    points = sample(mesh, 2000, 0)
    x, y = points.xyz[:, 0] > 0, points.xyz[:, 1] > 0
    quarters = {"top left": ~x & y, "top right": x & y, "bottom left": ~x & ~y, "bottom right": x & ~y}
    found = {}
    for name, where in quarters.items():
        colours = np.unique(np.rint(points.rgb[where] * 255).astype(int), axis=0)
        assert len(colours) == 1, f"{name}: {colours}"
        found[name] = tuple(colours[0].tolist())
    return found


RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
UPRIGHT = {"top left": RED, "top right": GREEN, "bottom left": BLUE, "bottom right": YELLOW}


def test_a_texture_stands_upright(tmp_path: Path) -> None:
    assert seen(read(tmp_path, quad())) == UPRIGHT


def test_factor_and_vertex_colours_are_linear_and_multiply(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).random((8, 3)).astype(np.float32)
    mesh = read(tmp_path, asset(colours=colours, base=(0.5, 0.25, 1, 1)))
    # Corners are split where the cube has edges: each copy keeps its colour.
    for vertex, colour in zip(mesh.vertices, mesh.colour, strict=True):
        corner = np.abs(cube() / np.sqrt(3) - vertex).sum(1).argmin()
        np.testing.assert_allclose(colour, [*(colours[corner] * (0.5, 0.25, 1)), 1], atol=1e-6)


def test_a_texture_is_srgb_and_its_factor_is_not(tmp_path: Path) -> None:
    grey = np.full((2, 2, 3), 188, np.uint8)  # half the light
    points = sample(read(tmp_path, quad(texture=grey, base=(0.5, 0.5, 0.5, 1))), 100, 0)
    np.testing.assert_allclose(points.rgb, 137 / 255, atol=1 / 255)  # a quarter of the light, not half of 188


def test_byte_colours_are_normalised_whether_they_say_so_or_not(tmp_path: Path) -> None:
    def as_bytes(said: bool) -> Mesh:
        made = asset()
        colours = made.add(np.full((8, 4), 51, np.uint8), 5121, "VEC4", normalized=said)
        made.json["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = colours
        return read(tmp_path, made)

    for said in (True, False):
        np.testing.assert_allclose(as_bytes(said).colour[:, :3], 0.2, atol=1e-6)


def test_a_tree_of_turned_scaled_and_mirrored_nodes_is_placed_as_trimesh_places_it(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    made = asset()
    nodes: list[Json] = [{"children": [1, 2]}]
    for i in range(1, 8):
        quaternion = random.normal(size=4)
        node: Json = {
            "mesh": 0,
            "rotation": (quaternion / np.linalg.norm(quaternion)).tolist(),
            "translation": random.normal(size=3).tolist(),
        }
        node["scale"] = (random.uniform(0.5, 2, 3) * random.choice([-1, 1], 3)).tolist()
        node["children"] = [j for j in (2 * i + 1, 2 * i + 2) if j < 8]
        nodes.append(node)
    nodes[7] = {"mesh": 0, "matrix": np.array([[1, 2, 0, 1], [0, 1, 0, 0], [0, 3, 1, 2], [0, 0, 0, 1]], float).T.ravel().tolist()}
    made.json["nodes"] = nodes
    mesh = read(tmp_path, made)
    assert same_triangles(mesh, trimesh.load_scene(tmp_path / "made.glb").to_mesh().triangles)


def test_normals_follow_their_surface_through_any_node(tmp_path: Path) -> None:
    sphere = trimesh.creation.icosphere(3)
    sphere.vertex_normals  # noqa: B018 - trimesh exports what it has computed
    scene = trimesh.Scene()
    scene.add_geometry(sphere, transform=np.diag([-3.0, 1, 0.5, 1]))
    path = tmp_path / "egg.glb"
    path.write_bytes(scene.export(file_type="glb", include_normals=True))
    mesh = read_mesh(path, up="z", root=tmp_path, limits=Limits())
    outward = mesh.vertices / np.array([3, 1, 0.5], np.float32) ** 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (mesh.normals * outward).sum(1).min() > 0.995
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a) * mesh.normals[mesh.faces[:, 0]]).sum(1).min() > 0  # front stays front in the mirror


def test_quantised_positions_are_what_they_stand_for(tmp_path: Path) -> None:
    made = asset()
    short = made.add(np.pad((cube() * 32767).astype("<i2"), ((0, 0), (0, 1))), 5122, "VEC3", normalized=True)
    made.json["bufferViews"][-1]["byteStride"] = 8
    made.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = short
    made.json["extensionsRequired"] = ["KHR_mesh_quantization"]
    assert same_triangles(read(tmp_path, made), cube()[CUBE] / np.sqrt(3))


def test_sparse_accessors_change_what_they_say(tmp_path: Path) -> None:
    made = asset()
    made.add(np.array([7], "<u2"), 5123, "SCALAR")
    made.add(np.array([[3, 3, 3]], "<f4"), 5126, "VEC3")
    made.json["accessors"][0]["sparse"] = {"count": 1, "indices": {"bufferView": 2, "componentType": 5123}, "values": {"bufferView": 3}}
    moved = cube()
    moved[7] = 3
    assert same_triangles(read(tmp_path, made), moved[CUBE])


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_strips_and_fans_are_triangles_too(tmp_path: Path, mode: int, order: list[int]) -> None:
    made = asset(QUAD, np.array([order], np.uint32))
    made.json["meshes"][0]["primitives"][0]["mode"] = mode
    mesh = read(tmp_path, made)
    assert len(mesh.faces) == 2
    assert (mesh.normals[mesh.faces[:, 0], 2] > 0.99).all()
    points = sample(mesh, 4000, 0).xyz
    assert min(np.count_nonzero((points[:, 0] > 0) == x) for x in (False, True)) > 1900  # it covers the square


def test_lines_and_points_are_passed_over(tmp_path: Path) -> None:
    made = asset()
    made.json["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 1})
    assert len(read(tmp_path, made).faces) == 12


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        # The specification's example: the lower left quarter of the picture, turned by 90 degrees.
        ({"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5]}, dict.fromkeys(UPRIGHT, BLUE)),
        ({"offset": [0, 1], "scale": [1, -1]}, {"top left": BLUE, "top right": YELLOW, "bottom left": RED, "bottom right": GREEN}),
        ({"offset": [0.5, 0]}, {"top left": GREEN, "top right": RED, "bottom left": YELLOW, "bottom right": BLUE}),
    ],
)
def test_texture_transforms_are_applied(tmp_path: Path, transform: Json, expected: dict[str, tuple[int, ...]]) -> None:
    def change(tree: Json) -> None:
        tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["extensions"] = {"KHR_texture_transform": transform}

    assert seen(read(tmp_path, quad(change))) == expected


def test_a_texture_takes_the_coordinates_it_names(tmp_path: Path) -> None:
    made = asset(QUAD, QUAD_FACES, uv=QUAD_UV, image=png(FOUR))
    second = made.add((QUAD_UV * (1, -1)).astype("<f4"), 5126, "VEC2")
    made.json["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_1"] = second
    made.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1
    assert seen(read(tmp_path, made))["top left"] == BLUE


def test_old_gloss_materials_show_their_diffuse_side(tmp_path: Path) -> None:
    gloss = {"diffuseFactor": [1, 0, 0, 1], "diffuseTexture": {"index": 0}}
    change = {"extensions": {"KHR_materials_pbrSpecularGlossiness": gloss}}
    mesh = read(tmp_path, quad(lambda tree: tree["materials"][0].update(change)))
    assert seen(mesh) == {"top left": RED, "top right": (0, 0, 0), "bottom left": (0, 0, 0), "bottom right": RED}


def test_what_is_black_and_glows_looks_like_its_glow(tmp_path: Path) -> None:
    def change(tree: Json) -> None:
        tree["materials"] = [
            {
                "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]},
                "emissiveFactor": [1, 1, 1],
                "emissiveTexture": {"index": 0},
            }
        ]

    assert seen(read(tmp_path, quad(change))) == UPRIGHT


def test_alpha_modes_and_the_alpha_of_opaque_things(tmp_path: Path) -> None:
    def material(**about: Any) -> Mesh:
        return read(tmp_path, quad(lambda tree: tree["materials"][0].update(about), base=(1, 1, 1, 0.25)))

    mask, blend, opaque = material(alphaMode="MASK", alphaCutoff=0.125), material(alphaMode="BLEND"), material()
    assert (mask.materials[0].alpha, mask.materials[0].cutoff) == ("mask", 0.125)
    assert blend.materials[0].alpha == "blend"
    assert blend.colour[:, 3].max() == 0.25
    assert opaque.materials[0].alpha == "opaque"
    assert opaque.colour[:, 3].min() == 1


def test_large_pictures_are_read_small(tmp_path: Path) -> None:
    large = np.kron(FOUR, np.ones((1500, 1500, 1), np.uint8))
    for form in ("JPEG", "WEBP", "PNG"):
        made = asset(QUAD, QUAD_FACES, uv=QUAD_UV, image=png(large, form))
        mesh = read(tmp_path, made, texture_pixels=512)
        texture = mesh.materials[0].texture
        assert texture is not None
        assert max(texture.shape[:2]) <= 512
        np.testing.assert_allclose(texture[64, 64, :3], RED, atol=3)
        np.testing.assert_allclose(texture[-64, 64, :3], BLUE, atol=3)


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path: Path) -> None:
    made = asset(QUAD, QUAD_FACES, uv=QUAD_UV, image=png(np.full((4, 4), 40_000, np.uint16)))
    texture = read(tmp_path, made).materials[0].texture
    assert texture is not None
    assert (texture[..., 0] == 40_000 >> 8).all()


def test_nothing_said_about_colour_is_neutral_grey(tmp_path: Path) -> None:
    made = asset()
    del made.json["meshes"][0]["primitives"][0]["material"]
    np.testing.assert_allclose(sample(read(tmp_path, made), 10, 0).rgb, 0.4, atol=1e-3)


def test_instances_share_their_material_and_parts_keep_theirs(tmp_path: Path) -> None:
    made = asset()
    made.json["materials"].append({"pbrMetallicRoughness": {"baseColorFactor": [0, 1, 0, 1]}})
    made.json["meshes"].append({"primitives": [{**made.json["meshes"][0]["primitives"][0], "material": 1}]})
    made.json["nodes"] = [{"children": [1, 2, 3]}, *({"mesh": m, "translation": [3 * k, 0, 0]} for k, m in enumerate((0, 1, 0)))]
    mesh = read(tmp_path, made)
    assert len(mesh.materials) == 2
    middle = np.abs(mesh.vertices[mesh.faces][:, :, 0]).max(1) < 0.4
    assert set(mesh.material[middle]) == {1}
    assert (mesh.colour[mesh.faces[middle, 0], :3] == (0, 1, 0)).all()


def test_a_skin_is_read_in_its_rest_pose(tmp_path: Path) -> None:
    # Two joints: the upper corners follow one that is moved up by 5, whatever the mesh's own node says.
    made = asset()
    upper = (cube()[:, 1] > 0).astype(np.uint8)
    joints = np.zeros((8, 4), np.uint8)
    joints[:, 0] = upper
    weights = np.zeros((8, 4), "<f4")
    weights[:, 0] = 0.5  # need not sum to one
    inverse = np.stack([np.eye(4), np.eye(4)]).astype("<f4")
    named = {"JOINTS_0": made.add(joints, 5121, "VEC4"), "WEIGHTS_0": made.add(weights, 5126, "VEC4")}
    made.json["meshes"][0]["primitives"][0]["attributes"] |= named
    made.json["skins"] = [{"joints": [1, 2], "inverseBindMatrices": made.add(inverse, 5126, "MAT4")}]
    made.json["nodes"] = [{"mesh": 0, "skin": 0, "translation": [100, 0, 0]}, {}, {"translation": [0, 5, 0]}]
    made.json["scenes"][0]["nodes"] = [0, 1, 2]
    moved = cube()
    moved[upper == 1, 1] += 5
    assert same_triangles(read(tmp_path, made), moved[CUBE])


def test_a_gltf_with_its_files_is_the_glb_with_everything_inside(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    inside = read(tmp_path, quad())
    made = asset(QUAD, QUAD_FACES, uv=QUAD_UV, image=png(FOUR))
    (folder / "numbers one.bin").write_bytes(made.binary)
    (folder / "four.png").write_bytes(png(FOUR))
    made.json["images"] = [{"uri": "four.png"}]
    (folder / "beside.gltf").write_bytes(made.gltf("numbers%20one.bin"))
    made.json["images"] = [{"uri": "data:image/png;base64," + base64.b64encode(png(FOUR)).decode()}]
    (folder / "alone.gltf").write_bytes(made.gltf("data:application/octet-stream;base64," + base64.b64encode(made.binary).decode()))
    for name in ("beside.gltf", "alone.gltf"):
        mesh = read_mesh(folder / name, up="z", root=tmp_path, limits=Limits())
        np.testing.assert_array_equal(mesh.vertices, inside.vertices)
        assert seen(mesh) == UPRIGHT


def test_without_a_scene_all_nodes_are_shown(tmp_path: Path) -> None:
    made = asset()
    del made.json["scenes"], made.json["scene"]
    made.json["nodes"] = [{"children": [1]}, {"mesh": 0}]
    assert len(read(tmp_path, made).faces) == 12


def test_any_spoilt_number_is_refused_or_read_but_never_worse(tmp_path: Path) -> None:
    """Every value of the JSON is replaced by nonsense in turn: a DataError or a sound mesh must come of it."""
    nonsense: list[Any] = [-1, 10**9, 10**400, 1e300, float("nan"), None, "x", [], {}, [[]], True]
    whole = json.dumps(asset(colours=np.ones((8, 3)), image=png(FOUR)).json)
    binary = asset(colours=np.ones((8, 3)), image=png(FOUR)).binary
    read_ones = 0
    for way in _ways(json.loads(whole)):
        for value in nonsense:
            tree = json.loads(whole)
            *path, last = way
            here = tree
            for step in path:
                here = here[step]
            here[last] = value
            try:
                mesh = read(tmp_path, Asset(tree, binary), faces=1000)
            except DataError:
                continue
            read_ones += 1
            assert mesh.faces.min() >= 0
            assert mesh.faces.max() < len(mesh.vertices) == len(mesh.colour) == len(mesh.uv) == len(mesh.normals)
            assert all(np.isfinite(array).all() for array in (mesh.vertices, mesh.normals, mesh.uv, mesh.colour))
            assert mesh.colour.min() >= 0
            assert mesh.colour.max() <= 1
            assert mesh.material.max() < len(mesh.materials)
    assert read_ones > 20  # what does not matter may be anything


def _ways(tree: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value, at every depth."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for step, below in steps for found in [(*way, step), *_ways(below, (*way, step))]]
