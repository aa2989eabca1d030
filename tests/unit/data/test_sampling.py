"""Points from surfaces: where they fall, what colour they have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from mrdist.data.mesh import Material, Mesh
from mrdist.data.sampling import points_from_file, sample
from mrdist.errors import DataError
from mrdist.shapes import Points
from tests.assets import asset
from tests.shared import mrdist_shared

WHITE = np.ones(4, np.float32)


def mesh_of(
    model: trimesh.Trimesh, material: Material | None = None, *, colour: NDArray[Any] = WHITE, uv: NDArray[Any] | None = None
) -> Mesh:
    v = model.vertices.astype(np.float32)
    uv = np.zeros((len(v), 2), np.float32) if uv is None else uv.astype(np.float32)
    colour = np.broadcast_to(colour, (len(v), 4)).astype(np.float32)
    return Mesh(v, model.faces.astype(np.int32), v, uv, colour, np.zeros(len(model.faces), np.int32), (material or Material(),))


def square(material: Material | None = None, **about: Any) -> Mesh:
    model = trimesh.Trimesh([[-0.7, -0.7, 0], [0.7, -0.7, 0], [0.7, 0.7, 0], [-0.7, 0.7, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    return mesh_of(model, material, uv=np.array([[0, 1], [1, 1], [1, 0], [0, 0]]), **about)


def textured(*colours: tuple[int, ...], alpha: str = "opaque", cutoff: float = 0.5) -> Material:
    """A picture of stripes from left to right."""
    return Material(np.array([colours], np.uint8), alpha, cutoff)  # type: ignore[arg-type]


def test_every_square_of_the_surface_has_the_same_chance() -> None:
    # Boxes of very different triangles: the share of points on each is its share of the area.
    sizes = [(0.02, 0.02, 0.02), (0.3, 0.3, 0.3), (1, 0.1, 0.5)]
    boxes = [
        trimesh.creation.box(size, transform=np.array([[1, 0, 0, 0], [0, 1, 0, k], [0, 0, 1, 0], [0, 0, 0, 1]]))
        for k, size in enumerate(sizes)
    ]
    boxes[1] = boxes[1].subdivide().subdivide()
    points = sample(mesh_of(trimesh.util.concatenate(boxes)), 40_000, 0)
    nearest = np.abs(points.xyz[:, 1:2] - np.arange(3)).argmin(1)
    share = np.bincount(nearest, minlength=3) / 40_000
    np.testing.assert_allclose(
        share, [box.area for box in boxes] / sum(box.area for box in boxes), atol=2e-4
    )  # stratified: far below chance
    inside = points.xyz[nearest == 1]
    face = np.abs(inside - [0, 1, 0]).argmax(1) * 2 + (inside > [0, 1, 0])[np.arange(len(inside)), np.abs(inside - [0, 1, 0]).argmax(1)]
    assert np.bincount(face).min() > 0.98 * len(inside) / 6
    mean = sample(square(), 20_000, 1).xyz
    np.testing.assert_allclose(mean.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(mean[:, :2].std(0), 1.4 / np.sqrt(12), rtol=0.02)


def test_the_same_seed_gives_the_same_points_and_another_others() -> None:
    mesh = mesh_of(trimesh.creation.icosphere(2))
    one, same, other = sample(mesh, 500, 7), sample(mesh, 500, 7), sample(mesh, 500, 8)
    np.testing.assert_array_equal(one.xyz, same.xyz)
    np.testing.assert_array_equal(one.rgb, same.rgb)
    assert np.abs(one.xyz - other.xyz).max() > 0.1


def test_points_come_in_random_order() -> None:
    cloud = sample(mesh_of(trimesh.creation.icosphere(3)), 4000, 0).xyz
    np.testing.assert_allclose(cloud[:400].mean(0), 0, atol=0.15)  # any part of a cloud is a smaller cloud


def test_texture_and_vertex_colours_multiply_as_light() -> None:
    points = sample(square(textured((255, 255, 255, 255), (188, 188, 188, 255)), colour=np.array([0.5, 1, 0, 1])), 2000, 0)
    right = points.xyz[:, 0] > 0
    np.testing.assert_allclose(points.rgb[~right], [[188 / 255, 1, 0]] * (~right).sum(), atol=4e-3)
    np.testing.assert_allclose(points.rgb[right], [[137 / 255, 188 / 255, 0]] * right.sum(), atol=4e-3)


def test_colours_between_vertices_are_mixed_as_light() -> None:
    mesh = square(colour=np.array([[0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]))
    points = sample(mesh, 4000, 0)
    middle = np.abs(points.xyz[:, 0]) < 0.01
    np.testing.assert_allclose(points.rgb[middle].mean(), 188 / 255, atol=0.01)


def test_textures_repeat() -> None:
    mesh = square(textured((255, 0, 0, 255), (0, 0, 255, 255)))
    mesh.uv[:] = mesh.uv * 4 - 2
    points = sample(mesh, 4000, 0)
    stripe = np.floor((points.xyz[:, 0] + 0.7) / 0.175).astype(int) % 2
    clear = np.abs((points.xyz[:, 0] + 0.7) / 0.175 % 1 - 0.5) < 0.49
    np.testing.assert_allclose(points.rgb[clear, 2], stripe[clear], atol=1e-6)


@pytest.mark.parametrize(("alpha", "seen"), [(255, True), (120, False), (0, False)])
def test_what_a_mask_cuts_away_gets_no_points(alpha: int, seen: bool) -> None:
    points = sample(square(textured((255, 0, 0, 255), (0, 255, 0, alpha), alpha="mask")), 1000, 0)
    assert len(points) == 1000
    assert bool((points.rgb[:, 1] > 0.5).any()) is seen
    assert (points.xyz[points.rgb[:, 1] > 0.5, 0] >= 0).all()


def test_glass_is_there_and_the_invisible_is_not() -> None:
    points = sample(square(textured((255, 0, 0, 255), (0, 255, 0, 60), (0, 0, 255, 3), alpha="blend")), 3000, 0)
    assert points.rgb[:, 2].max() == 0
    assert abs((points.rgb[:, 1] > 0.5).mean() - 0.5) < 0.05


def test_a_rare_surface_is_found_and_none_is_an_error() -> None:
    rare = textured((255, 0, 0, 255), *[(0, 0, 0, 0)] * 15, alpha="mask")
    assert (sample(square(rare), 2000, 0).xyz[:, 0] < -0.7 + 1.4 / 16 + 1e-4).all()
    with pytest.raises(DataError, match="0 visible points"):
        sample(square(textured((255, 0, 0, 0), alpha="mask")), 100, 0)


def test_a_mesh_file_becomes_points(tmp_path: Path) -> None:
    path = tmp_path / "box.glb"
    path.write_bytes(asset(base=(1, 0, 0, 1)).glb())
    points = Points.from_file(path, up="y", points=300, seed=1)
    assert points.xyz.shape == points.rgb.shape == (300, 3)
    assert points.xyz.dtype == points.rgb.dtype == np.float32
    np.testing.assert_allclose(points.rgb, [[1, 0, 0]] * 300, atol=1e-6)
    np.testing.assert_allclose(np.abs(points.xyz).max(1), 1 / np.sqrt(3), atol=1e-6)  # on the faces of the cube


@pytest.mark.parametrize("bytes_", [False, True])
def test_an_npz_gives_its_points(tmp_path: Path, bytes_: bool) -> None:
    random = np.random.default_rng(0)
    xyz, rgb = random.normal(size=(500, 3)), random.integers(0, 256, (500, 3)).astype(np.uint8)
    np.savez(tmp_path / "cloud.npz", xyz=xyz, rgb=rgb if bytes_ else rgb / 255)
    whole = Points.of(xyz, rgb / np.float32(255), up="y")
    fewer, more = (points_from_file(tmp_path / "cloud.npz", up="y", points=n, seed=3) for n in (100, 1200))
    table = {tuple(p): c for p, c in zip(whole.xyz.tolist(), whole.rgb.tolist(), strict=True)}
    for cloud in (fewer, more):
        for p, c in zip(cloud.xyz.tolist(), cloud.rgb.tolist(), strict=True):
            np.testing.assert_allclose(c, table[tuple(p)], atol=1e-6)
    assert len({tuple(p) for p in fewer.xyz.tolist()}) == 100
    assert len({tuple(p) for p in more.xyz.tolist()}) == 500


def test_a_ply_of_points_gives_its_points(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cloud = trimesh.PointCloud(random.normal(size=(400, 3)), colors=random.integers(0, 256, (400, 4)).astype(np.uint8))
    cloud.export(tmp_path / "cloud.ply")
    points = points_from_file(tmp_path / "cloud.ply", up="z", points=400, seed=0)
    whole = Points.of(cloud.vertices, cloud.colors[:, :3] / np.float32(255), up="z")
    order, expected = np.lexsort(points.xyz.T), np.lexsort(whole.xyz.T)
    np.testing.assert_allclose(points.xyz[order], whole.xyz[expected], atol=1e-6)
    np.testing.assert_allclose(points.rgb[order], whole.rgb[expected], atol=1e-3)


def test_a_pickle_or_a_bomb_is_no_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickle.npz", xyz=np.array([{"a": 1}], object))
    np.savez_compressed(tmp_path / "bomb.npz", xyz=np.zeros((4, 3)))
    data = bytearray((tmp_path / "bomb.npz").read_bytes())
    data[(at := data.index(b"PK\x01\x02") + 24) : at + 4] = (2**31 - 1).to_bytes(4, "little")  # what it says it unpacks to
    (tmp_path / "bomb.npz").write_bytes(data)
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    out = io.BytesIO()
    np.save(out, np.zeros((4, 3)))
    (tmp_path / "array.npz").write_bytes(out.getvalue())
    np.savez(tmp_path / "words.npz", xyz=np.array([["a", "b", "c"]]))
    np.savez(tmp_path / "other.npz", points=np.zeros((4, 3)))
    for name in ("pickle", "bomb", "noise", "array", "words", "other", "gone"):
        with pytest.raises(DataError):
            points_from_file(tmp_path / f"{name}.npz", up="z", points=10, seed=0)


def test_colours_of_real_furniture_are_those_that_were_packed(tmp_path: Path) -> None:
    """The packed points were sampled from the original textured meshes by somebody else's code."""
    with np.load(mrdist_shared("sweethome3d/meshes.npz")) as pack:
        v, f, vo, fo, colours = (pack[name] for name in ("verts", "faces", "vert_offset", "face_offset", "face_colors"))
    with np.load(mrdist_shared("sweethome3d/points.npz")) as pack:
        theirs_xyz, theirs_rgb = pack["points"], pack["colors"]
    for k in range(7, len(vo) - 1, 200):
        vertices, faces = v[vo[k] : vo[k + 1]] / 65535 * 2 - 1, f[fo[k] : fo[k + 1]].astype(np.int64)
        model = trimesh.Trimesh(vertices, faces, process=False, face_colors=colours[fo[k] : fo[k + 1]])
        model.export(tmp_path / "a.ply")
        ours = points_from_file(tmp_path / "a.ply", up="z", points=2048, seed=0)
        np.testing.assert_allclose(ours.rgb.mean(0), theirs_rgb[k].mean(0) / 255, atol=0.08)
        np.testing.assert_allclose(np.abs(ours.xyz).mean(0), np.abs(theirs_xyz[k].astype(np.float32)).mean(0), atol=0.05)
