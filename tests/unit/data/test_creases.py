"""Normals where a file has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from mrdist.data.creases import creased


def by_definition(vertices: NDArray[Any], faces: NDArray[Any], degrees: float = 40.0) -> NDArray[np.float64]:
    """[F, 3, 3] the normal of every corner: area-weighted over the faces reached around its place through smooth edges."""
    place = {}
    at = [place.setdefault(tuple(np.round(v, 5)), len(place)) for v in vertices.tolist()]
    cross = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]).astype(np.float64)
    unit = cross / np.linalg.norm(cross, axis=1, keepdims=True)
    around = [[f for f, face in enumerate(faces) if p in [at[v] for v in face]] for p in range(len(place))]
    out = np.empty((len(faces), 3, 3))
    for f, face in enumerate(faces):
        for k in range(3):
            here = at[face[k]]
            reached, waiting = {f}, [f]
            while waiting:
                one = waiting.pop()
                for other in around[here]:
                    shared = {at[v] for v in faces[one]} & {at[v] for v in faces[other]}
                    if other not in reached and len(shared) >= 2 and unit[one] @ unit[other] > np.cos(np.radians(degrees)):
                        reached.add(other)
                        waiting.append(other)
            total = cross[sorted(reached)].sum(0)
            out[f, k] = total / np.linalg.norm(total)
    return out


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("name", ["box", "cylinder", "torus", "crumpled"])
def test_normals_are_those_of_the_definition(name: str, loose: bool) -> None:
    mesh = {
        "box": trimesh.creation.box,
        "cylinder": lambda: trimesh.creation.cylinder(0.5, 1, sections=16),
        "torus": lambda: trimesh.creation.torus(0.6, 0.2, major_sections=12, minor_sections=8),
        "crumpled": lambda: trimesh.creation.icosphere(2),
    }[name]()
    vertices, faces = mesh.vertices.copy(), mesh.faces
    if name == "crumpled":
        vertices += np.random.default_rng(0).normal(0, 0.08, vertices.shape)
    vertices = (vertices / np.linalg.norm(vertices, axis=1).max()).astype(np.float32)
    if loose:  # as .stl stores it
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3)
    corners, origin, normals = creased(vertices, faces)
    np.testing.assert_allclose(normals[corners], by_definition(vertices, faces), atol=1e-5)
    np.testing.assert_array_equal(origin[corners], faces)  # a corner stays the vertex it was


def test_a_cube_has_edges_and_a_ball_has_none() -> None:
    box, ball = trimesh.creation.box(), trimesh.creation.icosphere(3)
    assert len(creased(box.vertices.astype(np.float32), box.faces)[1]) == 24
    _, origin, normals = creased(ball.vertices.astype(np.float32), ball.faces)
    assert len(origin) == len(ball.vertices)
    assert (normals * ball.vertices[origin]).sum(1).min() > 0.999


def test_many_loose_triangles_do_not_overflow_row_numbers() -> None:
    ball = trimesh.creation.icosphere(6)  # 245,760 corners times 40,962 places is beyond int32
    vertices = ball.triangles.reshape(-1, 3).astype(np.float32)
    _, origin, normals = creased(vertices, np.arange(len(vertices)).reshape(-1, 3))
    assert (normals * vertices[origin]).sum(1).min() > 0.999


def test_a_fan_of_a_hundred_thousand_triangles_costs_no_more_than_other_meshes() -> None:
    angle = np.linspace(0, 2 * np.pi, 100_001)
    rim = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    vertices = np.concatenate([[[0, 0, 0]], rim]).astype(np.float32)
    faces = np.column_stack([np.zeros(100_000, int), np.arange(1, 100_001), np.arange(2, 100_002)])
    _, _, normals = creased(vertices, faces)  # pairs of faces around the hub would be 10^10
    np.testing.assert_allclose(normals, [[0, 0, 1]] * len(normals), atol=1e-5)
