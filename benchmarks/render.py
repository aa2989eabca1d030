"""Images per CPU-second: our rasteriser beside moderngl, pyrender and VTK, on the same meshes, cameras and sizes, in one run.

    python benchmarks/render.py                                # ours and moderngl (apt: libegl1 libgl1)
    python benchmarks/render.py --rivals OTHER/bin/python      # and pyrender 0.1.45 and VTK, installed elsewhere:
                                                               # pip install vtk==9.7.2 pyrender==0.1.45 "numpy<2"

A job is one shape: from arrays in memory to twelve pictures in memory, with uploads and texture levels, as a catalogue needs
it. Every side runs in a process of its own and is charged for the CPU time of all its threads, so that busy neighbours change
little; the best of several jobs counts. Anti-aliasing is equal: 2 x 2 samples here, MSAA 4 there. moderngl draws the same light
as we do; pyrender and VTK draw their own plain shading.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

VIEWS = 12
MESHES = {"5k faces, coloured": (50, 0), "100k faces, 1024 px texture": (224, 1024), "800k faces, 1024 px texture": (632, 1024)}
SIDES = ("ours", "moderngl", "pyrender", "vtk")

Job = Callable[[], list[np.ndarray]]


def lumpy(rows: int, texture: int) -> dict[str, np.ndarray]:
    """A ball with lumps of `2 * rows * rows` faces, smooth normals, waves as colours or as a texture."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, rows + 1), indexing="ij")
    theta, phi = np.pi * v.ravel(), 2 * np.pi * u.ravel()
    out = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    xyz = out * (0.8 + 0.2 * np.sin(5 * phi) * np.sin(theta) ** 2 * np.sin(4 * theta))[:, None]
    a = (np.arange(rows)[:, None] * (rows + 1) + np.arange(rows)).ravel()
    faces = np.stack([a, a + rows + 1, a + rows + 2, a, a + rows + 2, a + 1], -1).reshape(-1, 3)
    across = np.cross(xyz[faces[:, 1]] - xyz[faces[:, 0]], xyz[faces[:, 2]] - xyz[faces[:, 0]])
    normals = out * 1e-9
    for k in range(3):
        np.add.at(normals, faces[:, k], across)
    colour = np.ones((len(xyz), 4)) if texture else np.concatenate([0.5 + 0.5 * np.sin(6 * xyz), np.ones((len(xyz), 1))], 1)
    y, x = np.mgrid[:texture, :texture] / max(texture, 1) * 2 * np.pi
    picture = np.stack([128 + 100 * np.sin(20 * x + 4 * y), 128 + 100 * np.sin(17 * y), 128 + 100 * np.sin(9 * (x + y)), 255 + 0 * x], -1)
    return {
        "vertices": xyz.astype(np.float32),
        "faces": faces.astype(np.int32),
        "normals": (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        "uv": np.stack([u.ravel(), v.ravel()], -1).astype(np.float32),
        "colour": colour.astype(np.float32),
        "texture": picture.round().astype(np.uint8),
    }


def ours(scene: Any, pixels: int) -> tuple[str, Job]:
    from mrdist.data.mesh import Material, Mesh
    from mrdist.data.raster import WarpRenderer
    from mrdist.recipe import Views

    renderer = WarpRenderer("cpu")
    renderer.warm()
    materials = (Material(texture=scene.texture if scene.texture.size else None),)
    zeros = np.zeros(len(scene.faces), np.int32)
    mesh = Mesh(scene.vertices, scene.faces, scene.normals, scene.uv, scene.colour, zeros, materials)
    return "mrdist, 2 x 2 samples", lambda: [view.pixels for view in renderer.render(mesh, Views(pixels=pixels, supersampling=2))]


def with_moderngl(scene: Any, pixels: int) -> tuple[str, Job]:
    import moderngl

    gl = moderngl.create_standalone_context(backend="egl")
    program = gl.program(
        vertex_shader="""#version 330
        uniform mat4 project; in vec3 place; in vec3 normal; in vec2 uv; in vec4 colour; out vec3 n; out vec2 st; out vec4 c;
        void main() { n = normal; st = uv; c = colour; gl_Position = project * vec4(place, 1.0); }""",
        fragment_shader="""#version 330
        uniform mat3 axes; uniform sampler2D picture; uniform bool textured; in vec3 n; in vec2 st; in vec4 c; out vec4 result;
        void main() {
            vec3 rgb = textured ? c.rgb * texture(picture, st).rgb : c.rgb;
            vec3 m = normalize(n) * (gl_FrontFacing ? 1.0 : -1.0);
            float key = max(dot(m, axes * vec3(0.104, 0.608, 0.787)), 0.0);
            result = vec4(sqrt(rgb * (0.10 + 0.36 * max(dot(m, axes[2]), 0.0) + 0.54 * key)), 1.0);
        }""",
    )
    size = (pixels, pixels)
    many = gl.framebuffer([gl.renderbuffer(size, 4, samples=4)], gl.depth_renderbuffer(size, samples=4))
    one = gl.framebuffer([gl.renderbuffer(size, 4)])
    gl.enable(gl.DEPTH_TEST)
    lens = perspective(scene.fov, scene.distance - 1.01, scene.distance + 1.01)

    def job() -> list[np.ndarray]:
        numbers = np.concatenate([scene.vertices, scene.normals, scene.uv, scene.colour], 1)
        held = [gl.buffer(numbers.tobytes()), gl.buffer(scene.faces.tobytes())]
        array = gl.vertex_array(program, [(held[0], "3f 3f 2f 4f", "place", "normal", "uv", "colour")], held[1])
        program["textured"] = bool(scene.texture.size)
        if scene.texture.size:
            held.append(gl.texture(scene.texture.shape[1::-1], 4, scene.texture.tobytes(), internal_format=0x8C43))  # sRGB
            held[-1].build_mipmaps()
            held[-1].use()
        pictures = []
        for axes in scene.axes:
            look = np.eye(4)
            look[:3, :3], look[2, 3] = axes, -scene.distance
            program["project"].write((lens @ look).T.astype("f4").tobytes())
            program["axes"].write(axes.astype("f4").tobytes())
            many.use()
            many.clear(0.85, 0.85, 0.85, 1.0, depth=1.0)
            array.render()
            gl.copy_framebuffer(one, many)
            pictures.append(np.frombuffer(one.read(components=3), np.uint8).reshape(pixels, pixels, 3)[::-1])
        for thing in (array, *held):
            thing.release()
        return pictures

    return f"moderngl {moderngl.__version__}, {gl.info['GL_RENDERER'].split(' (')[0]}, MSAA 4", job


def with_pyrender(scene: Any, pixels: int) -> tuple[str, Job]:
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    import pyrender

    renderer = pyrender.OffscreenRenderer(pixels, pixels)

    def job() -> list[np.ndarray]:
        look = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        if scene.texture.size:
            look["baseColorTexture"] = pyrender.Texture(source=scene.texture, source_channels="RGBA")
        surface = pyrender.Primitive(
            positions=scene.vertices,
            normals=scene.normals,
            texcoord_0=scene.uv,
            color_0=None if scene.texture.size else scene.colour,
            indices=scene.faces,
            material=pyrender.MetallicRoughnessMaterial(**look),
        )
        world = pyrender.Scene(bg_color=[0.85] * 3, ambient_light=[0.3] * 3)
        world.add(pyrender.Mesh([surface]))
        camera = world.add(pyrender.PerspectiveCamera(np.radians(scene.fov), znear=0.5, zfar=9.0, aspectRatio=1.0))
        lamp = world.add(pyrender.DirectionalLight(intensity=3.0))
        pictures = []
        for axes in scene.axes:
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = axes.T, scene.distance * axes[2]
            world.set_pose(camera, pose)
            world.set_pose(lamp, pose)
            pictures.append(renderer.render(world)[0])
        return pictures

    job()
    return f"pyrender {pyrender.__version__}, EGL, MSAA 4", job


def with_vtk(scene: Any, pixels: int) -> tuple[str, Job]:
    import vtk
    from vtk.util import numpy_support as numbers

    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(4)
    window.SetSize(pixels, pixels)

    def surface() -> Any:
        points, cells, data = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkPolyData()
        points.SetData(numbers.numpy_to_vtk(scene.vertices))
        cells.SetData(3, numbers.numpy_to_vtkIdTypeArray(scene.faces.astype(np.int64).ravel(), deep=1))
        data.SetPoints(points)
        data.SetPolys(cells)
        data.GetPointData().SetNormals(numbers.numpy_to_vtk(scene.normals))
        actor, mapper = vtk.vtkActor(), vtk.vtkPolyDataMapper()
        if scene.texture.size:
            data.GetPointData().SetTCoords(numbers.numpy_to_vtk(scene.uv))
            image, texture = vtk.vtkImageData(), vtk.vtkTexture()
            image.SetDimensions(scene.texture.shape[1], scene.texture.shape[0], 1)
            image.GetPointData().SetScalars(numbers.numpy_to_vtk(scene.texture[..., :3].reshape(-1, 3), deep=1))
            texture.SetInputData(image)
            texture.InterpolateOn()
            texture.MipmapOn()
            actor.SetTexture(texture)
        else:
            data.GetPointData().SetScalars(numbers.numpy_to_vtk((scene.colour[:, :3] * 255).astype(np.uint8), deep=1))
        mapper.SetInputData(data)
        actor.SetMapper(mapper)
        return actor

    def job() -> list[np.ndarray]:
        world = vtk.vtkRenderer()
        world.SetBackground(0.85, 0.85, 0.85)
        world.AddActor(surface())
        window.AddRenderer(world)
        camera = world.GetActiveCamera()
        camera.SetViewAngle(scene.fov)
        pictures = []
        for axes in scene.axes:
            camera.SetPosition(*(scene.distance * axes[2]))
            camera.SetFocalPoint(0, 0, 0)
            camera.SetViewUp(*axes[1])
            camera.SetClippingRange(scene.distance - 1.01, scene.distance + 1.01)
            window.Render()
            grab = vtk.vtkWindowToImageFilter()
            grab.SetInput(window)
            grab.ReadFrontBufferOff()
            grab.ShouldRerenderOff()
            grab.Update()
            flat = numbers.vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())
            pictures.append(flat.reshape(pixels, pixels, 3)[::-1].copy())
        window.RemoveRenderer(world)
        return pictures

    return f"VTK {vtk.VTK_VERSION}, MSAA 4", job


