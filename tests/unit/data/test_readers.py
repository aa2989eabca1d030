"""Mesh files of every format: shape, colours, bounds."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from mrdist.data.colour import linear
from mrdist.data.mesh import Mesh
from mrdist.data.readers import read_mesh
from mrdist.data.sampling import sample
from mrdist.errors import AxisError, DataError
from mrdist.recipe import Limits
from tests.assets import asset, png
from tests.shared import mrdist_shared
from tests.unit.data.triangles import same_triangles

FORMATS = ("glb", "obj", "ply", "off", "stl")
SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # red green / blue yellow


def read(path: Path, *, up: str = "z", root: Path | None = None, **limits: Any) -> Mesh:
    return read_mesh(path, up=up, root=root or path.parent, limits=Limits(**limits))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def face_bytes(mesh: Mesh) -> NDArray[np.int64]:
    """[F, 3] the sRGB bytes of faces that are one colour each."""
    light = mesh.colour[mesh.faces]
    assert np.ptp(light, axis=1).max() < 1e-6
    table = linear(np.arange(256) / 255)
    return np.asarray(np.abs(table - light[:, 0, :3, None]).argmin(-1))


def corner_colour(mesh: Mesh, x: int, y: int) -> tuple[int, ...]:
    """The sampled colour of one quarter of a square in x, y."""
    points = sample(mesh, 2000, 0)
    colours = np.rint(points.rgb[((points.xyz[:, 0] > 0) == bool(x)) & ((points.xyz[:, 1] > 0) == bool(y))] * 255).astype(int)
    assert len(np.unique(colours, axis=0)) == 1
    return tuple(colours[0].tolist())


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_trimesh_writes_is_read_as_it_was(tmp_path: Path, suffix: str) -> None:
    knot = trimesh.creation.torus(2, 0.7)
    knot.apply_translation((3, -40, 5))
    knot.export(tmp_path / f"knot.{suffix}")
    mesh = read(tmp_path / f"knot.{suffix}")
    assert same_triangles(mesh, knot.triangles)
    assert np.isclose(np.linalg.norm(mesh.vertices, axis=1).max(), 1)
    np.testing.assert_allclose(mesh.vertices.max(0), -mesh.vertices.min(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(sample(mesh, 10, 0).rgb, 0.4, atol=1e-3)  # no colour: neutral grey


@pytest.mark.parametrize("suffix", FORMATS)
def test_up_becomes_z(tmp_path: Path, suffix: str) -> None:
    tower = trimesh.creation.box((1, 5, 1))
    tower.apply_translation((0, 2.5, 0))
    tower = trimesh.util.concatenate([tower, trimesh.creation.box((3, 0.2, 3))])  # a foot below
    tower.export(tmp_path / f"tower.{suffix}")
    mesh = read(tmp_path / f"tower.{suffix}", up="y")
    assert np.ptp(mesh.vertices, axis=0).argmax() == 2
    assert mesh.vertices[np.abs(mesh.vertices[:, 0]).argmax(), 2] < -0.5  # the foot is below
    with pytest.raises(AxisError):
        read(tmp_path / f"tower.{suffix}", up="north")


@pytest.mark.parametrize("suffix", ["ply", "obj", "off"])
def test_vertex_colours_are_srgb(tmp_path: Path, suffix: str) -> None:
    sphere = trimesh.creation.icosphere(2)
    colours = np.random.default_rng(0).integers(0, 256, (len(sphere.vertices), 3))
    if suffix == "off":
        rows = "".join(f"{x} {y} {z} {r} {g} {b} 255\n" for (x, y, z), (r, g, b) in zip(sphere.vertices, colours, strict=True))
        faces = "".join(f"3 {a} {b} {c}\n" for a, b, c in sphere.faces)
        written(tmp_path / "ball.off", f"COFF\n{len(sphere.vertices)} {len(sphere.faces)} 0\n{rows}{faces}")
    else:
        sphere.visual.vertex_colors = np.column_stack([colours, np.full(len(colours), 255)]).astype(np.uint8)
        sphere.export(tmp_path / f"ball.{suffix}")
    mesh = read(tmp_path / f"ball.{suffix}")
    nearest = np.abs(mesh.vertices[:, None] - sphere.vertices[None]).sum(-1).argmin(1)
    np.testing.assert_allclose(mesh.colour[:, :3], linear(colours[nearest] / 255), atol=2e-3)


def painted_box(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A box whose twelve faces have twelve colours; the colours as they can be stored, and the middles of the faces."""
    box = trimesh.creation.box()
    colours = np.random.default_rng(1).integers(0, 32, (12, 3)) * 255 // 31
    if path.suffix == ".off":
        rows = "".join(f"3 {a} {b} {c} {r} {g} {d}\n" for (a, b, c), (r, g, d) in zip(box.faces, colours, strict=True))
        written(path, "OFF8 12 0\n" + "".join(f"{x} {y} {z}\n" for x, y, z in box.vertices) + rows)
    elif path.suffix == ".stl":
        fives = (colours * 31 + 127) // 255
        words = 0x8000 | fives[:, 0] << 10 | fives[:, 1] << 5 | fives[:, 2]
        faces = b"".join(
            struct.pack("<12fH", *normal, *t.ravel(), w) for normal, t, w in zip(box.face_normals, box.triangles, words, strict=True)
        )
        written(path, bytes(80) + struct.pack("<I", 12) + faces)
    else:
        box.visual.face_colors = np.column_stack([colours, np.full(12, 255)]).astype(np.uint8)
        box.export(path)
    return colours, box.triangles_center


