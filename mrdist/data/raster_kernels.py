"""The rasteriser's kernels, in NVIDIA Warp: one source for CPU and CUDA.

A view is made in three steps: `project` the vertices, `cover` the samples with the nearest face (one 64-bit key per
sample: depth above, face below; the smallest wins, in whatever order threads arrive), `resolve` samples into pixels.
Faces that are cut out by their alpha join after the opaque ones (`cut`). Faces to look through are peeled off, the
nearest first (`peel`), and laid one behind the other into a veil over what is opaque (`veil`): unlike screen-door
transparency this leaves no grain, unlike sorting faces it is right where they cross.

Only + - * /, sqrt and floor are used and nothing is contracted into fused multiply-adds, so that every machine makes
the same picture. Vertices are snapped to a grid finer than the samples and edges tested in whole numbers: faces that
share an edge leave no gap and no sample belongs to both. Warp checks no bounds: `mrdist.data.raster` checks the mesh before.
"""

# Warp's language in Python's clothes: mypy reads `int` where Warp means a 32-bit number, and a number that changes in a
# loop must be born as `int(0)`.
# mypy: disable-error-code="misc, index, assignment, operator, arg-type, call-overload, no-any-return, no-untyped-def"
# ruff: noqa: RUF046, UP018

from __future__ import annotations

import warp as wp

from mrdist.data.raster_surface import Frame, Scene, colour, decoded, encoded, lit, spot
from mrdist.data.raster_triangles import inside, key_of, steps, triangle, weights

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

EMPTY = wp.uint64(0xFFFFFFFFFFFFFFFF)


@wp.kernel
def wind(scene: Scene):
    """Turn faces whose winding contradicts their normals: the screen then says which side is seen."""
    face = wp.tid()
    corner = scene.corners[face]
    a = scene.positions[corner[0]]
    across = wp.cross(scene.positions[corner[1]] - a, scene.positions[corner[2]] - a)
    if wp.dot(across, scene.normals[corner[0]] + scene.normals[corner[1]] + scene.normals[corner[2]]) < 0.0:
        scene.corners[face] = wp.vec3i(corner[0], corner[2], corner[1])


@wp.kernel
def halve(scene: Scene, srgb: wp.array[wp.uint8], source: int, width: int, height: int, target: int):
    """The next level of a texture: means of 2 x 2 texels in linear light, weighted by alpha so that what is
    transparent lends no colour."""
    x, y = wp.tid()
    colour = wp.vec3(0.0, 0.0, 0.0)
    plain = wp.vec3(0.0, 0.0, 0.0)
    alpha = float(0.0)
    for j in range(2):
        for i in range(2):
            at = source + wp.min(2 * y + j, height - 1) * width + wp.min(2 * x + i, width - 1)
            t = decoded(scene.texels[at], scene.light)
            rgb = wp.vec3(t[0], t[1], t[2])
            plain += rgb
            colour += rgb * t[3]
            alpha += t[3]
    if alpha > 0.0:
        colour /= alpha
    else:
        colour = plain * 0.25
    r = wp.uint32(encoded(srgb, colour[0]))
    g = wp.uint32(encoded(srgb, colour[1]))
    b = wp.uint32(encoded(srgb, colour[2]))
    a = wp.uint32(alpha * 63.75 + 0.5)
    scene.texels[target + y * wp.max(width >> 1, 1) + x] = r | (g << wp.uint32(8)) | (b << wp.uint32(16)) | (a << wp.uint32(24))


@wp.kernel
def project(scene: Scene, frame: Frame, first: int):
    """Vertices as the cameras see them, snapped to the grid."""
    view, i = wp.tid()
    p = frame.axes[first + view] * scene.positions[i]
    near = 1.0 / wp.max(frame.distance - p[2], 0.001)
    middle = 0.5 * float(frame.samples)
    steps = float(1 << frame.shift)
    # The sphere fits the picture, so this clamp changes nothing a Mesh may hold; it keeps whole numbers from overflowing.
    edge = float(frame.samples << frame.shift)
    x = wp.clamp(wp.floor((middle + p[0] * near * frame.focal) * steps + 0.5), 0.0, edge)
    y = wp.clamp(wp.floor((middle - p[1] * near * frame.focal) * steps + 0.5), 0.0, edge)
    frame.screen[view * frame.vertices + i] = wp.vec3(x, y, near)


