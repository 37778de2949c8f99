"""The shapes that things are built from: boxes, blobs, lathes and tubes, in metres around the z axis."""

from __future__ import annotations

import math
import random

from mini_pods.shapes import Body, Corner, Point


class Kit(Body):
    """A body with two more shapes, and a random generator for its proportions."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__((0.1, 0.0, 0.1))
        self.rng = rng

    def box(self, centre: Point, size: Point, surface: str = "body", front: str = "") -> None:
        """An upright box; `front` covers its front and its back, with the whole print on each."""
        (x, y, z), (a, b, c) = centre, (side / 2 for side in size)
        sides = {
            "front": [(-a, -b, -c), (a, -b, -c), (a, -b, c), (-a, -b, c)],
            "back": [(a, b, -c), (-a, b, -c), (-a, b, c), (a, b, c)],
            "left": [(-a, b, -c), (-a, -b, -c), (-a, -b, c), (-a, b, c)],
            "right": [(a, -b, -c), (a, b, -c), (a, b, c), (a, -b, c)],
            "top": [(-a, -b, c), (a, -b, c), (a, b, c), (-a, b, c)],
            "bottom": [(-a, b, -c), (a, b, -c), (a, -b, -c), (-a, -b, -c)],
        }
        for name, corners in sides.items():  # each side has its own corners, so that edges stay sharp
            first = len(self.vertices)
            self.vertices += [(x + u, y + v, z + w) for u, v, w in corners]
            covered = front if front and name in ("front", "back") else surface
            self.add_face([first, first + 1, first + 2, first + 3], covered, [(0, 0), (1, 0), (1, 1), (0, 1)])

    def blob(
        self, centre: Point, radii: Point, surface: str = "body", squareness: float = 1.0, lean: float = 0.0
    ) -> None:
        """A superellipsoid: 1 is an ellipsoid, 0.3 a cushion; it leans forwards by `lean` radians."""
        across, up, first = 24, 14, len(self.vertices)

        def power(value: float) -> float:
            return math.copysign(abs(value) ** squareness, value)

        for j in range(up + 1):
            v = math.pi * (j / up - 0.5)
            for k in range(across):
                u = 2 * math.pi * k / across
                x, y = (
                    radii[0] * power(math.cos(v)) * power(math.cos(u)),
                    radii[1] * power(math.cos(v)) * power(math.sin(u)),
                )
                z = radii[2] * power(math.sin(v))
                y, z = y * math.cos(lean) - z * math.sin(lean), y * math.sin(lean) + z * math.cos(lean)
                self.vertices.append((centre[0] + x, centre[1] + y, centre[2] + z))
        for j in range(up):
            for k in range(across):
                base, after = first + j * across, (k + 1) % across
                self.add_face([base + k, base + after, base + across + after, base + across + k], surface)

    def turned(self, profile: list[tuple[float, float]], surface: str = "body", fillet: float = 0.002) -> None:
        """A lathe through (radius, z) points, with small fillets."""
        self.lathe([Corner(r, z, surface, fillet) for r, z in profile], segments=48)

    def rod(self, points: list[Point], widths: list[float], surface: str = "body", flat: float = 1.0) -> None:
        """A tube through points of the plane of x and z; `flat` is its depth relative to its width."""
        self.tube(points, (0.0, 1.0, 0.0), [(flat * w, w) for w in widths], surface)

    def wheel(self, centre: Point, radius: float, width: float) -> None:
        x, y, z = centre
        circle = [2 * math.pi * k / 24 for k in range(25)]
        path = [(x + 0.7 * radius * math.cos(a), y, z + 0.7 * radius * math.sin(a)) for a in circle]
        self.rod(path, [0.3 * radius] * len(path), "dark", flat=width / (0.3 * radius))
        self.blob(centre, (0.5 * radius, 0.8 * width, 0.5 * radius), "trim")

    def printed(self, bottom: float, top: float, around: float) -> None:
        self.print_area = (around, bottom, top)


def arc(centre: Point, radius: tuple[float, float], start: float, end: float, steps: int = 18) -> list[Point]:
    """Points of an ellipse in the plane of x and z, from `start` to `end` degrees."""
    angles = [math.radians(start + (end - start) * k / steps) for k in range(steps + 1)]
    return [(centre[0] + radius[0] * math.cos(a), centre[1], centre[2] + radius[1] * math.sin(a)) for a in angles]