@pytest.mark.parametrize("suffix", ["ply", "off", "stl"])
def test_face_colours_stay_on_their_faces(tmp_path: Path, suffix: str) -> None:
    colours, middles = painted_box(tmp_path / f"box.{suffix}")
    mesh = read(tmp_path / f"box.{suffix}")
    found = face_bytes(mesh)
    for middle, colour in zip(mesh.vertices[mesh.faces].mean(1), found, strict=True):
        own = np.abs(middles / np.linalg.norm([0.5, 0.5, 0.5]) - middle).sum(1).argmin()
        np.testing.assert_allclose(colour, colours[own], atol=1)


def test_magics_writes_stl_colours_the_other_way_round(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    words = [31] + [0x8000] * 11  # the first face red, the others as the whole, which is green
    head = b"COLOR=" + bytes([0, 255, 0, 255])
    faces = b"".join(struct.pack("<12fH", 0, 0, 0, *t.ravel(), w) for t, w in zip(box.triangles, words, strict=True))
    mesh = read(written(tmp_path / "box.stl", head.ljust(80, b" ") + struct.pack("<I", 12) + faces))
    assert sorted(map(tuple, face_bytes(mesh).tolist())) == [(0, 255, 0)] * 11 + [(255, 0, 0)]


def test_a_texture_of_an_obj_stands_upright_and_alone(tmp_path: Path) -> None:
    (tmp_path / "four.png").write_bytes(png(FOUR))
    (tmp_path / "paint.mtl").write_text("newmtl four\nKd 0 0 0\nmap_Kd -s 1 1 1 four.png\nnewmtl flat\nKd 0.5 0.25 1\nd 0.5\n")
    faces = "usemtl four\nf 1/1 2/2 3/3 4/4\n"
    mesh = read(written(tmp_path / "square.obj", f"mtllib paint.mtl\n{SQUARE}{faces}"))
    assert [corner_colour(mesh, x, y) for x, y in ((0, 1), (1, 1), (0, 0), (1, 0))] == [tuple(c) for c in FOUR.reshape(-1, 3).tolist()]
    mesh = read(written(tmp_path / "flat.obj", f"mtllib paint.mtl\n{SQUARE}usemtl flat\nf 1 2 3 4\n"))
    np.testing.assert_allclose(mesh.colour[0], [*linear([0.5, 0.25, 1]), 0.5], atol=1e-6)  # type: ignore[arg-type]
    assert mesh.materials[0].alpha == "blend"


def test_an_obj_of_two_materials_is_one_mesh_of_two(tmp_path: Path) -> None:
    (tmp_path / "paint.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    mesh = read(
        written(tmp_path / "two.obj", f"mtllib paint.mtl\n{SQUARE}usemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\nusemtl red\nf 1 2 4\n")
    )
    assert sorted(map(tuple, face_bytes(mesh).tolist())) == [(0, 0, 255), (255, 0, 0), (255, 0, 0)]


@pytest.mark.parametrize("where", ["vertices", "corners"])
@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_a_texture_of_a_ply_stands_upright(tmp_path: Path, where: str, form: str) -> None:
    (tmp_path / "four.png").write_bytes(png(FOUR))
    xy = [(0, 0), (1, 0), (1, 1), (0, 1)]
    per_vertex = where == "vertices"
    head = f"ply\nformat {'ascii' if form == 'ascii' else 'binary_little_endian'} 1.0\ncomment TextureFile four.png\nelement vertex 4\n"
    head += "property float x\nproperty float y\nproperty float z\n" + ("property float s\nproperty float t\n" if per_vertex else "")
    head += (
        "element face 1\nproperty list uchar int vertex_indices\n"
        + ("" if per_vertex else "property list uchar float texcoord\n")
        + "end_header\n"
    )
    vertices = [[x, y, 0, *((x, y) if per_vertex else ())] for x, y in xy]
    corners = [] if per_vertex else [8, *np.ravel(xy).tolist()]
    if form == "ascii":
        body = "\n".join(" ".join(map(str, row)) for row in [*vertices, [4, 0, 1, 2, 3, *corners]]).encode() + b"\n"
    else:
        body = np.array(vertices, "<f4").tobytes() + struct.pack("<B4i", 4, 0, 1, 2, 3)
        body += b"" if per_vertex else struct.pack("<B8f", 8, *np.ravel(xy))
    mesh = read(written(tmp_path / "square.ply", head.encode() + body))
    assert [corner_colour(mesh, x, y) for x, y in ((0, 1), (1, 1), (0, 0), (1, 0))] == [tuple(c) for c in FOUR.reshape(-1, 3).tolist()]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_ply_of_mixed_polygons_is_read_in_every_form(tmp_path: Path, form: str) -> None:
    # A cube: one face of two triangles, the others whole; trimesh reads only the text of this.
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(form, "")
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [(0, 1, 3), (0, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    colours = [(40 * k, 255 - 40 * k, 7) for k in range(7)]
    head = f"ply\nformat {form} 1.0\nelement vertex 8\nproperty double x\nproperty double y\nproperty double z\nelement face 7\n"
    head += "property list uchar uint vertex_index\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    if order:
        body = b"".join(struct.pack(f"{order}3d", *corner) for corner in corners)
        body += b"".join(struct.pack(f"{order}B{len(f)}I3B", len(f), *f, *c) for f, c in zip(faces, colours, strict=True))
    else:
        rows = [*corners, *((len(f), *f, *c) for f, c in zip(faces, colours, strict=True))]
        body = "\n".join(" ".join(map(str, row)) for row in rows).encode()
    mesh = read(written(tmp_path / "mixed.ply", head.encode() + body))
    assert len(mesh.faces) == 12
    expected = [colours[0], colours[1], *(c for c in colours[2:] for _ in range(2))]
    assert sorted(map(tuple, face_bytes(mesh).tolist())) == sorted(expected)
    assert (mesh.normals * mesh.vertices).sum(1).min() > 0.5  # and all of them look outward


def test_an_obj_may_count_backwards_from_where_it_stands(tmp_path: Path) -> None:
    block = "v {0} 0 0\nv {1} 0 0\nv {1} 1 0\nv {0} 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    two = [block.format(0, 1), block.format(5, 7)]
    plain = two[0] + "f 1/1 2/2 3/3 4/4\n" + two[1] + "f 5/5 6/6 7/7 8/8\n"
    backwards = "f -4/-4 -3/-3 -2/-2 -1/-1\n".join([*two, ""])
    one, other = (read(written(tmp_path / f"{k}.obj", text)) for k, text in enumerate((plain, backwards)))
    assert same_triangles(one, other.vertices[other.faces])
    assert len(one.faces) == 4


def test_text_in_latin_1_is_text(tmp_path: Path) -> None:
    (tmp_path / "paint.mtl").write_bytes("newmtl Grün\nKd 0 1 0\n".encode("latin-1"))
    mesh = read(written(tmp_path / "a.obj", f"# Möbel\nmtllib paint.mtl\n{SQUARE}usemtl Grün\nf 1 2 3 4\n".encode("latin-1")))
    assert face_bytes(mesh)[0].tolist() == [0, 255, 0]


def test_what_an_obj_names_but_does_not_have_is_passed_over(tmp_path: Path) -> None:
    grey = read(written(tmp_path / "a.obj", f"mtllib C:\\art\\gone.mtl\n{SQUARE}usemtl paint\nf 1 2 3 4\n"))
    np.testing.assert_allclose(sample(grey, 10, 0).rgb, 0.4, atol=1e-3)
    (tmp_path / "b.mtl").write_text("newmtl paint\nKd 1 0 0\nmap_Kd gone.png\n")  # renamed with its .obj
    red = read(written(tmp_path / "b.obj", f"mtllib old.mtl\n{SQUARE}usemtl paint\nf 1/1 2/2 3/3\n"))
    assert face_bytes(red)[0].tolist() == [255, 0, 0]


def test_vertices_of_two_numbers_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vertices of shape"):
        read(written(tmp_path / "a.obj", "v 0 0\nv 1 0\nv 1 1\nf 1 2 3\n"))


def test_files_elsewhere_below_the_root_may_be_used(tmp_path: Path) -> None:
    for folder in ("meshes", "textures", "store"):
        (tmp_path / folder).mkdir()
    (tmp_path / "textures" / "paint.mtl").write_text("newmtl paint\nKd 1 0 0\n")
    (tmp_path / "store" / "blob").write_text(f"mtllib ../textures/paint.mtl\n{SQUARE}usemtl paint\nf 1 2 3 4\n")
    (tmp_path / "meshes" / "a.obj").symlink_to("../store/blob")  # as download caches lay out their files
    assert face_bytes(read(tmp_path / "meshes" / "a.obj", root=tmp_path))[0].tolist() == [255, 0, 0]
    with pytest.raises(DataError, match="outside"):
        read(tmp_path / "meshes" / "a.obj", root=tmp_path / "meshes")


def test_useless_faces_are_dropped_and_do_not_count_for_the_size(tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [np.nan, 0, 0], [np.inf, 1, 1], [1e9, 1e9, 1e9], [9, 9, 9]], np.float32)
    faces = np.array([[0, 1, 2], [0, 1, 3], [1, 2, 4], [0, 5, 5], [0, 0, 0]], np.uint32)  # one sound; vertex 6 unused
    mesh = read(written(tmp_path / "a.glb", asset(vertices, faces).glb()))
    assert same_triangles(mesh, vertices[faces[:1]])
    assert len(mesh.vertices) == 3


def test_limits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "ball.stl"
    trimesh.creation.icosphere(4).export(path)
    for suffix in FORMATS:
        trimesh.creation.icosphere(4).export(path.with_suffix(f".{suffix}"))
        with pytest.raises(DataError, match="at most"):
            read(path.with_suffix(f".{suffix}"), faces=1000)
    with pytest.raises(DataError, match="bytes"):
        read(path, file_mb=0)


@pytest.mark.parametrize("suffix", [*FORMATS, "mtl"])
def test_any_spoilt_byte_is_refused_or_read_but_never_worse(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / f"box.{'obj' if suffix == 'mtl' else suffix}"
    if suffix == "mtl":
        (tmp_path / "four.png").write_bytes(png(FOUR))
        (tmp_path / "box.mtl").write_text("newmtl paint\nKd 1 0 0\nd 0.5\nmap_Kd four.png\n")
        path.write_text(f"mtllib box.mtl\n{SQUARE}usemtl paint\nf 1/1 2/2 3/3\n")
    elif suffix == "obj":
        trimesh.creation.box().export(path)
    else:
        painted_box(path)
    spoilt = path.with_suffix(f".{suffix}")
    whole = spoilt.read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] = random.choice([0, 255, 45, 57, 48, random.integers(0, 256)])
        spoilt.write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.3 else data)
        try:
            mesh = read(path, faces=1000)
        except DataError:
            continue
        assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices)
        assert all(np.isfinite(array).all() for array in (mesh.vertices, mesh.normals, mesh.uv, mesh.colour))
        assert np.linalg.norm(mesh.vertices, axis=1).max() <= 1


def test_real_furniture_survives_every_format(tmp_path: Path) -> None:
    with np.load(mrdist_shared("sweethome3d/meshes.npz")) as pack:
        v, f, vo, fo, colours = (pack[name] for name in ("verts", "faces", "vert_offset", "face_offset", "face_colors"))
    for k in range(0, len(vo) - 1, 150):
        vertices = v[vo[k] : vo[k + 1]].astype(np.float64) / 65535 * 2 - 1
        faces, paint = f[fo[k] : fo[k + 1]].astype(np.int64), colours[fo[k] : fo[k + 1]]
        model = trimesh.Trimesh(vertices, faces, process=False, face_colors=np.column_stack([paint[:, :3], np.full(len(paint), 255)]))
        sound = model.area_faces > 1e-12
        for suffix in FORMATS:
            model.export(tmp_path / f"a.{suffix}")
            mesh = read(tmp_path / f"a.{suffix}", up="y")
            assert abs(len(mesh.faces) - sound.sum()) <= 0.01 * len(faces)
            if suffix == "ply":
                known = np.unique(linear(paint[:, :3] / 255), axis=0)
                points = linear(sample(mesh, 300, 0).rgb)
                assert np.abs(points[:, None] - known[None]).max(-1).min(1).max() < 5e-3
