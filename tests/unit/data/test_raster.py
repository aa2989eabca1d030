"""The rasteriser against definitions: rays in float64, OpenGL, and what people expect of a picture."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import warp as wp
from numpy.typing import NDArray

from mrdist.data import raster_kernels
from mrdist.data.mesh import Material, Mesh
from mrdist.data.raster import LAYERS, WarpRenderer
from mrdist.data.render import AMBIENT, KEY, KEY_TOWARDS, LAMP, RINGS, axes, cameras, distance
from mrdist.errors import DataError, RecipeError
from mrdist.recipe import Views
from mrdist.shapes import Bytes, Camera
from tests.unit.data import gl_oracle
from tests.unit.data.scenes import mesh, panes, sphere, together, waves
from tests.waiting import LATE

SMALL = Views(pixels=64, ring="front4")
FRONT = Camera(0.0, 0.0, cameras(Views())[0].distance, 43.0)


@pytest.fixture(scope="module")
def renderer() -> WarpRenderer:
    made = WarpRenderer("cpu")
    made.warm()
    return made


def rainbow(out: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([0.5 + 0.5 * np.sin(5 * out), np.ones((len(out), 1))], 1)


def pixels(renderer: WarpRenderer, shape: Mesh, views: Views) -> list[Bytes]:
    return [view.pixels for view in renderer.render(shape, views)]


def from_the_front(renderer: WarpRenderer, shape: Mesh, views: Views = SMALL) -> Bytes:
    """The view along -x, from azimuth 0 and elevation 0, where panes of `scenes` lie flat in the picture."""
    turned = {name: getattr(shape, name) @ _to_front().astype(np.float32) for name in ("vertices", "normals")}
    return pixels(renderer, replace(shape, **turned), views)[2]


def _to_front() -> NDArray[np.float64]:
    """What turns the axes of `FRONT` into those of the third camera of "front4", as a matrix for rows."""
    return axes(FRONT).astype(np.float64).T @ axes(RINGS["front4"][2]).astype(np.float64)


def picture_hash(seed: int = 3) -> str:
    """The hash of three pictures: colours, a cut-out texture, glass."""
    shapes = (
        sphere(20, lumps=0.4, colour=rainbow),
        sphere(20, lumps=0.2, materials=(Material(texture=waves(33, 70, holes=True), alpha="mask"),)),
        together(panes([-0.2, 0.2], [[1, 0, 0, 0.5], [0, 0, 1, 0.3]]), sphere(9, radius=0.4)),
    )
    held = WarpRenderer("cpu")
    return hashlib.sha256(b"".join(p.tobytes() for shape in shapes for p in pixels(held, shape, Views(pixels=50)))).hexdigest()


# ---- against the definition: one ray per pixel, in float64


def rays(shape: Mesh, camera: Camera, size: int, ground: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What a pixel shows by definition, sRGB [size, size, 3] 0..255, and whether it lies clear of every edge."""
    right, up, back = axes(camera).astype(np.float64)
    centres = (2 * (np.arange(size) + 0.5) / size - 1) * np.tan(np.radians(camera.fov) / 2)
    x, y = np.meshgrid(centres, -centres)
    direction = x[..., None] * right + y[..., None] * up - back
    a, b, c = (shape.vertices[shape.faces[:, k]].astype(np.float64) for k in range(3))
    across = np.cross(b - a, c - a)
    start = camera.distance * back
    out = np.full((size, size, 3), linear(ground / 255.0))
    clear = np.ones((size, size), bool)
    for row in range(size):
        for column in range(size):
            d = direction[row, column]
            facing = across @ d
            facing[facing == 0] = 1e-30
            t = np.einsum("ij,ij->i", across, a - start) / facing
            p = start + t[:, None] * d
            w = np.stack([np.einsum("ij,ij->i", across, np.cross(r - q, p - q)) for q, r in ((b, c), (c, a), (a, b))], 1)
            w /= np.maximum(np.einsum("ij,ij->i", across, across), 1e-30)[:, None]
            # An edge within a thousandth of a pixel of the centre may fall to either side.
            clear[row, column] = not (np.abs(w).min(1) < 2e-3)[(w > -2e-3).all(1)].any()
            hit = (w >= 0).all(1)
            if hit.any():
                face = int(np.where(hit, t, np.inf).argmin())
                n = w[face] @ shape.normals[shape.faces[face]]
                n /= np.linalg.norm(n)
                geometric = across[face] * np.sign(across[face] @ n)
                n = -n if geometric @ d > 0 else n
                key = np.array(KEY_TOWARDS) @ np.stack([right, up, back])
                light = AMBIENT + LAMP * max(n @ back, 0) + KEY * max(n @ key, 0)
                out[row, column] = light * (w[face] @ shape.colour[shape.faces[face]])[:3]
    return 255 * np.where(out <= 0.0031308, 12.92 * out, 1.055 * out.clip(1e-9) ** (1 / 2.4) - 0.055), clear


