"""The bodies of the objects: lathe profiles with rounded corners, and a swept handle or tip.

Every object is a single mesh in metres that stands on z = 0 around the z axis, with its front facing -y. A face carries
the name of a surface ("print", "trim", "steel", ...), which scene.py turns into a material.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from .catalogue import Design

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Corner:
    """A corner of a lathe profile, rounded by `fillet`; `surface` covers what follows it."""

    radius: float
    z: float
    surface: str = "body"
    fillet: float = 0.0


@dataclass
class Body:
    """A mesh under construction; `print_area` is the (circumference, bottom, top) of its sleeve."""

    print_area: tuple[float, float, float]
    vertices: list[Point] = field(default_factory=list)
    faces: list[tuple[int, ...]] = field(default_factory=list)
    uvs: list[list[tuple[float, float]]] = field(default_factory=list)
    surfaces: list[str] = field(default_factory=list)

    def add_face(self, corners: list[int], surface: str, uv: list[tuple[float, float]] | None = None) -> None:
        self.faces.append(tuple(corners))
        self.uvs.append(uv or [(0.0, 0.0)] * len(corners))
        self.surfaces.append(surface)

    def lathe(
        self,
        profile: list[Corner],
        segments: int = 72,
        section: Callable[[float, float], float] | None = None,
    ) -> None:
        """Turns a profile, whose outer side is listed upwards; `section(angle, z)` scales the radius (flutes)."""
        rings = rounded(profile)
        _, bottom, top = self.print_area
        first = len(self.vertices)
        for ring in rings:
            for k in range(segments):
                # The seam (k = 0) is at the back (+y), and the angle grows so that prints read forwards.
                angle = math.pi / 2 + 2 * math.pi * k / segments
                radius = ring.radius * (section(angle, ring.z) if section else 1.0)
                self.vertices.append((radius * math.cos(angle), radius * math.sin(angle), ring.z))
        for j, (low, high) in enumerate(itertools.pairwise(rings)):
            v_low, v_high = ((ring.z - bottom) / (top - bottom) for ring in (low, high))
            for k in range(segments):
                base, after = first + j * segments, (k + 1) % segments
                quad = [base + k, base + after, base + segments + after, base + segments + k]
                u0, u1 = k / segments, (k + 1) / segments
                self.add_face(quad, low.surface, [(u0, v_low), (u1, v_low), (u1, v_high), (u0, v_high)])

    def tube(self, path: list[Point], across: Point, sizes: list[tuple[float, float]], surface: str) -> None:
        """Sweeps an ellipse along a planar path; `across` is the plane's normal, and `sizes` are half widths."""
        count, first = 20, len(self.vertices)
        for i, point in enumerate(path):
            before, after = path[max(i - 1, 0)], path[min(i + 1, len(path) - 1)]
            along = _unit((after[0] - before[0], after[1] - before[1], after[2] - before[2]))
            out = _cross(along, across)
            for k in range(count):
                c, s = math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)
                wide, thick = sizes[i]
                x, y, z = (p + wide * c * a + thick * s * o for p, a, o in zip(point, across, out, strict=True))
                self.vertices.append((x, y, z))
        for i in range(len(path) - 1):
            for k in range(count):
                base, next_k = first + i * count, (k + 1) % count
                self.add_face([base + k, base + next_k, base + count + next_k, base + count + k], surface)
        self.add_face([first + k for k in reversed(range(count))], surface)
        self.add_face([first + (len(path) - 1) * count + k for k in range(count)], surface)


def rounded(profile: list[Corner], steps: int = 6) -> list[Corner]:
    """Replaces every corner that has a fillet by points on an arc that is tangent to both its sides."""
    result: list[Corner] = []
    for i, corner in enumerate(profile):
        if corner.fillet <= 0 or i in (0, len(profile) - 1):
            result.append(corner)
            continue
        a, b = _direction(corner, profile[i - 1]), _direction(corner, profile[i + 1])
        angle = math.acos(max(-1.0, min(1.0, a[0] * b[0] + a[1] * b[1])))
        reach = corner.fillet / math.tan(angle / 2)
        start = (corner.radius + reach * a[0], corner.z + reach * a[1])
        end = (corner.radius + reach * b[0], corner.z + reach * b[1])
        for k in range(steps + 1):
            # At this size, a quadratic Bezier curve through the tangent points is as good as the arc.
            t = k / steps
            weights = ((1 - t) ** 2, 2 * t * (1 - t), t * t)
            r = weights[0] * start[0] + weights[1] * corner.radius + weights[2] * end[0]
            z = weights[0] * start[1] + weights[1] * corner.z + weights[2] * end[1]
            result.append(Corner(r, z, corner.surface if k == steps else profile[i - 1].surface))
    return result