@wp.kernel
def cover(scene: Scene, frame: Frame, start: int, lanes: int):
    """Opaque faces into the keys. Thread `lane` of `lanes` takes every lanes-th row: no face costs a thread more than
    samples / lanes rows, not even one that fills the picture."""
    view, item, lane = wp.tid()
    face = start + item
    t = triangle(scene, frame, view, face)
    step = steps(frame, t)
    for y in range(t.top + lane, t.bottom + 1, lanes):
        w = weights(frame, t, t.left, y)
        row = inside(t, w, step)
        w += step * row[0]
        at = (view * frame.samples + y) * frame.samples + t.left
        for x in range(row[0], row[1] + 1):
            # No branch: whether a small triangle covers a sample is a coin toss, and a wrong guess costs more.
            key = wp.where((w[0] | w[1] | w[2]) >= 0, key_of(frame, t, w, face), EMPTY)
            wp.atomic_min(frame.keys, at + x, key)
            w += step


@wp.kernel
def cut(scene: Scene, frame: Frame, start: int, lanes: int):
    """As `cover`, for faces that are there only where their alpha reaches the cutoff."""
    view, item, lane = wp.tid()
    face = start + item
    t = triangle(scene, frame, view, face)
    step = steps(frame, t)
    cutoff = scene.looks[scene.look[face]].cutoff
    for y in range(t.top + lane, t.bottom + 1, lanes):
        w = weights(frame, t, t.left, y)
        row = inside(t, w, step)
        w += step * row[0]
        at = (view * frame.samples + y) * frame.samples + t.left
        for x in range(row[0], row[1] + 1):
            if (w[0] | w[1] | w[2]) >= 0:
                key = key_of(frame, t, w, face)
                if key < frame.keys[at + x]:
                    middle = wp.vec2(float(t.left + x) + 0.5, float(y) + 0.5) * float(1 << frame.shift)
                    if colour(scene, face, spot(scene, frame, view, face, middle))[3] >= cutoff:
                        wp.atomic_min(frame.keys, at + x, key)
            w += step


@wp.kernel
def peel(scene: Scene, frame: Frame, start: int, lanes: int, above: wp.array[wp.uint64], layer: wp.array[wp.uint64]):
    """As `cover`, into `layer`, for what lies behind the layer `above` and before everything opaque."""
    view, item, lane = wp.tid()
    face = start + item
    t = triangle(scene, frame, view, face)
    step = steps(frame, t)
    for y in range(t.top + lane, t.bottom + 1, lanes):
        w = weights(frame, t, t.left, y)
        row = inside(t, w, step)
        w += step * row[0]
        at = (view * frame.samples + y) * frame.samples + t.left
        for x in range(row[0], row[1] + 1):
            if (w[0] | w[1] | w[2]) >= 0:
                key = key_of(frame, t, w, face)
                if key > above[at + x] and key < frame.keys[at + x]:
                    wp.atomic_min(layer, at + x, key)
            w += step


@wp.struct
class Group:
    """The samples of one pixel that show one face: one bit each, and their middle in steps of the grid."""

    bits: wp.uint64
    count: int
    middle: wp.vec2


@wp.func
def group(frame: Frame, keys: wp.array[wp.uint64], corner: int, x: int, y: int, face: wp.uint32):
    g = Group()
    across = int(0)
    down = int(0)
    bit = wp.uint64(1)
    for j in range(frame.supersampling):
        for i in range(frame.supersampling):
            if wp.uint32(keys[corner + j * frame.samples + i]) == face:
                g.bits |= bit
                g.count += 1
                across += i
                down += j
            bit <<= wp.uint64(1)
    share = 1.0 / float(g.count)
    size = float(1 << frame.shift)
    g.middle = wp.vec2(
        (float(x * frame.supersampling) + 0.5 + float(across) * share) * size,
        (float(y * frame.supersampling) + 0.5 + float(down) * share) * size,
    )
    return g


