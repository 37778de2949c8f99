"""Where things stand: poses, the camera and the distractors of a photo.

A layout is drawn at random and checked by casting rays before anything is rendered. A layout that shows too little of
the target, or cuts it off, is drawn again. Everything depends on the random generator alone, never on the size of the
photo.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import bpy  # noqa: F401  (importing it first makes the modules below importable)

# isort: split
import bmesh
from mathutils import Euler, Matrix, Vector
from mathutils.bvhtree import BVHTree

from .catalogue import Design
from .shapes import Body, build

FOCAL, SENSOR = 50.0, 36.0  # millimetres; the photos are square
GRID = 56  # rays along each side of the photo
ATTEMPTS = 200

UPRIGHT_KINDS = ("lying", "behind", "above", "upside_down")
SCREWDRIVER_KINDS = ("standing", "rolled", "end_on")


class NoLayoutError(RuntimeError):
    """No acceptable layout turned up within the allowed number of attempts."""


@dataclass(frozen=True)
class View:
    """A pose and how the camera sees it: what faces the table, the turn about the vertical, the elevation."""

    down: tuple[float, float, float]
    yaw: float
    elevation: float


@dataclass(frozen=True)
class Placed:
    design: Any  # a `Design`, or whatever else has a name and is known to what covers its surfaces
    body: Body
    matrix: Matrix


@dataclass(frozen=True)
class Layout:
    target: Placed
    distractors: list[Placed]
    camera: Matrix
    distance: float


def canonical_view(category: str, rng: random.Random, yaw: float | None = None) -> View:
    """The pose of the training photos; `yaw` overrides the random turn."""
    turn = rng.uniform(-32, 32) if yaw is None else yaw
    if category == "screwdriver":
        roll = math.radians(rng.uniform(-14, 14))
        flip = rng.choice((-1, 1))
        return View((math.sin(roll), math.cos(roll), 0), flip * (75 + 0.8 * turn), rng.uniform(38, 62))
    return View((0, 0, -1), turn, rng.uniform(12, 34))


def unseen_view(category: str, kind: str, rng: random.Random) -> View:
    if kind == "standing":
        return View((0, 0, -1), rng.uniform(-50, 50), rng.uniform(10, 28))
    if kind == "rolled":
        roll = math.radians(rng.choice((-1, 1)) * rng.uniform(85, 150))
        return View(
            (math.sin(roll), math.cos(roll), 0),
            rng.choice((-1, 1)) * rng.uniform(40, 140),
            rng.uniform(35, 60),
        )
    if kind == "end_on":
        return View((0, 1, 0), rng.choice((0, 180)) + rng.uniform(-22, 22), rng.uniform(24, 42))
    if kind == "lying":
        # A mug's handle (+x) must stay clear of the table.
        roll = math.radians(rng.uniform(-55, 15) if category == "mug" else rng.uniform(-50, 50))
        return View((math.sin(roll), math.cos(roll), 0), rng.uniform(-180, 180), rng.uniform(25, 52))
    if kind == "behind":
        return View((0, 0, -1), rng.choice((-1, 1)) * rng.uniform(95, 165), rng.uniform(10, 32))
    if kind == "above":
        return View((0, 0, -1), rng.uniform(-50, 50), rng.uniform(52, 66))
    return View((0, 0, 1), rng.uniform(-50, 50), rng.uniform(14, 36))


def pose_kind(category: str, index: int, rng: random.Random) -> str:
    """The kind of the unseen pose. The kinds come in a shuffled cycle, so that even a few photos cover them."""
    kinds = list(SCREWDRIVER_KINDS if category == "screwdriver" else UPRIGHT_KINDS)
    if category == "bottle":
        kinds.remove("upside_down")  # it would balance on its cap
    rng.shuffle(kinds)
    return kinds[index % len(kinds)]


def settle(body: Body, down: tuple[float, float, float], yaw: float) -> Matrix:
    """Rests a body on the table, on the face of its convex hull that looks most nearly `down`."""
    mesh = bmesh.new()
    for vertex in body.vertices:
        mesh.verts.new(vertex)
    hull = bmesh.ops.convex_hull(mesh, input=mesh.verts)
    wanted = Vector(down)
    faces = [item for item in hull["geom"] if isinstance(item, bmesh.types.BMFace) and item.calc_area() > 1e-9]
    for face in faces:
        face.normal_update()
    normal = max(faces, key=lambda face: face.normal.dot(wanted)).normal.copy()
    mesh.free()
    # A body is turned over about the y axis, so that its front stays in front.
    flip = Matrix.Rotation(math.pi, 3, "Y") if normal.z > 0.9 else Matrix.Identity(3)
    rest = (flip @ normal).rotation_difference(Vector((0, 0, -1))).to_matrix() @ flip
    turn = Matrix.Rotation(math.radians(yaw), 4, "Z") @ rest.to_4x4()
    lowest = min((turn @ Vector(vertex)).z for vertex in body.vertices)
    return Matrix.Translation((0, 0, -lowest)) @ turn


def footprint(placed: Placed) -> list[Vector]:
    """The rectangle an object covers on the table, along its own axes as seen from above."""
    points = [placed.matrix @ Vector(vertex) for vertex in placed.body.vertices]
    columns = [placed.matrix.to_3x3().col[k].to_2d() for k in range(3)]
    x_axis = max(columns, key=lambda column: column.length).normalized()
    y_axis = Vector((-x_axis.y, x_axis.x))
    xs = [point.to_2d().dot(x_axis) for point in points]
    ys = [point.to_2d().dot(y_axis) for point in points]
    corners = [(min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys))]
    return [x * x_axis + y * y_axis for x, y in corners]


def apart(left: list[Vector], right: list[Vector], gap: float) -> bool:
    """Whether a line parallel to a side of either rectangle separates them by at least `gap`."""
    for shape in (left, right):
        for a, b in ((0, 1), (1, 2)):
            axis = (shape[b] - shape[a]).normalized()
            first, second = [p.dot(axis) for p in left], [p.dot(axis) for p in right]
            if max(first) + gap < min(second) or max(second) + gap < min(first):
                return True
    return False


def scatter(target: Placed, distractors: list[tuple[Design, Body]], rng: random.Random) -> list[Placed]:
    """Puts the distractors around the target, mostly next to it and behind it; nothing touches."""
    standing, taken = [], [footprint(target)]
    side = rng.choice((0, 180))
    for k, (design, body) in enumerate(distractors):
        # The first, of the target's category, goes next to the target; the rest go where they fit.
        angle = math.radians(
            side + rng.uniform(-15, 50) * (1 if side == 0 else -1) if k == 0 else rng.uniform(-20, 200)
        )
        view = canonical_view(design.category, rng)
        yaw = view.yaw + rng.uniform(-25, 25)
        rest, gap, reach = settle(body, view.down, yaw), rng.uniform(0.006, 0.030), 0.03
        covered = footprint(Placed(design, body, rest))
        outwards = Vector((math.cos(angle), math.sin(angle)))
        while not all(apart([corner + reach * outwards for corner in covered], other, gap) for other in taken):
            reach += 0.004
        standing.append(Placed(design, body, Matrix.Translation((reach * outwards).to_3d()) @ rest))
        taken.append([corner + reach * outwards for corner in covered])
    return standing


def camera_at(aim: Vector, elevation: float, distance: float, roll: float) -> Matrix:
    """A camera in front (-y) of `aim`, looking at it from `elevation` degrees above the table."""
    rotation = Euler((math.radians(90 - elevation), 0, 0)).to_matrix().to_4x4()
    rotation = rotation @ Matrix.Rotation(math.radians(roll), 4, "Z")
    back = Vector((0, -math.cos(math.radians(elevation)), math.sin(math.radians(elevation))))
    return Matrix.Translation(aim + distance * back) @ rotation


class Scene:
    """The objects as ray targets; index 0 is the target."""

    def __init__(self, objects: list[Placed]):
        self.trees = [
            BVHTree.FromPolygons([placed.matrix @ Vector(v) for v in placed.body.vertices], placed.body.faces)
            for placed in objects
        ]

    def coverage(self, camera: Matrix) -> tuple[float, list[float]]:
        """The share of the photo that the target would fill alone, and the visible share of each object."""
        alone, visible = 0, [0] * len(self.trees)
        origin, turn = camera.translation, camera.to_3x3()
        for row in range(GRID):
            for column in range(GRID):
                x, y = ((column + 0.5) / GRID - 0.5) * SENSOR, ((row + 0.5) / GRID - 0.5) * SENSOR
                ray = turn @ Vector((x, y, -FOCAL)).normalized()
                distances = [tree.ray_cast(origin, ray)[3] for tree in self.trees]
                alone += distances[0] is not None
                hits = [(d, k) for k, d in enumerate(distances) if d is not None]
                if hits:
                    visible[min(hits)[1]] += 1
        return alone / GRID**2, [count / GRID**2 for count in visible]


def in_frame(placed: Placed, camera: Matrix, margin: float) -> bool:
    inverse = camera.inverted()
    for vertex in placed.body.vertices:
        p = inverse @ (placed.matrix @ Vector(vertex))
        if p.z >= 0 or max(abs(p.x), abs(p.y)) / -p.z * FOCAL / SENSOR > 0.5 - margin:
            return False
    return True


def draw_layout(
    design: Design, body: Body, view: View, company: list[tuple[Design, Body]], rng: random.Random
) -> Layout | None:
    """A random layout, or None if it does not show its target well."""
    target = Placed(design, body, settle(body, view.down, view.yaw))
    distractors = scatter(target, company, rng)
    scene = Scene([target, *distractors])
    points = [target.matrix @ Vector(vertex) for vertex in body.vertices]
    aim = Vector([(min(p[k] for p in points) + max(p[k] for p in points)) / 2 for k in range(3)])
    if distractors:
        crowd = sum((placed.matrix.translation for placed in distractors), Vector()) / len(distractors)
        aim += rng.uniform(0.15, 0.4) * Vector((crowd.x, crowd.y, 0))
    aim += Vector((rng.gauss(0, 0.010), 0, rng.gauss(0, 0.006)))
    roll = rng.gauss(0, 1.5)

    thin = design.category == "screwdriver"
    share = rng.uniform(0.07, 0.11) if thin else rng.uniform(0.10, 0.22)
    if distractors:
        share *= 0.85 if thin else 0.75
    distance = 0.45
    for _ in range(2):  # the area falls nearly with the square of the distance
        alone, _ = Scene.coverage(Scene([target]), camera_at(aim, view.elevation, distance, roll))
        distance *= math.sqrt(max(alone, 0.005) / share)
    camera = camera_at(aim, view.elevation, distance, roll)

    if not 0.26 <= distance <= 0.75 or not in_frame(target, camera, 0.02):
        return None
    alone, visible = scene.coverage(camera)
    if visible[0] < 0.043 or visible[0] < 0.68 * alone:
        return None
    if distractors and (visible[1] < 0.025 or sum(v > 0.01 for v in visible[1:]) < 2):
        return None  # the distractor of the same category must be seen, and at least one more
    return Layout(target, distractors, camera, distance)


def find_layout(name: str, split: str, index: int, designs: dict[str, Design], key: str) -> Layout:
    """The first acceptable layout of a photo; each attempt is seeded by the photo's key."""
    design = designs[name]
    unseen = split in ("pose", "pose_and_distractors")
    kind = pose_kind(design.category, index, random.Random(key.rpartition("/")[0])) if unseen else None
    for attempt in range(ATTEMPTS):
        rng = random.Random(f"{key}/{attempt}")
        if kind:
            view = unseen_view(design.category, kind, rng)
        else:
            # The training photos walk around the front of the object.
            yaw = (index % 3 - 1) * 24 + rng.uniform(-7, 7) if split == "train" else None
            view = canonical_view(design.category, rng, yaw)
        company = choose_company(design, designs, rng) if "distractors" in split else []
        layout = draw_layout(design, build(design), view, [(item, build(item)) for item in company], rng)
        if layout:
            return layout
    raise NoLayoutError(f"no layout shows the target of {key} well")


def choose_company(design: Design, designs: dict[str, Design], rng: random.Random) -> list[Design]:
    """The distractors: first an object of the target's category, then two or three of any category."""
    others = [other for other in designs.values() if other.name != design.name]
    sibling = rng.choice([other for other in others if other.category == design.category])
    return [sibling, *rng.sample([other for other in others if other != sibling], rng.choice((2, 2, 3)))]