def build(design: Design) -> Body:
    return {"mug": _mug, "bottle": _bottle, "screwdriver": _screwdriver, "tin": _tin}[design.category](design)


def _mug(design: Design) -> Body:
    p = design.proportions
    height, foot, lip = 0.095 + 0.010 * p[0], 0.038 + 0.003 * p[1], 0.041 + 0.003 * p[2]
    bulge, wall = 0.0025 * (p[3] + 1), 0.0038

    def outer(t: float) -> float:
        return foot + (lip - foot) * t + 4 * bulge * t * (1 - t)

    body = Body((2 * math.pi * outer(0.5), 0.004, height - 0.004))
    side = [Corner(outer(t / 10), height * t / 10, "print") for t in range(1, 10)]
    inside = [Corner(outer(t / 10) - wall, height * t / 10, "trim") for t in range(9, 0, -1)]
    body.lathe(
        [
            Corner(0.0, 0.002),
            Corner(foot - 0.007, 0.002),
            Corner(foot - 0.006, 0.0, "body", 0.0006),
            Corner(foot, 0.0, "print", 0.0035),
            *side,
            Corner(lip, height, "trim", 0.0017),
            Corner(lip - wall, height, "trim", 0.0017),
            *inside,
            Corner(foot - wall, 0.005, "trim", 0.006),
            Corner(0.0, 0.005, "trim"),
        ]
    )
    # The handle is a C on the +x side whose ends widen where they meet the wall.
    middle, half = 0.52 * height, (0.30 + 0.03 * p[4]) * height
    reach, steps, path, sizes = 0.028 + 0.004 * p[5], 28, [], []
    for k in range(steps + 1):
        t = math.pi * k / steps
        z = middle - half * math.cos(t)
        x = outer(z / height) - 0.5 * wall + reach * math.sin(t) ** 0.7
        spread = 1 + 0.5 * math.cos(t) ** 8
        path.append((x, 0.0, z))
        sizes.append((0.0062 * spread, 0.0040 * spread))
    body.tube(path, (0.0, 1.0, 0.0), sizes, "body")
    return body


def _bottle(design: Design) -> Body:
    p = design.proportions
    radius, wall_top, neck = 0.031 + 0.003 * p[0], 0.118 + 0.012 * p[1], 0.0135
    shoulder = wall_top + 0.022 + 0.007 * p[2]
    cap_radius, cap_height = 0.0165 + 0.0025 * p[3], 0.026 + 0.008 * p[4]
    body = Body((2 * math.pi * radius, 0.006, wall_top - 0.004))
    body.lathe(
        [
            Corner(0.0, 0.0015),
            Corner(radius - 0.010, 0.0015),
            Corner(radius - 0.008, 0.0),
            Corner(radius, 0.0, "print", 0.005),
            Corner(radius, wall_top, "body", 0.012),
            Corner(neck + 0.001, shoulder, "body", 0.006),
            Corner(neck, shoulder + 0.006),
        ]
    )
    foot = shoulder + 0.0015
    top = foot + cap_height
    ribs = 36

    def ribbed(angle: float, z: float) -> float:
        return 1 + 0.018 * math.cos(ribs * angle) * (foot + 0.003 < z < top - 0.004)

    body.lathe(
        [
            Corner(neck, foot, "trim"),
            Corner(cap_radius, foot, "trim", 0.0008),
            Corner(cap_radius, foot + 0.0032, "trim"),
            Corner(cap_radius, foot + 0.0040, "trim"),
            Corner(0.97 * cap_radius, top - 0.0050, "trim"),
            Corner(0.97 * cap_radius, top - 0.0038, "trim"),
            Corner(0.97 * cap_radius, top, "trim", 0.0016),
            Corner(0.0, top, "trim"),
        ],
        segments=ribs * 4,
        section=ribbed,
    )
    return body