def linear(srgb: float) -> float:
    return srgb / 12.92 if srgb <= 0.04045 else ((srgb + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_shows_the_face_and_the_light_that_a_ray_finds(renderer: WarpRenderer, seed: int) -> None:
    random = np.random.default_rng(seed)
    vertices = random.uniform(-0.57, 0.57, (3 * 7, 3))
    shape = mesh(vertices, np.arange(21).reshape(-1, 3), colour=np.c_[random.uniform(0, 1, (21, 3)), np.ones(21)])
    turned = random.normal(size=(len(shape.normals), 3)) * 0.2 + shape.normals  # smooth normals, interpolated
    shape = replace(shape, normals=(turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32))
    views = Views(pixels=32, supersampling=1)
    for view in renderer.render(shape, views)[seed::4]:
        wanted, clear = rays(shape, view.camera, 32, views.background)
        assert clear.mean() > 0.9
        difference = np.abs(view.pixels - wanted)[clear].max(-1)
        # Corners lie on a grid of 1/256 of a sample: seen edge-on, a face may move its colours by a level or two.
        assert np.percentile(difference, 98) < 1
        assert difference.max() < 4


# ---- against another renderer


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (sphere(40, lumps=0.4, colour=rainbow), 42),
        (sphere(40, lumps=0.4, materials=(Material(texture=waves(256, 512)),)), 38),
        (
            together(
                sphere(30, lumps=0.3, materials=(Material(texture=waves(256, 256, holes=True), alpha="mask"),)),
                sphere(16, radius=0.4, colour=(1, 0.1, 0.1, 1)),
            ),
            34,
        ),
        (
            together(
                panes([-0.4, 0, 0.4], [[0.9, 0.1, 0.1, 0.5], [0.1, 0.9, 0.1, 0.4], [0.1, 0.1, 0.9, 0.6]]),
                sphere(16, radius=0.3, colour=(0.8, 0.8, 0.2, 1)),
            ),
            45,
        ),
    ],
    ids=["colours", "texture", "cutout", "glass"],
)
def test_opengl_draws_the_same_picture(renderer: WarpRenderer, shape: Mesh, wanted: float) -> None:
    views = Views(pixels=160, ring="front4")
    theirs = gl_oracle.draw(shape, views, cameras(views))
    for ours, other in zip(pixels(renderer, shape, views), theirs, strict=True):
        noise = np.mean((ours.astype(np.float64) - other) ** 2)
        assert 10 * np.log10(255**2 / noise) > wanted  # dB, silhouettes included


# ---- what people expect of a picture