def perspective(fov: float, near: float, far: float) -> np.ndarray:
    f = 1 / np.tan(np.radians(fov) / 2)
    return np.array([[f, 0, 0, 0], [0, f, 0, 0], [0, 0, (far + near) / (near - far), 2 * far * near / (near - far)], [0, 0, -1, 0]])


def measure(side: str, scene_file: str, pixels: int, jobs: int) -> dict[str, Any]:
    """In a process of its own: images per CPU-second, and what share of a picture the object covers (to see that it drew)."""
    kept = np.load(scene_file)
    scene = SimpleNamespace(**{name: kept[name] if kept[name].ndim else kept[name].item() for name in kept})
    name, job = {"ours": ours, "moderngl": with_moderngl, "pyrender": with_pyrender, "vtk": with_vtk}[side](scene, pixels)
    best, pictures = float("inf"), job()
    for _ in range(jobs):
        before = resource.getrusage(resource.RUSAGE_SELF)
        pictures = job()
        after = resource.getrusage(resource.RUSAGE_SELF)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    covered = np.mean([(picture != picture[0, 0]).any(-1).mean() for picture in pictures])
    return {"name": name, "speed": VIEWS / best, "covered": float(covered)}


def run(side: str, python: str, scene_file: Path, pixels: int, jobs: int) -> dict[str, Any]:
    """`measure` in another process; {"missing": why} where the side cannot run."""
    words = [python, __file__, "--measure", side, str(scene_file), str(pixels), str(jobs)]
    settings = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=settings)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"missing": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return dict(json.loads(lines[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", default=sys.executable, help="a Python that has pyrender or vtk")
    parser.add_argument("--jobs", type=int, default=5, help="shapes per side; the best counts")
    parser.add_argument("--large", action="store_true", help="800,000 faces too")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        side, scene_file, pixels, jobs = chosen.measure
        print(json.dumps(measure(side, scene_file, int(pixels), int(jobs))))
        return
    from mrdist.data.render import axes, cameras
    from mrdist.recipe import Views

    ring = cameras(Views())
    print("| mesh | pixels | side | images / CPU s | ours is faster by | covered |\n|---|--:|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for mesh, (rows, texture) in MESHES.items():
            if mesh.startswith("800k") and not chosen.large:
                continue
            scene_file = Path(folder) / "scene.npz"
            view = {"axes": np.stack([axes(c) for c in ring]), "fov": ring[0].fov, "distance": ring[0].distance}
            np.savez(scene_file, **lumpy(rows, texture), **view)
            for pixels in (224, 512):
                mine = 0.0
                for side in SIDES:
                    python = sys.executable if side in ("ours", "moderngl") else chosen.rivals
                    found = run(side, python, scene_file, pixels, chosen.jobs)
                    if "missing" in found:
                        print(f"| {mesh} | {pixels} | {side}: not run: {found['missing'][:90]} | | | |", flush=True)
                        continue
                    mine = mine or found["speed"]
                    ratio = "" if side == "ours" else f"{mine / found['speed']:.1f} x"
                    print(f"| {mesh} | {pixels} | {found['name']} | {found['speed']:.1f} | {ratio} | {found['covered']:.0%} |", flush=True)


if __name__ == "__main__":
    main()
