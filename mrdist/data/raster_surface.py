"""What a point of a face looks like to a camera: the rasteriser's scene, textures, materials and light, in NVIDIA Warp."""

# Warp's language in Python's clothes: mypy reads `int` where Warp means a 32-bit number, and a number that changes in a
# loop must be born as `int(0)`.
# mypy: disable-error-code="misc, index, assignment, operator, arg-type, call-overload, no-any-return, no-untyped-def"
# ruff: noqa: RUF046, UP018

from __future__ import annotations

import warp as wp


@wp.struct
class Look:
    """A texture in the store of texels, finest level first; no levels: no texture."""

    first: int
    width: int
    height: int
    levels: int
    cutoff: float


@wp.struct
class Scene:
    """A mesh where the kernels can reach it."""

    positions: wp.array[wp.vec3]
    normals: wp.array[wp.vec3]
    uv: wp.array[wp.vec2]
    colour: wp.array[wp.vec4]  # linear light, alpha
    corners: wp.array[wp.vec3i]  # [F] vertices, wound like their normals
    look: wp.array[wp.int32]  # [F] rows of `looks`
    looks: wp.array[Look]
    texels: wp.array[wp.uint32]  # sRGB and alpha bytes, red lowest
    light: wp.array[wp.float32]  # [256] linear light of an sRGB byte


@wp.struct
class Frame:
    """Some views of one size, and the room they are made in; views lie behind one another in every array."""

    axes: wp.array[wp.mat33]  # [views] right, up, back
    screen: wp.array[wp.vec3]  # [views, vertices] x, y in steps of the grid; 1 / depth
    keys: wp.array[wp.uint64]  # [views, samples, samples]
    veil: wp.array[wp.vec4]  # [views, samples, samples] light of peeled layers, and what they let through
    srgb: wp.array[wp.uint8]  # sRGB byte of linear light in equal steps
    vertices: int
    pixels: int
    supersampling: int
    samples: int  # pixels * supersampling
    shift: int  # a sample is 2 ** shift steps of the grid
    veiled: int
    distance: float
    focal: float  # samples per unit at depth 1
    nearest: float  # largest 1 / depth
    stretch: float
    lights: wp.vec3  # ambient, lamp, key
    key_towards: wp.vec3
    ground: float  # linear light
    ground_byte: wp.uint8


@wp.func
def decoded(texel: wp.uint32, light: wp.array[wp.float32]):
    r = light[int(texel & wp.uint32(255))]
    g = light[int((texel >> wp.uint32(8)) & wp.uint32(255))]
    b = light[int((texel >> wp.uint32(16)) & wp.uint32(255))]
    return wp.vec4(r, g, b, float(texel >> wp.uint32(24)) * (1.0 / 255.0))


@wp.func
def encoded(srgb: wp.array[wp.uint8], light: float):
    last = srgb.shape[0] - 1
    return srgb[int(wp.clamp(light, 0.0, 1.0) * float(last) + 0.5)]


@wp.func
def texture(scene: Scene, look: Look, uv: wp.vec2, spread: float):
    """Bilinear in the level where about one texel falls on a pixel; `spread` is texels per pixel, an area. Repeats."""
    first = look.first
    width = look.width
    height = look.height
    level = int(1)
    while spread > 2.0 and level < look.levels:
        first += width * height
        width = wp.max(width >> 1, 1)
        height = wp.max(height >> 1, 1)
        spread *= 0.25
        level += 1
    u = (uv[0] - wp.floor(uv[0])) * float(width) - 0.5
    v = (uv[1] - wp.floor(uv[1])) * float(height) - 0.5
    across = u - wp.floor(u)
    down = v - wp.floor(v)
    left = wp.clamp(int(wp.floor(u)), -1, width - 1)
    top = wp.clamp(int(wp.floor(v)), -1, height - 1)
    right = wp.where(left == width - 1, 0, left + 1)
    bottom = wp.where(top == height - 1, 0, top + 1)
    left = wp.where(left < 0, width - 1, left)
    top = wp.where(top < 0, height - 1, top)
    upper = first + top * width
    lower = first + bottom * width
    nw = decoded(scene.texels[upper + left], scene.light)
    ne = decoded(scene.texels[upper + right], scene.light)
    sw = decoded(scene.texels[lower + left], scene.light)
    se = decoded(scene.texels[lower + right], scene.light)
    return (nw * (1.0 - across) + ne * across) * (1.0 - down) + (sw * (1.0 - across) + se * across) * down