def _screwdriver(design: Design) -> Body:
    p = design.proportions
    length, girth = 0.100 + 0.008 * p[0], 0.019 + 0.0015 * p[1]
    shank, thick = 0.068 + 0.015 * p[2], 0.0033 + 0.0004 * p[3]
    flutes, depth = 6, 0.045 + 0.015 * p[4]
    body = Body((2 * math.pi * girth, 0.0, length))

    def fluted(angle: float, z: float) -> float:
        """Six lobes over the grip fade into a round collar; the front lobe carries the print."""
        fade = max(0.0, min(1.0, (z - 0.006) / 0.01, (0.78 * length - z) / 0.012))
        return 1 - depth * fade * (1 - math.cos(flutes * (angle - math.pi / 2))) / 2

    waist = [
        Corner(girth * (1 - 0.10 * math.sin(math.pi * t / 16) ** 2), length * (0.14 + 0.62 * t / 16), "print")
        for t in range(17)
    ]
    body.lathe(
        [
            Corner(0.0, 0.0),
            Corner(0.86 * girth, 0.0, "body", 0.003),
            Corner(girth, 0.010, "print", 0.003),
            *waist,
            Corner(0.66 * girth, 0.86 * length, "print", 0.008),
            Corner(0.74 * girth, 0.95 * length, "print", 0.004),
            Corner(0.62 * girth, length, "trim", 0.002),
            Corner(thick, length, "steel"),
        ],
        segments=96,
        section=fluted,
    )
    end = length + shank
    if design.motif == "cross":
        body.lathe(
            [
                Corner(thick, length - 0.004, "steel"),
                Corner(thick, end - 0.008, "steel"),
                Corner(0.75 * thick, end - 0.005, "dark_steel"),
                Corner(0.35 * thick, end, "dark_steel", 0.0003),
                Corner(0.0, end, "dark_steel"),
            ],
            segments=48,
            section=lambda angle, z: 1 - 0.45 * (z > end - 0.006) * (0.5 - 0.5 * math.cos(4 * angle)),
        )
    else:
        # For a slotted blade, the round shank flattens and widens, then tapers to the edge.
        stations = [
            (0.0, 1.0, 1.0),
            (0.76, 1.0, 1.0),
            (0.88, 1.45, 0.62),
            (0.94, 1.45, 0.40),
            (1.0, 1.2, 0.16),
        ]
        path = [(0.0, 0.0, length - 0.004 + (shank + 0.004) * t) for t, _, _ in stations]
        body.tube(path, (1.0, 0.0, 0.0), [(thick * w, thick * h) for _, w, h in stations], "steel")
    return body


def _tin(design: Design) -> Body:
    p = design.proportions
    height, radius = 0.098 + 0.014 * p[0], 0.0365 + 0.0035 * p[1]
    label_low, label_high = 0.0055, height - 0.0055
    body = Body((2 * math.pi * radius, label_low, label_high))
    rim = radius + 0.0013
    body.lathe(
        [
            Corner(0.0, 0.0025, "steel"),
            Corner(radius - 0.003, 0.0025, "steel", 0.0008),
            Corner(radius - 0.0015, 0.0, "steel", 0.0004),
            Corner(rim, 0.0, "steel", 0.0008),
            Corner(rim, 0.0032, "steel", 0.0008),
            Corner(radius - 0.0004, 0.0042, "steel"),
            Corner(radius - 0.0004, label_low, "steel"),
            Corner(radius, label_low, "print"),
            Corner(radius, label_high, "steel"),
            Corner(radius - 0.0004, label_high, "steel"),
            Corner(radius - 0.0004, height - 0.0042, "steel"),
            Corner(rim, height - 0.0032, "steel", 0.0008),
            Corner(rim, height, "steel", 0.0008),
            Corner(radius - 0.0015, height, "steel", 0.0004),
            Corner(radius - 0.003, height - 0.004, "steel", 0.0008),
            Corner(0.80 * radius, height - 0.004, "steel", 0.0006),
            Corner(0.77 * radius, height - 0.003, "steel", 0.0006),
            Corner(0.74 * radius, height - 0.0034, "steel", 0.0006),
            Corner(0.0, height - 0.0034, "steel"),
        ]
    )
    # The pull ring lies on the lid: it is a flat tube bent to an ellipse. A tab holds it.
    z, ring = height - 0.0022, 0.0105
    circle = [2 * math.pi * k / 32 for k in range(33)]
    path = [(ring * math.cos(a), -0.30 * radius + 1.15 * ring * math.sin(a), z) for a in circle]
    body.tube(path, (0.0, 0.0, 1.0), [(0.0008, 0.0018)] * len(path), "steel")
    tab = [(0.0, y * radius, z) for y in (-0.02, 0.12, 0.30, 0.42)]
    body.tube(tab, (1.0, 0.0, 0.0), [(0.005, 0.0008), (0.007, 0.001), (0.006, 0.001), (0.003, 0.0006)], "steel")
    return body


def _direction(a: Corner, b: Corner) -> tuple[float, float]:
    dr, dz = b.radius - a.radius, b.z - a.z
    length = math.hypot(dr, dz)
    return dr / length, dz / length


def _unit(v: Point) -> Point:
    length = math.sqrt(sum(c * c for c in v))
    return v[0] / length, v[1] / length, v[2] / length


def _cross(a: Point, b: Point) -> Point:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