@wp.kernel
def veil(scene: Scene, frame: Frame, first: int, lanes: int, layer: wp.array[wp.uint64], found: wp.array[wp.int32]):
    """Lay a peeled layer behind those before it; `found` says whether there was any."""
    view, y, lane = wp.tid()
    ss = frame.supersampling
    for x in range(lane, frame.pixels, lanes):
        corner = (view * frame.samples + y * ss) * frame.samples + x * ss
        done = wp.uint64(0)
        for n in range(ss * ss):
            key = layer[corner + n // ss * frame.samples + n % ss]
            if key != EMPTY and ((done >> wp.uint64(n)) & wp.uint64(1)) == wp.uint64(0):
                face = wp.uint32(key)
                g = group(frame, layer, corner, x, y, face)
                done |= g.bits
                s = spot(scene, frame, view, int(face), g.middle)
                rgba = colour(scene, int(face), s)
                opacity = wp.clamp(rgba[3], 0.0, 1.0)
                bright = lit(scene, frame, frame.axes[first + view], s) * opacity
                for m in range(ss * ss):
                    if ((g.bits >> wp.uint64(m)) & wp.uint64(1)) == wp.uint64(1):
                        at = corner + m // ss * frame.samples + m % ss
                        before = frame.veil[at]
                        through = before[3]
                        frame.veil[at] = wp.vec4(
                            before[0] + rgba[0] * bright * through,
                            before[1] + rgba[1] * bright * through,
                            before[2] + rgba[2] * bright * through,
                            through * (1.0 - opacity),
                        )
                found[0] = 1


@wp.func
def let_through(frame: Frame, corner: int, bits: wp.uint64):
    """How much of the light of some samples the veil lets through, in samples."""
    total = float(0.0)
    for n in range(frame.supersampling * frame.supersampling):
        if ((bits >> wp.uint64(n)) & wp.uint64(1)) == wp.uint64(1):
            total += frame.veil[corner + n // frame.supersampling * frame.samples + n % frame.supersampling][3]
    return total


@wp.func
def one_face(frame: Frame, corner: int):
    """Whether all samples of a pixel show the same face, or none; true of most pixels."""
    face = wp.uint32(frame.keys[corner])
    other = wp.uint32(0)
    for j in range(frame.supersampling):
        for i in range(frame.supersampling):
            other |= wp.uint32(frame.keys[corner + j * frame.samples + i]) ^ face
    return other == wp.uint32(0)


@wp.func
def shaded(scene: Scene, frame: Frame, view: int, axes: wp.mat33, face: int, middle: wp.vec2):
    """Linear light of an opaque face."""
    s = spot(scene, frame, view, face, middle)
    rgba = colour(scene, face, s)
    return wp.vec3(rgba[0], rgba[1], rgba[2]) * lit(scene, frame, axes, s)


@wp.kernel
def resolve(scene: Scene, frame: Frame, first: int, lanes: int, pictures: wp.array[wp.uint8]):
    """Samples into pixels: each face of a pixel is shaded once, in the middle of the samples that show it."""
    view, y, lane = wp.tid()
    ss = frame.supersampling
    axes = frame.axes[first + view]
    size = float(ss << frame.shift)
    for x in range(lane, frame.pixels, lanes):
        corner = (view * frame.samples + y * ss) * frame.samples + x * ss
        light = wp.vec3(0.0, 0.0, 0.0)
        ground = float(0.0)
        if frame.veiled == 0 and one_face(frame, corner):
            if frame.keys[corner] == EMPTY:
                ground = float(ss * ss)
            else:
                middle = wp.vec2((float(x) + 0.5) * size, (float(y) + 0.5) * size)
                light = shaded(scene, frame, view, axes, int(wp.uint32(frame.keys[corner])), middle) * float(ss * ss)
        else:
            done = wp.uint64(0)
            bit = wp.uint64(1)
            for j in range(ss):
                for i in range(ss):
                    at = corner + j * frame.samples + i
                    through = float(1.0)
                    if frame.veiled != 0:
                        before = frame.veil[at]
                        light += wp.vec3(before[0], before[1], before[2])
                        through = before[3]
                    key = frame.keys[at]
                    if key == EMPTY:
                        ground += through
                    elif (done & bit) == wp.uint64(0):
                        face = wp.uint32(key)
                        g = group(frame, frame.keys, corner, x, y, face)
                        done |= g.bits
                        weight = float(g.count)
                        if frame.veiled != 0:
                            weight = let_through(frame, corner, g.bits)
                        light += shaded(scene, frame, view, axes, int(face), g.middle) * weight
                    bit <<= wp.uint64(1)
        at = 3 * ((view * frame.pixels + y) * frame.pixels + x)
        share = 1.0 / float(ss * ss)
        for k in range(3):
            if ground == float(ss * ss):
                pictures[at + k] = frame.ground_byte
            else:
                pictures[at + k] = encoded(frame.srgb, (light[k] + ground * frame.ground) * share)