@wp.struct
class Spot:
    """A point of a face as a camera sees it."""

    corner: wp.vec3i
    weight: wp.vec3  # of the corners, true to perspective
    spread: float  # texture area per pixel, in units of uv
    front: int  # seen from the side its normals point to


@wp.func
def spot(scene: Scene, frame: Frame, view: int, face: int, place: wp.vec2):
    """The point of `face` under `place` on the screen, in steps of the grid."""
    s = Spot()
    s.corner = scene.corners[face]
    a = frame.screen[view * frame.vertices + s.corner[0]]
    b = frame.screen[view * frame.vertices + s.corner[1]]
    c = frame.screen[view * frame.vertices + s.corner[2]]
    ab = wp.vec2(b[0] - a[0], b[1] - a[1])
    ac = wp.vec2(c[0] - a[0], c[1] - a[1])
    area = int(ab[0]) * int(ac[1]) - int(ab[1]) * int(ac[0])
    inverse = 1.0 / float(area)
    x = place[0] - a[0]
    y = place[1] - a[1]
    wb = wp.clamp((x * ac[1] - y * ac[0]) * inverse, 0.0, 1.0)
    wc = wp.clamp((y * ab[0] - x * ab[1]) * inverse, 0.0, 1.0 - wb)
    w = wp.vec3((1.0 - wb - wc) * a[2], wb * b[2], wc * c[2])
    depth = 1.0 / (w[0] + w[1] + w[2])
    s.weight = w * depth
    pixel = float(frame.supersampling << frame.shift)
    s.spread = wp.abs(inverse) * pixel * pixel * (a[2] * depth) * (b[2] * depth) * (c[2] * depth)
    s.front = wp.where(area < 0, 1, 0)  # y points down
    return s


@wp.func
def colour(scene: Scene, face: int, s: Spot):
    """Linear light and alpha of the material there."""
    w = s.weight
    rgba = scene.colour[s.corner[0]] * w[0] + scene.colour[s.corner[1]] * w[1] + scene.colour[s.corner[2]] * w[2]
    look = scene.looks[scene.look[face]]
    if look.levels > 0:
        a = scene.uv[s.corner[0]]
        ab = scene.uv[s.corner[1]] - a
        ac = scene.uv[s.corner[2]] - a
        texels = wp.abs(ab[0] * ac[1] - ab[1] * ac[0]) * float(look.width) * float(look.height)
        rgba = wp.cw_mul(rgba, texture(scene, look, a + ab * w[1] + ac * w[2], texels * s.spread))
    return rgba


@wp.func
def lit(scene: Scene, frame: Frame, axes: wp.mat33, s: Spot):
    """How much light the face sends to the camera, of what it would send if it were white."""
    w = s.weight
    n = scene.normals[s.corner[0]] * w[0] + scene.normals[s.corner[1]] * w[1] + scene.normals[s.corner[2]] * w[2]
    seen = axes * n
    # Light is linear in the normal: one division for its length, turned where the face is seen from behind.
    scale = 1.0 / wp.max(wp.length(n), 1.0e-9)
    if s.front == 0:
        scale = -scale
    lamp = wp.max(seen[2] * scale, 0.0)
    key = wp.max(wp.dot(seen, frame.key_towards) * scale, 0.0)
    return frame.lights[0] + frame.lights[1] * lamp + frame.lights[2] * key
