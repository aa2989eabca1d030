"""An independent renderer for tests: the same cameras and lights written as GLSL, drawn by OpenGL on EGL.

It shares no code with the rasteriser: vertices go through a projection matrix, faces through a depth buffer, textures
through the driver's sampler, and glass is sorted by distance and blended, farthest first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mrdist.data.mesh import Material, Mesh
from mrdist.data.render import AMBIENT, KEY, KEY_TOWARDS, LAMP
from mrdist.recipe import Views
from mrdist.shapes import Bytes, Camera

SRGB8_ALPHA8 = 0x8C43

VERTEX = """
#version 330
uniform mat4 project;
in vec3 place; in vec3 normal; in vec2 uv; in vec4 colour;
out vec3 n; out vec2 st; out vec4 c;
void main() { n = normal; st = uv; c = colour; gl_Position = project * vec4(place, 1.0); }
"""

FRAGMENT = """
#version 330
uniform mat3 axes;       // columns: right, up, back
uniform vec3 key_towards;
uniform vec3 parts;      // ambient, lamp, key
uniform sampler2D picture;
uniform bool textured;
uniform float bias;      // a texel for a pixel, not for a sample
uniform int alpha;       // 0 opaque, 1 mask, 2 blend
uniform float cutoff;
in vec3 n; in vec2 st; in vec4 c;
out vec4 result;
void main() {
    vec4 rgba = c;
    if (textured) rgba *= texture(picture, st, bias);
    if (alpha == 1 && rgba.a < cutoff) discard;
    vec3 m = normalize(n);
    if (!gl_FrontFacing) m = -m;
    vec3 key = axes * key_towards;
    float light = parts.x + parts.y * max(dot(m, axes[2]), 0.0) + parts.z * max(dot(m, key), 0.0);
    result = vec4(rgba.rgb * light, alpha == 2 ? rgba.a : 1.0);
}
"""


def context() -> Any:
    """A GL context without a display; skips the test, by name, where there is none."""
    moderngl = pytest.importorskip("moderngl")
    try:
        return moderngl.create_standalone_context(backend="egl")
    except Exception as reason:  # glcontext raises plain Exceptions
        pytest.skip(f"needs OpenGL through EGL (apt: libegl1 libgl1): {reason}")


def draw(mesh: Mesh, views: Views, ring: tuple[Camera, ...]) -> list[Bytes]:
    """Pictures [pixels, pixels, 3] of `mesh`, one per camera, supersampled on the same grid of samples."""
    gl = context()
    try:
        return [_picture(gl, mesh, views, camera) for camera in ring]
    finally:
        gl.release()


def _picture(gl: Any, mesh: Mesh, views: Views, camera: Camera) -> Bytes:
    size = views.pixels * views.supersampling
    target = gl.framebuffer([gl.texture((size, size), 4, dtype="f4")], gl.depth_renderbuffer((size, size)))
    target.use()
    ground = _linear(views.background / 255)
    target.clear(ground, ground, ground, 1.0)
    axes = _axes(camera)
    program = gl.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
    program["project"].write(_projection(camera, axes).T.astype("f4").tobytes())
    program["axes"].write(axes.astype("f4").tobytes())  # rows here are columns there
    program["key_towards"] = KEY_TOWARDS
    program["parts"] = (AMBIENT, LAMP, KEY)
    gl.enable(gl.DEPTH_TEST)
    gl.blend_func = gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA
    distance = np.linalg.norm(mesh.vertices[mesh.faces].mean(1) - camera.distance * axes[2], axis=1)
    glass = np.array([material.alpha == "blend" for material in mesh.materials])[mesh.material]
    for which in np.unique(mesh.material):
        if mesh.materials[which].alpha != "blend":
            _faces(gl, program, mesh, mesh.faces[mesh.material == which], mesh.materials[which], views)
    gl.enable(gl.BLEND)
    target.depth_mask = False
    for face in sorted(np.flatnonzero(glass), key=lambda f: -distance[f]):
        _faces(gl, program, mesh, mesh.faces[face : face + 1], mesh.materials[mesh.material[face]], views)
    gl.disable(gl.BLEND)
    target.depth_mask = True
    light = np.frombuffer(target.read(components=3, dtype="f4"), "f4").reshape(size, size, 3)[::-1].astype(np.float64)
    n, ss = views.pixels, views.supersampling
    return _srgb_bytes(light.reshape(n, ss, n, ss, 3).mean((1, 3)))


def _faces(gl: Any, program: Any, mesh: Mesh, faces: NDArray[np.int32], material: Material, views: Views) -> None:
    program["textured"] = material.texture is not None
    program["alpha"] = ("opaque", "mask", "blend").index(material.alpha)
    program["cutoff"] = material.cutoff
    program["bias"] = float(np.log2(views.supersampling))
    if material.texture is not None:
        height, width = material.texture.shape[:2]
        picture = gl.texture((width, height), 4, material.texture.tobytes(), internal_format=SRGB8_ALPHA8)
        picture.build_mipmaps()
        picture.use(0)
    numbers = np.concatenate([mesh.vertices, mesh.normals, mesh.uv, mesh.colour], 1).astype("f4")
    layout = [(gl.buffer(numbers.tobytes()), "3f 3f 2f 4f", "place", "normal", "uv", "colour")]
    gl.vertex_array(program, layout, gl.buffer(faces.astype("i4").tobytes())).render()


def _axes(camera: Camera) -> NDArray[np.float64]:
    """Rows right, up, back, by cross products of the direction with z: another way than the renderer's closed form."""
    a, e = np.radians([camera.azimuth, camera.elevation])
    back = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back])


def _projection(camera: Camera, axes: NDArray[np.float64]) -> NDArray[np.float64]:
    look = np.eye(4)
    look[:3, :3] = axes
    look[2, 3] = -camera.distance
    near, far = camera.distance - 1.01, camera.distance + 1.01
    f = 1 / np.tan(np.radians(camera.fov) / 2)
    lens = np.zeros((4, 4))
    lens[0, 0] = lens[1, 1] = f
    lens[2, 2:] = (far + near) / (near - far), 2 * far * near / (near - far)
    lens[3, 2] = -1
    return np.asarray(lens @ look)


def _linear(srgb: float) -> float:
    return srgb / 12.92 if srgb <= 0.04045 else ((srgb + 0.055) / 1.055) ** 2.4


def _srgb_bytes(light: NDArray[np.float64]) -> Bytes:
    light = light.clip(0, 1)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint8)