def test_the_same_mesh_gives_the_same_pictures_twice_and_in_another_process() -> None:
    here = picture_hash()
    assert picture_hash() == here
    words = "from tests.unit.data.test_raster import picture_hash; print(picture_hash())"
    there = subprocess.run([sys.executable, "-c", words], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert there.stderr == ""


def test_a_child_forked_from_a_warm_process_neither_compiles_nor_loads(tmp_path: Path) -> None:
    words = """
import os, shutil, sys
from tests.unit.data.scenes import sphere
from mrdist.data.raster import WarpRenderer
from mrdist.recipe import Views
renderer = WarpRenderer()
renderer.warm()
compiled = os.environ["WARP_CACHE_PATH"]
assert os.listdir(compiled)
shutil.rmtree(compiled)  # whoever wanted a kernel now would put it there again
child = os.fork()
if not child:
    good = len(renderer.render(sphere(12), Views(pixels=32))) == 12
    os._exit(0 if good and not os.path.exists(compiled) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "WARP_CACHE_PATH": str(tmp_path / "compiled")}
    subprocess.run([sys.executable, "-c", words], cwd=Path(__file__).parents[3], env=environment, check=True, timeout=LATE)


def test_a_room_that_was_used_before_leaves_no_trace(renderer: WarpRenderer) -> None:
    shape = together(sphere(12, radius=0.5, colour=rainbow), panes([0.4], [[0, 1, 0, 0.4]]))
    fresh = pixels(WarpRenderer("cpu"), shape, SMALL)
    renderer.render(sphere(40), Views(pixels=100))
    renderer.render(panes([-0.2, 0.2], [[1, 0, 0, 0.5]] * 2), Views(pixels=90))
    np.testing.assert_array_equal(pixels(renderer, shape, SMALL), fresh)


@pytest.mark.parametrize("ring", RINGS)
def test_every_camera_sees_the_object_whole_and_centred(renderer: WarpRenderer, ring: str) -> None:
    for picture in pixels(renderer, sphere(32), Views(pixels=96, ring=ring, background=0)):
        rows, columns = np.nonzero(picture[..., 0])
        assert abs(rows.mean() - 47.5) < 0.1
        assert abs(columns.mean() - 47.5) < 0.1
        assert 85 < np.ptp(rows) < 95  # fills the picture, touches no border
        assert 85 < np.ptp(columns) < 95


def test_up_is_up_in_every_picture(renderer: WarpRenderer) -> None:
    column = sphere(24, colour=lambda out: np.where(out[:, 2:] > 0, [1, 0.02, 0.02, 1], [0.02, 0.02, 1, 1]))
    column = replace(column, vertices=column.vertices * np.array([0.2, 0.2, 1], np.float32))
    for ring in RINGS:
        for view in renderer.render(column, Views(pixels=80, ring=ring)):
            if abs(view.camera.elevation) < 60:
                red, blue = (view.pixels[..., channel] > 100 + view.pixels[..., 2 - channel].astype(int) for channel in (0, 2))
                assert np.nonzero(red)[0].max() <= np.nonzero(blue)[0].min() + 12  # the middle is seen as an ellipse
                assert np.nonzero(red)[0].mean() < 40 < np.nonzero(blue)[0].mean()


def test_a_picture_is_no_mirror_image(renderer: WarpRenderer) -> None:
    # From azimuth 270 one looks along +y: x points right.
    marks = together(sphere(9, radius=0.2, colour=(1, 0, 0, 1)), sphere(9, radius=0.2, colour=(0, 0, 1, 1)))
    half = len(marks.vertices) // 2
    side = np.where(np.arange(len(marks.vertices)) < half, -0.6, 0.6)[:, None] * np.array([1, 0, 0])
    picture = pixels(renderer, replace(marks, vertices=(marks.vertices + side).astype(np.float32)), SMALL)[0].astype(int)
    assert np.nonzero(picture[..., 0] > picture[..., 2] + 60)[1].max() < 32 < np.nonzero(picture[..., 2] > picture[..., 0] + 60)[1].min()


def test_a_white_ball_shows_on_the_ground_and_does_not_clip(renderer: WarpRenderer) -> None:
    y, x = np.mgrid[:256, :256] - 127.5
    radius = np.hypot(x, y) * distance(43.0) * np.sin(np.radians(43.0) / 2) / 128
    for picture in pixels(renderer, sphere(96), Views(pixels=256)):
        level = picture[..., 0].astype(int)
        assert np.mean(np.abs(level - 217)[radius < 0.99] >= 10) > 0.75
        assert level[radius < 0.3].min() > 217 + 10
        assert level[(radius > 0.98) & (radius < 0.99) & (y > 0)].max() < 217 - 20
        assert level[radius < 0.99].min() > 100  # nothing drowns
        assert np.mean(level[radius < 0.99] == 255) < 0.02


@pytest.mark.parametrize("ring", ["openshape12", "ring12"])
def test_every_side_of_a_white_box_differs_from_the_ground_and_from_its_neighbours(renderer: WarpRenderer, ring: str) -> None:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.55
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    box = mesh(corners, [[side[i] for i in half] for side in sides for half in ((0, 1, 2), (0, 2, 3))])
    for picture in pixels(renderer, box, Views(pixels=128, ring=ring, supersampling=1)):
        level, count = np.unique(picture[..., 0], return_counts=True)
        level = level[count > 100].astype(int)  # rounding may split a side into two levels
        levels = [int(group.mean()) for group in np.split(level, np.flatnonzero(np.diff(level) > 2) + 1)]
        assert 217 in levels
        assert 3 <= len(levels) <= 4  # the ground, and two or three sides
        assert min(np.diff(levels)) >= 8


def test_the_ground_is_the_grey_that_was_asked_for(renderer: WarpRenderer) -> None:
    for level in (0, 1, 217, 255):
        picture = pixels(renderer, sphere(8, radius=0.3), replace(SMALL, background=level))[0]
        assert (picture[0] == level).all()
        assert (picture[:, 0] == level).all()


def test_colours_come_out_as_srgb(renderer: WarpRenderer) -> None:
    # Lit to the full by nothing in particular: two albedos must differ by exactly their ratio of linear light.
    def shade(albedo: float) -> float:
        picture = from_the_front(renderer, panes([0.0], [[albedo, albedo, albedo, 1]], alpha="opaque"))
        return float(picture[32, 32, 0])

    white = linear(shade(1.0) / 255)
    for albedo in (0.02, 0.18, 0.5):
        assert linear(shade(albedo) / 255) == pytest.approx(albedo * white, abs=0.004)


def test_both_sides_of_a_face_are_lit_alike(renderer: WarpRenderer) -> None:
    shape = panes([0.0], [[1, 1, 1, 1]], alpha="opaque")
    turned = replace(shape, faces=np.ascontiguousarray(shape.faces[:, ::-1]))  # wound against its normals
    behind = replace(shape, normals=-shape.normals)
    first = from_the_front(renderer, shape)
    np.testing.assert_array_equal(from_the_front(renderer, turned), first)
    np.testing.assert_array_equal(from_the_front(renderer, behind), first)


def test_faces_that_share_an_edge_leave_no_gap(renderer: WarpRenderer) -> None:
    from scipy.spatial import Delaunay

    random = np.random.default_rng(0)
    flat = np.concatenate([random.uniform(-0.6, 0.6, (4000, 2)), [[-0.6, -0.6], [-0.6, 0.6], [0.6, -0.6], [0.6, 0.6]]])
    sheet = mesh(np.c_[np.zeros(len(flat)), flat], Delaunay(flat).simplices, normals=np.tile([1.0, 0, 0], (len(flat), 1)))
    for samples in (1, 2):
        picture = from_the_front(renderer, sheet, Views(pixels=150, ring="front4", supersampling=samples, background=0))
        rows, columns = np.nonzero(picture[..., 0] > 0)
        inner = picture[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()]
        assert inner.shape[0] > 70
        assert np.ptp(inner) == 0


def test_supersampling_smooths_edges(renderer: WarpRenderer) -> None:
    shape = panes([0.0], [[0, 0, 0, 1]], alpha="opaque")
    shape = replace(shape, vertices=(shape.vertices @ _tilt(10)).astype(np.float32))
    levels = [len(np.unique(from_the_front(renderer, shape, replace(SMALL, supersampling=s)))) for s in (1, 2, 4)]
    assert levels[0] == 2
    assert levels[1] == 5
    assert levels[2] > 9


def _tilt(degrees: float) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


# ---- textures


def textured_pane(texture: Bytes, **more: object) -> Mesh:
    return replace(panes([0.0], [[1, 1, 1, 1]]), materials=(Material(texture=texture, **more),))  # type: ignore[arg-type]


def test_the_first_row_of_a_texture_is_at_the_top_and_its_first_column_at_the_left(renderer: WarpRenderer) -> None:
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:4, :4], texture[:4, 4:], texture[4:, :4] = [255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]
    picture = from_the_front(renderer, textured_pane(texture)).astype(int)
    assert picture[25, 25].argmax() == 0
    assert picture[25, 38].argmax() == 1
    assert picture[38, 25].argmax() == 2
    assert np.ptp(picture[38, 38]) == 0


def test_a_texture_repeats(renderer: WarpRenderer) -> None:
    texture = waves(16, 16)
    shape = textured_pane(texture)
    for shift in (7.0, -3.0, -1000.0):
        moved = replace(shape, uv=(shape.uv + shift).astype(np.float32))
        difference = from_the_front(renderer, moved).astype(int) - from_the_front(renderer, shape)
        assert np.abs(difference).max() <= 1


def test_a_fine_texture_far_away_is_its_mean_in_linear_light(renderer: WarpRenderer) -> None:
    checks = np.zeros((512, 512, 4), np.uint8)
    checks[::2, ::2, :3] = checks[1::2, 1::2, :3] = 255
    checks[..., 3] = 255
    seen = from_the_front(renderer, textured_pane(checks))[28:36, 28:36]
    half = from_the_front(renderer, panes([0.0], [[0.5, 0.5, 0.5, 1]], alpha="opaque"))[32, 32, 0]
    assert np.abs(seen.astype(int) - half).max() <= 1


def test_what_is_transparent_lends_no_colour_to_coarser_levels(renderer: WarpRenderer) -> None:
    # Red leaves on a black ground that nobody sees: no black may creep in from afar.
    leaves = np.zeros((512, 512, 4), np.uint8)
    leaves[::2] = [255, 0, 0, 255]
    seen = from_the_front(renderer, textured_pane(leaves, alpha="mask", cutoff=0.25))[28:36, 28:36, 0]
    whole = from_the_front(renderer, panes([0.0], [[1, 0, 0, 1]], alpha="opaque"))[32, 32, 0]
    assert np.abs(seen.astype(int) - whole).max() <= 1


# ---- alpha


def test_a_cutout_shows_the_ground(renderer: WarpRenderer) -> None:
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[2:6, 2:6, 3] = 0
    picture = from_the_front(renderer, textured_pane(texture, alpha="mask"))
    assert (picture[32, 32] == 217).all()
    assert (picture[24, 24] != 217).all()
    solid = from_the_front(renderer, textured_pane(texture, alpha="opaque"))
    assert (solid[32, 32] == solid[24, 24]).all()


def test_the_cutoff_decides_what_is_cut(renderer: WarpRenderer) -> None:
    faint = np.full((4, 4, 4), 255, np.uint8)
    faint[..., 3] = 100  # 0.39
    assert (from_the_front(renderer, textured_pane(faint, alpha="mask", cutoff=0.3))[32, 32] != 217).all()
    assert (from_the_front(renderer, textured_pane(faint, alpha="mask", cutoff=0.5))[32, 32] == 217).all()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_glass_is_laid_in_order_of_depth_whatever_the_order_of_faces(renderer: WarpRenderer, order: list[int]) -> None:
    places, colours = np.array([-0.4, 0.1, 0.5]), np.array([[0.9, 0.1, 0.1, 0.5], [0.1, 0.8, 0.1, 0.3], [0.2, 0.1, 0.9, 0.4]])
    picture = from_the_front(renderer, panes(places[order], colours[order]), Views(pixels=65, ring="front4"))
    n = _to_front()[0]  # where the panes look
    key = np.array(KEY_TOWARDS) @ axes(RINGS["front4"][2])
    light = AMBIENT + LAMP + KEY * float(n @ key)
    wanted = np.full(3, linear(217 / 255))
    for colour in colours:  # the farthest first
        wanted = colour[3] * light * colour[:3] + (1 - colour[3]) * wanted
    np.testing.assert_allclose([linear(level / 255) for level in picture[32, 32]], wanted, atol=0.004)


def test_glass_deeper_than_the_layers_is_left_out_and_nothing_breaks(renderer: WarpRenderer) -> None:
    def stack(count: int) -> Bytes:
        places = np.linspace(0.5, -0.5, LAYERS + 3)[:count]  # from the nearest on
        return from_the_front(renderer, panes(places, np.tile([0.0, 0.0, 0.0, 0.1], (count, 1))))

    assert stack(LAYERS)[32, 32, 0] < stack(LAYERS - 1)[32, 32, 0]
    assert stack(LAYERS + 3)[32, 32, 0] == stack(LAYERS)[32, 32, 0]


def test_glass_behind_something_opaque_does_not_show(renderer: WarpRenderer) -> None:
    ball = sphere(16, radius=0.3)
    both = together(panes([-0.5], [[1, 0, 0, 0.5]]), ball)
    assert (from_the_front(renderer, both)[32, 32] == from_the_front(renderer, ball)[32, 32]).all()


def test_a_material_called_blend_that_lets_nothing_through_is_opaque(renderer: WarpRenderer) -> None:
    crossing = together(panes([0.0], [[1, 0, 0, 1]], alpha="blend"), panes([0.1], [[0, 1, 0, 1]], alpha="mask"))
    opaque = replace(crossing, materials=(Material(), Material()))
    np.testing.assert_array_equal(pixels(renderer, crossing, SMALL), pixels(renderer, opaque, SMALL))


# ---- sizes, broken meshes, devices


@pytest.mark.parametrize(("size", "samples"), [(1, 1), (1, 2), (3, 1), (37, 3), (101, 8), (1100, 2)])
def test_any_size_can_be_rendered(renderer: WarpRenderer, size: int, samples: int) -> None:
    pictures = pixels(renderer, sphere(12, colour=rainbow), Views(pixels=size, supersampling=samples, ring="front4"))
    reference = pixels(renderer, sphere(12, colour=rainbow), Views(pixels=64, ring="front4"))
    for picture, other in zip(pictures, reference, strict=True):
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        if size > 3:
            np.testing.assert_allclose(picture[size // 2, size // 2].astype(int), other[32, 32], atol=12)


def test_degenerate_faces_cover_nothing(renderer: WarpRenderer) -> None:
    vertices = np.array([[0, 0, 0], [0.5, 0.2, 0.1], [-0.5, -0.2, -0.1], [0.1, 0.1, 0.1]])
    thin = mesh(vertices, [[0, 0, 0], [0, 1, 1], [0, 1, 2], [3, 3, 1]], normals=np.tile([0.0, 0, 1], (4, 1)), colour=(0, 0, 0, 1))
    ball = sphere(16)
    np.testing.assert_array_equal(pixels(renderer, together(ball, thin), SMALL), pixels(renderer, ball, SMALL))
    assert (pixels(renderer, replace(thin, faces=thin.faces[:2], material=thin.material[:2]), SMALL)[0] == 217).all()


def test_faces_smaller_than_a_sample_still_make_a_ball(renderer: WarpRenderer) -> None:
    views = Views(pixels=24, supersampling=2, ring="front4")
    for fine, coarse in zip(pixels(renderer, sphere(300), views), pixels(renderer, sphere(64), views), strict=True):
        assert np.abs(fine.astype(int) - coarse)[4:-4, 4:-4].max() <= 30
        assert np.abs(fine.astype(int) - coarse).mean() < 1.5


def _with(shape: Mesh, name: str, change: Callable[[NDArray[np.float32]], object]) -> Mesh:
    return replace(shape, **{name: change(getattr(shape, name).copy())})  # type: ignore[arg-type]


def _put(value: float) -> Callable[[NDArray[np.float32]], object]:
    def change(array: NDArray[np.float32]) -> object:
        array.reshape(-1)[5] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("faces", _put(10_000)),
        ("faces", _put(-1)),
        ("faces", lambda faces: faces.astype(np.int64)),
        ("faces", lambda faces: faces[:0]),
        ("faces", lambda faces: faces[:, :2]),
        ("material", _put(1)),
        ("material", _put(-1)),
        ("material", lambda material: material[:-1]),
        ("vertices", _put(float("nan"))),
        ("vertices", _put(float("inf"))),
        ("vertices", lambda vertices: vertices * 2),
        ("vertices", lambda vertices: vertices.astype(np.float64)),
        ("normals", _put(float("nan"))),
        ("normals", lambda normals: normals[:-1]),
        ("uv", lambda uv: uv[:-1]),
        ("uv", _put(float("nan"))),
        ("colour", lambda colour: colour[:, :3]),
        ("materials", lambda materials: ()),
        ("materials", lambda materials: (Material(texture=np.zeros((4, 4, 3), np.uint8)),)),
        ("materials", lambda materials: (Material(texture=np.zeros((0, 4, 4), np.uint8)),)),
    ],
)
def test_a_mesh_that_breaks_its_promise_is_refused_by_name(
    renderer: WarpRenderer, name: str, change: Callable[[NDArray[np.float32]], object]
) -> None:
    shape = sphere(8)
    changed = _with(shape, name, change) if name != "materials" else replace(shape, materials=change(np.empty(0)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mesh"):
        renderer.render(changed, SMALL)


def test_huge_texture_coordinates_do_no_harm(renderer: WarpRenderer) -> None:
    shape = textured_pane(waves(16, 16))
    picture = from_the_front(renderer, replace(shape, uv=(shape.uv * 3e38).astype(np.float32)))
    assert (picture[32, 32] != 217).any()


def test_arrays_that_cannot_be_written_are_rendered_and_left_alone(renderer: WarpRenderer) -> None:
    shape = textured_pane(waves(16, 16))
    for array in (shape.vertices, shape.faces, shape.normals, shape.uv, shape.colour, shape.material, shape.materials[0].texture):
        assert array is not None
        array.flags.writeable = False
    turned = replace(shape, faces=shape.faces[:, ::-1])
    before = turned.faces.copy()
    renderer.render(turned, SMALL)
    np.testing.assert_array_equal(turned.faces, before)


def test_an_unknown_device_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="cpu"):
        WarpRenderer("cuda:77")


def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    if not hasattr(wp, "compile_aot_module"):
        pytest.skip("needs warp with compile_aot_module")
    try:
        made = wp.compile_aot_module(raster_kernels, arch=90, module_dir=tmp_path, use_ptx=True)
    except RuntimeError as reason:
        pytest.skip(f"needs warp built with NVRTC: {reason}")
    text = made[0].read_text(errors="replace")
    assert "min.u64" in text  # nearest face by one atomic: the same picture in whatever order threads arrive
    assert "fma.rn.f32" not in text  # nothing fused, nothing approximate: the same pixels as on a CPU
    assert ".approx" not in text


def test_the_gpu_makes_the_same_pictures(renderer: WarpRenderer) -> None:
    if not wp.is_cuda_available():
        pytest.skip("needs a CUDA GPU")
    shape = together(sphere(40, lumps=0.4, colour=rainbow), panes([-0.4, 0.8], [[1, 0, 0, 0.5]] * 2, half=0.3))
    np.testing.assert_array_equal(pixels(WarpRenderer("cuda"), shape, Views()), pixels(renderer, shape, Views()))
