"""Which samples a face covers, and how near it is there: whole-number geometry of the rasteriser, in NVIDIA Warp."""

# Warp's language in Python's clothes: mypy reads `int` where Warp means a 32-bit number.
# mypy: disable-error-code="misc, index, assignment, operator, arg-type, call-overload, no-any-return, no-untyped-def"

from __future__ import annotations

import warp as wp

from mrdist.data.raster_surface import Frame, Scene

DEEPEST = 4294967040.0  # the largest float below 2 ** 32
LONG_ROW = 8  # samples from which it pays to compute where a row enters and leaves its triangle


@wp.struct
class Triangle:
    """A face on the grid, and the samples [left..right] x [top..bottom] of its box."""

    origin: wp.vec2i  # corner a
    ab: wp.vec2i
    ac: wp.vec2i
    area: int  # twice the area, positive; ab and ac are turned to make it so
    open: wp.vec3i  # 1 for an edge whose own samples belong to the neighbour, else 0
    near: float  # 1 / depth where all weights of b and c are 0
    slope: wp.vec2  # of 1 / depth, per unit of the weights of b and c
    left: int
    right: int
    top: int
    bottom: int


@wp.func
def triangle(scene: Scene, frame: Frame, view: int, face: int):
    """A face with the box of samples it may cover; an empty box where it covers none."""
    t = Triangle()
    corner = scene.corners[face]
    a = frame.screen[view * frame.vertices + corner[0]]
    b = frame.screen[view * frame.vertices + corner[1]]
    c = frame.screen[view * frame.vertices + corner[2]]
    t.origin = wp.vec2i(int(a[0]), int(a[1]))
    t.ab = wp.vec2i(int(b[0]) - t.origin[0], int(b[1]) - t.origin[1])
    t.ac = wp.vec2i(int(c[0]) - t.origin[0], int(c[1]) - t.origin[1])
    half = 1 << (frame.shift - 1)
    last = frame.samples - 1
    t.left = wp.max((t.origin[0] + wp.min(0, wp.min(t.ab[0], t.ac[0])) + half - 1) >> frame.shift, 0)
    t.right = wp.min((t.origin[0] + wp.max(0, wp.max(t.ab[0], t.ac[0])) - half) >> frame.shift, last)
    t.top = wp.max((t.origin[1] + wp.min(0, wp.min(t.ab[1], t.ac[1])) + half - 1) >> frame.shift, 0)
    t.bottom = wp.min((t.origin[1] + wp.max(0, wp.max(t.ab[1], t.ac[1])) - half) >> frame.shift, last)
    t.area = t.ab[0] * t.ac[1] - t.ab[1] * t.ac[0]
    if t.area == 0 or t.right < t.left:
        t.bottom = t.top - 1
        return t
    if t.area < 0:
        t.area = -t.area
        t.ab = -t.ab
        t.ac = -t.ac
    t.open = wp.vec3i(opened(t.ab[1] - t.ac[1], t.ac[0] - t.ab[0]), opened(t.ac[1], -t.ac[0]), opened(-t.ab[1], t.ab[0]))
    t.slope = wp.vec2((b[2] - a[2]) / float(t.area), (c[2] - a[2]) / float(t.area))
    t.near = a[2] + float(t.open[1]) * t.slope[0] + float(t.open[2]) * t.slope[1]
    return t


@wp.func
def opened(across: int, down: int):
    """Of two faces that share an edge one owns the samples on it: the one whose weight grows to the right, or straight
    down. Otherwise glass would be seen twice along its seams."""
    return wp.where(across > 0 or (across == 0 and down > 0), 0, 1)


@wp.func
def weights(frame: Frame, t: Triangle, x: int, y: int):
    """Twice the areas that sample (x, y) spans with the edges opposite a, b, c, less `open`; all >= 0 inside."""
    half = 1 << (frame.shift - 1)
    px = (x << frame.shift) + half - t.origin[0]
    py = (y << frame.shift) + half - t.origin[1]
    b = px * t.ac[1] - py * t.ac[0]
    c = py * t.ab[0] - px * t.ab[1]
    return wp.vec3i(t.area - b - c, b, c) - t.open


@wp.func
def steps(frame: Frame, t: Triangle):
    """What `weights` gain from one sample to the next of a row."""
    b = t.ac[1] << frame.shift
    c = -(t.ab[1] << frame.shift)
    return wp.vec3i(-b - c, b, c)


@wp.func
def clipped(span: wp.vec2i, weight: int, step: int):
    """The part of `span`, counted from a row's first sample, where a weight is not negative."""
    if step > 0:
        if weight < 0:
            span[0] = wp.max(span[0], (step - 1 - weight) // step)
    elif weight < 0:
        span[1] = -1
    elif step < 0:
        span[1] = wp.min(span[1], weight // -step)
    return span


@wp.func
def inside(t: Triangle, w: wp.vec3i, step: wp.vec3i):
    """First and last sample of a row that may lie inside, counted from the left of the box."""
    span = wp.vec2i(0, t.right - t.left)
    if span[1] >= LONG_ROW:
        span = clipped(span, w[0], step[0])
        span = clipped(span, w[1], step[1])
        span = clipped(span, w[2], step[2])
    return span


@wp.func
def key_of(frame: Frame, t: Triangle, w: wp.vec3i, face: int):
    """Nearer is smaller; of two faces at the same depth the first in the mesh."""
    near = t.near + float(w[1]) * t.slope[0] + float(w[2]) * t.slope[1]
    depth = wp.uint32(wp.clamp((frame.nearest - near) * frame.stretch, 0.0, DEEPEST))
    return (wp.uint64(depth) << wp.uint64(32)) | wp.uint64(face)
