"""Everyday things of many categories, each built from boxes, blobs, lathes and tubes.

A thing is about a decimetre tall, like the objects of mini_pods, whatever it is in life: only its look matters. None
has the shape, the colours or the print of an object of mini_pods, which remains a fair test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

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


# -- things that are turned on a lathe ---------------------------------------------------------------------------------


def _vessel(kit: Kit, radii: list[float], height: float, wall: float = 0.003, fillet: float = 0.002) -> None:
    """A hollow vessel of the outer `radii` at even heights; its print goes around once."""
    count = len(radii) - 1
    outer = [(radius, height * k / count) for k, radius in enumerate(radii)]
    kit.printed(0.0, height, 2 * math.pi * max(radii))
    profile = [
        Corner(0.0, 0.001),
        Corner(radii[0], 0.0, "print", fillet),
        *(Corner(r, z, "print") for r, z in outer[1:-1]),
    ]
    profile += [Corner(outer[-1][0], height, "trim", wall / 3), Corner(outer[-1][0] - wall, height, "trim", wall / 3)]
    profile += [Corner(max(r - wall, 0.002), max(z, 0.006), "trim") for r, z in reversed(outer[:-1])]
    kit.lathe([*profile, Corner(0.0, 0.006, "trim")], segments=60)


def cup(kit: Kit) -> None:
    rng, height = kit.rng, kit.rng.uniform(0.06, 0.085)
    foot, lip = rng.uniform(0.022, 0.034), rng.uniform(0.036, 0.048)
    _vessel(kit, [foot, *(foot + (lip - foot) * (k / 6) ** rng.choice((0.4, 0.6)) for k in range(1, 6)), lip], height)
    x = 0.5 * (foot + lip)
    if rng.random() < 0.7:
        kit.rod(
            [
                (x, 0, 0.8 * height),
                (x + 0.022, 0, 0.75 * height),
                (x + 0.018, 0, 0.4 * height),
                (x - 0.004, 0, 0.3 * height),
            ],
            [0.004] * 4,
            flat=1.6,
        )


def bowl(kit: Kit) -> None:
    rim, foot, height = kit.rng.uniform(0.05, 0.07), kit.rng.uniform(0.02, 0.03), kit.rng.uniform(0.03, 0.05)
    _vessel(kit, [foot + (rim - foot) * math.sin(math.pi / 2 * k / 7) for k in range(8)], height)


def vase(kit: Kit) -> None:
    rng = kit.rng
    belly, neck, phase = rng.uniform(0.03, 0.045), rng.uniform(0.3, 0.6), rng.uniform(-0.5, 0.7)
    radii = [belly * (0.65 + 0.35 * math.sin(math.pi * k / 9 * 1.4 + phase)) for k in range(10)]
    radii[-2:] = [belly * neck, belly * (neck + 0.15)]
    _vessel(kit, radii, rng.uniform(0.10, 0.15))


def jar(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.03, 0.042), kit.rng.uniform(0.06, 0.10)
    kit.printed(0.008, height - 0.014, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0),
            Corner(radius, 0, "print", 0.006),
            Corner(radius, height - 0.012, "accent", 0.006),
            Corner(0.85 * radius, height, "trim", 0.002),
            Corner(0.9 * radius, height + 0.001, "trim", 0.001),
            Corner(0.9 * radius, height + 0.016, "trim", 0.002),
            Corner(0, height + 0.016, "trim"),
        ]
    )


def flask(kit: Kit) -> None:
    """A bottle of glass or steel with a long neck."""
    rng, radius, body = kit.rng, kit.rng.uniform(0.022, 0.034), kit.rng.uniform(0.07, 0.11)
    neck, top = rng.uniform(0.008, 0.012), body + rng.uniform(0.03, 0.06)
    kit.printed(0.01, body, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0),
            Corner(radius, 0, "print", 0.004),
            Corner(radius, body, "accent", 0.012),
            Corner(neck, body + 0.02, "accent", 0.006),
            Corner(neck, top, "trim", 0.001),
            Corner(neck + 0.003, top + 0.001, "trim", 0.001),
            Corner(neck + 0.003, top + 0.014, "trim", 0.001),
            Corner(0, top + 0.014),
        ]
    )


def can(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.025, 0.033), kit.rng.uniform(0.085, 0.13)
    kit.printed(0.006, height - 0.008, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0.003, "steel"),
            Corner(0.75 * radius, 0, "steel", 0.001),
            Corner(radius, 0.006, "print", 0.002),
            Corner(radius, height - 0.008, "steel", 0.003),
            Corner(0.8 * radius, height, "steel", 0.001),
            Corner(0.74 * radius, height - 0.003, "steel"),
            Corner(0, height - 0.003, "steel"),
        ],
        segments=60,
    )


def spray(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.018, 0.026), kit.rng.uniform(0.10, 0.13)
    kit.printed(0.0, height, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0),
            Corner(radius, 0, "print", 0.002),
            Corner(radius, height, "steel", 0.008),
            Corner(0.4 * radius, height + 0.012, "steel", 0.002),
            Corner(0, height + 0.012),
        ]
    )
    kit.blob((0, 0, height + 0.018), (0.45 * radius, 0.45 * radius, 0.012), "accent", 0.4)


def plate(kit: Kit) -> None:
    radius = kit.rng.uniform(0.05, 0.07)
    kit.turned([(0, 0), (0.6 * radius, 0), (radius, 0.010), (radius, 0.013), (0.93 * radius, 0.013)], "accent", 0.001)
    kit.turned([(0.93 * radius, 0.013), (0.6 * radius, 0.005), (0, 0.005)], "body", 0.001)


def goblet(kit: Kit) -> None:
    rng, foot, stem = kit.rng, kit.rng.uniform(0.025, 0.034), kit.rng.uniform(0.03, 0.06)
    cup_radius, height = rng.uniform(0.025, 0.036), rng.uniform(0.04, 0.07)
    kit.turned(
        [
            (0, 0),
            (foot, 0),
            (foot, 0.003),
            (0.004, 0.010),
            (0.004, stem),
            (cup_radius, stem + 0.5 * height),
            (0.9 * cup_radius, stem + height),
        ]
    )
    kit.turned(
        [
            (0.9 * cup_radius, stem + height),
            (0.85 * cup_radius, stem + height),
            (0.9 * cup_radius, stem + 0.5 * height),
            (0, stem + 0.01),
        ],
        "trim",
    )


def lamp(kit: Kit) -> None:
    rng, foot, stem = kit.rng, kit.rng.uniform(0.02, 0.035), kit.rng.uniform(0.05, 0.08)
    kit.turned([(0, 0), (foot, 0), (foot, 0.006), (0.004, 0.012), (0.004, stem + 0.03), (0, stem + 0.03)], "steel")
    kit.turned([(rng.uniform(0.035, 0.05), stem), (rng.uniform(0.018, 0.036), stem + 0.055)], "accent", 0)


def ball(kit: Kit) -> None:
    radius, bands = kit.rng.uniform(0.035, 0.05), kit.rng.choice((3, 4, 5, 7))
    rings = [
        Corner(
            radius * math.cos(math.pi * (t / 20 - 0.5)),
            radius * (1 + math.sin(math.pi * (t / 20 - 0.5))),
            ("body", "accent", "trim")[int(t / 21 * bands) % 3],
        )
        for t in range(21)
    ]
    kit.lathe(rings, segments=48)


def candle(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.018, 0.035), kit.rng.uniform(0.05, 0.11)
    kit.turned([(0, 0), (radius, 0), (radius, height), (0.8 * radius, height - 0.004), (0, height - 0.005)])
    kit.rod([(0, 0, height - 0.005), (0.002, 0, height + 0.010)], [0.0012, 0.001], "dark")


def pin(kit: Kit) -> None:
    """A skittle, a chess piece, a doll of stacked balls."""
    rng, z = kit.rng, 0.0
    kit.turned([(0, 0), (0.025, 0), (0.025, 0.006), (0.015, 0.012), (0, 0.012)], "trim")
    for radius in sorted((rng.uniform(0.012, 0.026) for _ in range(rng.choice((2, 3)))), reverse=True):
        kit.blob((0, 0, z + 0.008 + radius), (radius, radius, 1.1 * radius), rng.choice(("body", "accent")))
        z += 1.7 * radius
    if rng.random() < 0.6:
        kit.turned([(0.014, z + 0.008), (0.012, z + 0.024), (0, z + 0.024)], "ink")


def fruit(kit: Kit) -> None:
    rng, radius = kit.rng, kit.rng.uniform(0.03, 0.042)
    stretch, waist = rng.uniform(0.85, 1.3), rng.uniform(0.0, 0.35)
    rings = []
    for t in range(21):
        v = math.pi * (t / 20 - 0.5)
        rings.append(
            Corner(
                radius * math.cos(v) ** 0.8 * (1 - waist * (t / 20) ** 2) if 0 < t < 20 else 0.0,
                radius * stretch * (1 + math.sin(v)),
                "body",
            )
        )
    kit.lathe(rings, segments=40)
    kit.rod([(0, 0, 2 * radius * stretch - 0.004), (0.003, 0, 2 * radius * stretch + 0.012)], [0.002, 0.0015], "dark")


def mushroom(kit: Kit) -> None:
    kit.turned([(0, 0), (0.018, 0), (0.014, 0.05), (0, 0.05)], "trim")
    kit.turned(
        [(0.014, 0.045), (kit.rng.uniform(0.035, 0.05), 0.048), (0.03, 0.075), (0, kit.rng.uniform(0.08, 0.09))],
        "body",
        0.008,
    )
    for _ in range(5):
        a, r = kit.rng.uniform(0, 6.28), kit.rng.uniform(0.01, 0.03)
        kit.blob((r * math.cos(a), r * math.sin(a), 0.08 - 0.5 * r), (0.005, 0.005, 0.006), "accent")


def plant(kit: Kit) -> None:
    rng = kit.rng
    kit.turned(
        [(0, 0), (0.024, 0), (0.034, 0.05), (0.030, 0.05), (0.028, 0.044), (0, 0.044)], rng.choice(("body", "accent"))
    )
    for _ in range(rng.randint(7, 14)):
        a, reach, rise = rng.uniform(0, 6.28), rng.uniform(0.01, 0.045), rng.uniform(0.02, 0.06)
        c, s = math.cos(a), math.sin(a)
        path = [(reach * t * c, reach * t * s, 0.044 + rise * math.sin(1.9 * t)) for t in (0, 0.3, 0.6, 0.85, 1.0)]
        kit.tube(
            path, (-s, c, 0.0), [(0.002, 0.001), (0.008, 0.001), (0.010, 0.001), (0.006, 0.001), (0.001, 0.001)], "leaf"
        )


def teapot(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.036, 0.046), kit.rng.uniform(0.05, 0.07)
    kit.printed(0.0, height, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0),
            Corner(0.7 * radius, 0, "print", 0.004),
            Corner(radius, 0.5 * height, "print", 0.02),
            Corner(0.55 * radius, height, "trim", 0.004),
            Corner(0.2 * radius, height + 0.012, "trim", 0.004),
            Corner(0.2 * radius, height + 0.024, "trim", 0.003),
            Corner(0, height + 0.024),
        ]
    )
    kit.rod(
        [(-0.8 * radius, 0, 0.4 * height), (-1.3 * radius, 0, 0.6 * height), (-1.6 * radius, 0, 0.95 * height)],
        [0.009, 0.007, 0.004],
    )
    kit.rod(arc((0.9 * radius, 0, 0.55 * height), (0.5 * radius, 0.35 * height), -90, 90), [0.004] * 19, "body")


# -- things that are boxes ---------------------------------------------------------------------------------------------


def book(kit: Kit) -> None:
    width, depth, height = kit.rng.uniform(0.06, 0.09), kit.rng.uniform(0.01, 0.03), kit.rng.uniform(0.09, 0.12)
    kit.printed(0, height, width)
    for y in (-depth / 2, depth / 2):
        kit.box((0, y, height / 2), (width, 0.002, height), "body", "print")
    kit.box((-width / 2, 0, height / 2), (0.002, depth + 0.002, height))
    kit.box((0.001, 0, height / 2), (width - 0.006, depth - 0.002, height - 0.006), "paper")


def carton(kit: Kit) -> None:
    width, depth, height = kit.rng.uniform(0.045, 0.08), kit.rng.uniform(0.02, 0.05), kit.rng.uniform(0.07, 0.13)
    kit.printed(0, height, width)
    kit.box((0, 0, height / 2), (width, depth, height), kit.rng.choice(("body", "accent", "trim")), "print")


def milk(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.045, 0.055), kit.rng.uniform(0.08, 0.10)
    kit.printed(0, height, width)
    kit.box((0, 0, height / 2), (width, width, height), "body", "print")
    first, a, top = len(kit.vertices), width / 2, height + 0.022
    kit.vertices += [(-a, -a, height), (a, -a, height), (a, a, height), (-a, a, height), (-a, 0, top), (a, 0, top)]
    for corners in ([0, 1, 5, 4], [2, 3, 4, 5], [1, 2, 5], [3, 0, 4]):
        kit.add_face([first + k for k in corners], "accent")
    kit.box((0, 0, top + 0.003), (width, 0.002, 0.010), "accent")


def phone(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.04, 0.055), kit.rng.uniform(0.08, 0.11)
    kit.box((0, 0, height / 2), (width, 0.007, height), "body")
    kit.box((0, -0.0038, height / 2), (0.9 * width, 0.001, 0.86 * height), "screen")
    kit.blob((0.3 * width, 0.004, 0.85 * height), (0.006, 0.003, 0.006), "dark")


def remote(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.025, 0.035), kit.rng.uniform(0.10, 0.13)
    kit.blob((0, 0, height / 2), (width / 2, 0.008, height / 2), "body", 0.35)
    for row in range(kit.rng.randint(4, 7)):
        for column in (-1, 0, 1):
            kit.blob(
                (0.3 * width * column, -0.008, height * (0.86 - 0.1 * row)),
                (0.003, 0.002, 0.003),
                "accent" if row else "ink",
                0.5,
            )


def camera(kit: Kit) -> None:
    width, height, radius = kit.rng.uniform(0.08, 0.11), kit.rng.uniform(0.05, 0.065), kit.rng.uniform(0.018, 0.024)
    kit.box((0, 0, height / 2), (width, 0.03, height), "body")
    kit.box((0, 0, 0.75 * height), (width + 0.001, 0.032, 0.25 * height), "trim")
    kit.box((-0.2 * width, 0, height + 0.005), (0.2 * width, 0.02, 0.012), "trim")
    for k, surface in enumerate(("dark", "steel", "dark")):
        kit.blob(
            (0.05 * width, -0.018 - 0.008 * k, 0.45 * height),
            (radius * (1 - 0.12 * k),) * 1 + (0.012, radius * (1 - 0.12 * k)),
            surface,
            0.3,
        )
    kit.blob((0.35 * width, 0, height), (0.006, 0.006, 0.006), "accent", 0.4)


def radio(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.09, 0.12), kit.rng.uniform(0.06, 0.08)
    kit.box((0, 0, height / 2), (width, 0.035, height), "body")
    kit.blob((-0.22 * width, -0.018, 0.45 * height), (0.30 * height, 0.003, 0.30 * height), "dark", 0.6)
    kit.box((0.25 * width, -0.018, 0.7 * height), (0.35 * width, 0.002, 0.2 * height), "screen")
    for x in (0.15, 0.35):
        kit.blob((x * width, -0.02, 0.3 * height), (0.007, 0.006, 0.007), "accent", 0.4)
    kit.rod(arc((0, 0, height), (0.4 * width, 0.02), 0, 180), [0.003] * 19, "trim")


def clock(kit: Kit) -> None:
    radius = kit.rng.uniform(0.035, 0.05)
    square = kit.rng.choice((1.0, 0.3))
    kit.blob((0, 0, radius + 0.008), (radius, 0.018, radius), "body", square)
    kit.blob((0, -0.011, radius + 0.008), (0.85 * radius, 0.010, 0.85 * radius), "paper", square)
    for angle, reach in ((kit.rng.uniform(0, 6.28), 0.7), (kit.rng.uniform(0, 6.28), 0.45)):
        end = (reach * radius * math.cos(angle), -0.022, radius + 0.008 + reach * radius * math.sin(angle))
        kit.rod([(0, -0.022, radius + 0.008), end], [0.002, 0.0015], "dark")
    for x in (-0.5, 0.5):
        kit.blob((x * radius, 0, 0.006), (0.006, 0.006, 0.008), "trim")
        if kit.rng.random() < 0.5:
            kit.blob((x * radius, 0, 2 * radius + 0.012), (0.014, 0.010, 0.010), "trim")


def brick(kit: Kit) -> None:
    """A toy brick with studs."""
    columns, unit, height = kit.rng.choice((2, 3, 4)), 0.02, 0.024
    surface = kit.rng.choice(("body", "accent"))
    kit.box((0, 0, height / 2), (columns * unit, 2 * unit, height), surface)
    for column in range(columns):
        for row in (-0.5, 0.5):
            kit.blob(
                ((column - (columns - 1) / 2) * unit, row * unit, height + 0.002), (0.006, 0.006, 0.004), surface, 0.3
            )


def die(kit: Kit) -> None:
    kit.blob((0, 0, 0.03), (0.03, 0.03, 0.03), "body", 0.22)
    sides: tuple[tuple[int, int], ...] = ((0, -1), (1, 0), (-1, 0), (0, 1))
    for side in sides:
        for _ in range(kit.rng.randint(2, 6)):
            u, w = kit.rng.choice((-1, 0, 1)), kit.rng.choice((-1, 0, 1))
            centre = (
                0.0295 * side[0] + 0.014 * u * (side[0] == 0),
                0.0295 * side[1] + 0.014 * u * (side[1] == 0),
                0.03 + 0.014 * w,
            )
            kit.blob(centre, (0.004, 0.004, 0.004), "ink")


def chair(kit: Kit) -> None:
    rng, width, seat, back = (
        kit.rng,
        kit.rng.uniform(0.045, 0.06),
        kit.rng.uniform(0.04, 0.055),
        kit.rng.uniform(0.045, 0.07),
    )
    leg = rng.uniform(0.004, 0.008)
    for x in (-1, 1):
        for y in (-1, 1):
            kit.box((x * (width - leg) / 2, y * (width - leg) / 2, seat / 2), (leg, leg, seat), "trim")
        kit.box((x * (width - leg) / 2, (width - leg) / 2, seat + back / 2), (leg, leg, back), "trim")
    kit.box((0, 0, seat), (width, width, 0.006), "body")
    for k in range(rng.choice((1, 2, 3))):
        kit.box(
            (0, (width - leg) / 2, seat + back * (0.95 - 0.3 * k)),
            (width, 0.6 * leg, rng.uniform(0.008, 0.018)),
            "body",
        )


def table(kit: Kit) -> None:
    width, depth, height = kit.rng.uniform(0.08, 0.12), kit.rng.uniform(0.05, 0.08), kit.rng.uniform(0.045, 0.06)
    leg = kit.rng.uniform(0.005, 0.010)
    for x in (-1, 1):
        for y in (-1, 1):
            kit.box((x * (0.5 * width - leg), y * (0.5 * depth - leg), height / 2), (leg, leg, height), "trim")
    kit.box((0, 0, height + 0.003), (width, depth, 0.006), "body")


def sofa(kit: Kit) -> None:
    width, soft = kit.rng.uniform(0.09, 0.13), kit.rng.uniform(0.25, 0.5)
    kit.blob((0, 0, 0.018), (width / 2, 0.028, 0.016), "body", soft)
    kit.blob((0, 0.024, 0.04), (width / 2, 0.010, 0.034), "body", soft)
    for x in (-1, 1):
        kit.blob((x * width / 2, 0, 0.026), (0.010, 0.030, 0.024), "body", soft)
        kit.blob((x * width / 4, -0.003, 0.036), (0.24 * width, 0.024, 0.008), "accent", soft)


def cupboard(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.06, 0.10), kit.rng.uniform(0.07, 0.12)
    kit.box((0, 0, height / 2), (width, 0.035, height), "body")
    rows = kit.rng.randint(2, 4)
    for row in range(rows):
        z = height * (row + 0.5) / rows
        kit.box((0, -0.018, z), (0.92 * width, 0.003, 0.86 * height / rows), "accent")
        kit.blob((kit.rng.choice((0.0, 0.3)) * width, -0.022, z), (0.003, 0.003, 0.003), "steel")


def car(kit: Kit) -> None:
    length, soft = kit.rng.uniform(0.09, 0.12), kit.rng.uniform(0.3, 0.6)
    kit.blob((0, 0, 0.024), (length / 2, 0.022, 0.014), "body", soft)
    kit.blob((kit.rng.uniform(-0.1, 0.15) * length, 0, 0.04), (0.27 * length, 0.019, 0.016), "body", soft)
    kit.blob((0.02 * length, 0, 0.041), (0.22 * length, 0.0205, 0.010), "screen", soft)
    for x in (-0.3, 0.3):
        for y in (-0.02, 0.02):
            kit.wheel((x * length, y, 0.013), 0.013, 0.005)


def truck(kit: Kit) -> None:
    length = kit.rng.uniform(0.10, 0.13)
    kit.box((0.15 * length, 0, 0.04), (0.62 * length, 0.04, 0.042), "body")
    kit.box((-0.34 * length, 0, 0.032), (0.26 * length, 0.038, 0.03), "accent")
    kit.box((-0.36 * length, 0, 0.040), (0.23 * length, 0.039, 0.010), "screen")
    for x in (-0.35, 0.1, 0.35):
        for y in (-0.02, 0.02):
            kit.wheel((x * length, y, 0.012), 0.012, 0.005)


def robot(kit: Kit) -> None:
    rng = kit.rng
    for x in (-0.012, 0.012):
        kit.box((x, 0, 0.015), (0.014, 0.018, 0.03), "trim")
        kit.box((2.2 * x, 0, 0.05), (0.010, 0.014, 0.036), "accent")
        kit.blob((0.6 * x, -0.017, 0.088), (0.005, 0.004, 0.005), "ink")
    kit.box((0, 0, 0.05), (0.042, 0.026, 0.042), "body")
    kit.box((0, 0, 0.086), (rng.uniform(0.026, 0.038), 0.03, rng.uniform(0.022, 0.03)), "body")
    kit.rod([(0, 0, 0.098), (0, 0, 0.115)], [0.0015, 0.0015], "steel")
    kit.blob((0, 0, 0.117), (0.004, 0.004, 0.004), "accent")


def house(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.06, 0.085), kit.rng.uniform(0.04, 0.06)
    kit.box((0, 0, height / 2), (width, 0.05, height), "body")
    first, a, top = len(kit.vertices), width / 2 + 0.004, height + kit.rng.uniform(0.025, 0.045)
    kit.vertices += [
        (-a, -0.03, height),
        (a, -0.03, height),
        (a, 0.03, height),
        (-a, 0.03, height),
        (0, -0.03, top),
        (0, 0.03, top),
    ]
    for corners in ([0, 4, 5, 3], [1, 2, 5, 4], [0, 1, 4], [2, 3, 5]):
        kit.add_face([first + k for k in corners], "accent")
    kit.box((0, -0.025, 0.014), (0.016, 0.002, 0.028), "ink")
    for x in (-0.3, 0.3):
        kit.box((x * width, -0.025, 0.6 * height), (0.012, 0.002, 0.014), "screen")


def suitcase(kit: Kit) -> None:
    width, height = kit.rng.uniform(0.07, 0.10), kit.rng.uniform(0.055, 0.08)
    kit.blob((0, 0, height / 2), (width / 2, 0.016, height / 2), "body", 0.25)
    for x in (-0.28, 0.28):
        kit.box((x * width, 0, height / 2), (0.006, 0.034, 0.97 * height), "trim")
    kit.rod(arc((0, 0, 0.98 * height), (0.16 * width, 0.014), 0, 180), [0.003] * 19, "ink")


def drum(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.035, 0.05), kit.rng.uniform(0.035, 0.07)
    kit.printed(0, height, 2 * math.pi * radius)
    kit.lathe(
        [
            Corner(0, 0),
            Corner(1.04 * radius, 0, "trim", 0.001),
            Corner(1.04 * radius, 0.006, "trim", 0.001),
            Corner(radius, 0.007, "print"),
            Corner(radius, height - 0.007, "trim"),
            Corner(1.04 * radius, height - 0.006, "trim", 0.001),
            Corner(1.04 * radius, height, "trim", 0.001),
            Corner(radius, height - 0.002, "paper"),
            Corner(0, height - 0.002, "paper"),
        ]
    )


# -- things that are bent, and soft toys -------------------------------------------------------------------------------


def hammer(kit: Kit) -> None:
    length = kit.rng.uniform(0.11, 0.14)
    kit.rod([(0, 0, 0), (0, 0, 0.5 * length), (0, 0, length)], [0.008, 0.006, 0.005], "body", flat=0.7)
    kit.blob((0, 0, length), (kit.rng.uniform(0.026, 0.036), 0.010, 0.010), "steel", 0.35)
    kit.rod([(0, 0, 0), (0, 0, 0.4 * length)], [0.0085, 0.007], "accent", flat=0.75)


def wrench(kit: Kit) -> None:
    length, radius = kit.rng.uniform(0.10, 0.13), kit.rng.uniform(0.012, 0.016)
    kit.rod([(0, 0, 0.01), (0, 0, length)], [0.007, 0.006], "steel", flat=0.4)
    for z, start in ((0.0, 110), (length + 0.5 * radius, -70)):
        kit.rod(arc((0, 0, z), (radius, radius), start - 340, start), [0.006] * 19, "steel", flat=0.5)


def brush(kit: Kit) -> None:
    length, head = kit.rng.uniform(0.07, 0.10), kit.rng.uniform(0.008, 0.02)
    kit.rod([(0, 0, 0), (0, 0, 0.6 * length), (0, 0, length)], [0.004, 0.007, 0.005], "body")
    kit.blob((0, 0, length), (head, 0.006, 0.008), "steel", 0.3)
    kit.blob((0, 0, length + 0.018), (0.95 * head, 0.005, 0.016), "accent", 0.5)


def pencil(kit: Kit) -> None:
    length, radius = kit.rng.uniform(0.10, 0.13), kit.rng.uniform(0.006, 0.010)
    kit.lathe(
        [
            Corner(0, 0, "accent"),
            Corner(radius, 0.0, "accent", 0.002),
            Corner(radius, 0.014, "steel"),
            Corner(radius, 0.02, "body"),
            Corner(radius, length, "paper"),
            Corner(0.25 * radius, length + 0.02, "ink"),
            Corner(0, length + 0.026, "ink"),
        ],
        segments=6,
    )


def spoon(kit: Kit) -> None:
    length = kit.rng.uniform(0.09, 0.12)
    kit.rod(
        [(0, 0, 0), (0, 0.003, 0.4 * length), (0, 0, length)],
        [0.006, 0.004, 0.003],
        kit.rng.choice(("steel", "body")),
        flat=0.4,
    )
    kit.blob((0, 0, length + 0.014), (kit.rng.uniform(0.012, 0.018), 0.005, 0.022), kit.rng.choice(("steel", "body")))


def scissors(kit: Kit) -> None:
    for side in (-1, 1):
        kit.rod(
            [(side * 0.012, 0.002 * side, 0.03), (0, 0.002 * side, 0.06), (-side * 0.014, 0.002 * side, 0.125)],
            [0.005, 0.006, 0.001],
            "steel",
            flat=0.25,
        )
        kit.rod(arc((side * 0.018, 0, 0.018), (0.012, 0.018), 0, 360), [0.004] * 19, "body", flat=0.9)


def glasses(kit: Kit) -> None:
    radius, soft = kit.rng.uniform(0.018, 0.024), kit.rng.uniform(0.7, 1.3)
    for x in (-1, 1):
        kit.rod(arc((x * 1.25 * radius, 0, radius), (radius, soft * radius), 0, 360), [0.003] * 19, "body")
        kit.tube(
            [(x * 2.2 * radius, 0, radius), (x * 2.2 * radius, 0.05, radius), (x * 2.2 * radius, 0.065, radius - 0.01)],
            (1.0, 0.0, 0.0),
            [(0.002, 0.003)] * 3,
            "body",
        )
    kit.rod([(-0.3 * radius, 0, 1.2 * radius), (0.3 * radius, 0, 1.2 * radius)], [0.002, 0.002], "body")


def doughnut(kit: Kit) -> None:
    radius = kit.rng.uniform(0.028, 0.04)
    ring = [2 * math.pi * k / 36 for k in range(37)]
    for lift, wide, surface in ((0.0, 0.016, "trim"), (0.004, 0.0155, "body")):
        path = [(radius * math.cos(a), radius * math.sin(a), 0.016 + lift) for a in ring]
        kit.tube(path, (0.0, 0.0, 1.0), [(0.014, wide)] * len(path), surface)
    for _ in range(26):
        a, r = kit.rng.uniform(0, 6.28), radius + kit.rng.uniform(-0.01, 0.01)
        kit.blob((r * math.cos(a), r * math.sin(a), 0.0335), (0.003, 0.0015, 0.0015), kit.rng.choice(("accent", "ink")))


def banana(kit: Kit) -> None:
    kit.rod(
        arc((0, 0, 0.08), (0.06, 0.07), 200, 340),
        [0.003 + 0.013 * math.sin(math.pi * k / 18) ** 0.5 for k in range(19)],
        "body",
    )


def shoe(kit: Kit) -> None:
    """A shoe, or a boot, as ellipsoids over a sole."""
    rng, length, shaft = kit.rng, kit.rng.uniform(0.10, 0.125), kit.rng.choice((0.0, 0.02, 0.05))
    kit.blob((0, 0, 0.008), (length / 2, 0.019, 0.008), "trim", 0.5)
    kit.blob((-0.22 * length, 0, 0.018), (0.28 * length, 0.018, 0.016), "body", 0.8)
    kit.blob((0.1 * length, 0, 0.024), (0.36 * length, 0.018, 0.024), "body", 0.7)
    kit.blob((0.27 * length, 0, 0.035 + shaft / 2), (0.18 * length, 0.017, 0.024 + shaft / 2), "body", 0.6)
    kit.blob((0.27 * length, 0, 0.058 + shaft), (0.15 * length, 0.013, 0.003), "dark")
    for k in range(3):
        kit.box(((-0.12 + 0.07 * k) * length, 0, 0.036 + 0.005 * k), (0.004, 0.022, 0.006), "accent")
    if rng.random() < 0.6:
        for y in (-0.0185, 0.0185):
            kit.rod([(-0.1 * length, y, 0.016), (0.12 * length, y, 0.034)], [0.004, 0.003], "accent", flat=0.3)


def hat(kit: Kit) -> None:
    radius, height = kit.rng.uniform(0.03, 0.036), kit.rng.uniform(0.03, 0.06)
    kit.turned(
        [(0, 0.002), (radius + kit.rng.uniform(0.015, 0.03), 0.0), (radius + 0.02, 0.004), (radius, 0.006)], "body"
    )
    kit.turned([(radius, 0.006), (radius, 0.018)], "accent")
    kit.turned([(radius, 0.018), (0.85 * radius, height), (0, height - 0.004)], "body", 0.006)


def umbrella(kit: Kit) -> None:
    kit.turned([(kit.rng.uniform(0.05, 0.06), 0.075), (0.035, 0.10), (0.0, 0.115)], "body", 0.01)
    kit.rod([(0, 0, 0.12), (0, 0, 0.02), *arc((0.01, 0, 0.012), (0.01, 0.01), 180, 360, 8)], [0.002] * 11, "trim")


def bear(kit: Kit) -> None:
    """A sitting soft toy with round or long ears."""
    rng, ear = kit.rng, kit.rng.choice((1.0, 1.0, 2.6))
    kit.blob((0, 0, 0.032), (0.028, 0.024, 0.032), "body")
    kit.blob((0, -0.010, 0.030), (0.018, 0.018, 0.022), "accent")
    kit.blob((0, -0.003, 0.078), (0.024, 0.022, 0.022), "body")
    kit.blob((0, -0.022, 0.072), (0.010, 0.010, 0.008), "accent")
    kit.blob((0, -0.032, 0.074), (0.003, 0.003, 0.002), "dark")
    for x in (-1, 1):
        kit.blob((x * 0.009, -0.021, 0.083), (0.0025, 0.0025, 0.0025), "dark")
        kit.blob((x * rng.uniform(0.014, 0.02), 0, 0.097 + 0.005 * ear), (0.008, 0.004, 0.008 * ear), "body")
        kit.blob((x * 0.028, -0.010, 0.044), (0.008, 0.010, 0.018), "body", lean=0.5)
        kit.blob((x * 0.018, -0.024, 0.010), (0.011, 0.018, 0.010), "body")


def beast(kit: Kit) -> None:
    """A four-legged animal: a dog, a horse, an elephant, a dinosaur, as its proportions fall."""
    rng, length, leg = kit.rng, kit.rng.uniform(0.05, 0.07), kit.rng.uniform(0.02, 0.045)
    thick, neck = rng.uniform(0.013, 0.022), rng.uniform(0.0, 0.045)
    kit.blob((0, 0, leg + thick), (length / 2 + 0.01, thick, thick), "body", 0.8)
    for x in (-0.42, 0.42):
        for y in (-0.5, 0.5):
            kit.rod(
                [(x * length, y * thick, 0.0), (x * length, y * thick, leg + thick)],
                [0.4 * thick, 0.45 * thick],
                rng.choice(("body", "accent")),
            )
    head = (-0.6 * length - 0.3 * neck, 0.0, leg + 1.5 * thick + neck)
    kit.rod([(-0.35 * length, 0, leg + thick), head], [0.7 * thick, 0.45 * thick], "body")
    kit.blob(head, (rng.uniform(0.012, 0.02), 0.011, 0.011), "body")
    kit.blob((head[0] - 0.014, 0, head[2] - 0.004), (rng.uniform(0.006, 0.016), 0.007, 0.006), "accent")
    for y in (-1, 1):
        kit.blob((head[0] + 0.004, 0.009 * y, head[2] + 0.010), (0.004, 0.004, rng.uniform(0.005, 0.012)), "accent")
        kit.blob((head[0] - 0.010, 0.008 * y, head[2] + 0.004), (0.002, 0.002, 0.002), "dark")
    kit.rod(
        [(0.5 * length, 0, leg + 1.3 * thick), (0.8 * length, 0, leg + rng.uniform(-0.5, 3.0) * thick)],
        [0.3 * thick, 0.1 * thick],
        "body",
    )


def bird(kit: Kit) -> None:
    """A duck, a hen, a penguin."""
    rng, upright = kit.rng, kit.rng.uniform(0.0, 1.0)
    kit.blob((0, 0, 0.032), (0.040 - 0.016 * upright, 0.024, 0.026 + 0.012 * upright), "body")
    z = 0.066 + 0.018 * upright
    kit.blob((-0.020 + 0.018 * upright, 0, z), (0.017, 0.016, 0.016), "body")
    kit.blob((-0.040 + 0.018 * upright, 0, z - 0.002), (rng.uniform(0.007, 0.012), 0.006, 0.004), "accent")
    for y in (-1, 1):
        kit.blob((-0.028 + 0.018 * upright, 0.012 * y, z + 0.005), (0.0025, 0.0025, 0.0025), "dark")
        kit.blob((0.006, 0.022 * y, 0.034), (0.022, 0.005, 0.012), "trim")


def fish(kit: Kit) -> None:
    length, height = kit.rng.uniform(0.045, 0.06), kit.rng.uniform(0.02, 0.032)
    kit.blob((0, 0, 0.04), (length, 0.012, height), "body")
    kit.rod([(0.9 * length, 0, 0.04), (1.35 * length, 0, 0.04)], [0.004, 0.024], "accent", flat=0.12)
    kit.rod(
        [(-0.2 * length, 0, 0.04 + 0.85 * height), (0.4 * length, 0, 0.04 + 1.2 * height)],
        [0.004, 0.008],
        "accent",
        flat=0.2,
    )
    for k in range(kit.rng.choice((0, 2, 3))):
        kit.blob(((-0.3 + 0.35 * k) * length, 0, 0.04), (0.006, 0.0125, 0.9 * height * (1 - 0.12 * k * k)), "trim")
    for y in (-1, 1):
        kit.blob((-0.7 * length, 0.009 * y, 0.046), (0.004, 0.002, 0.004), "dark")


def plane(kit: Kit) -> None:
    length = kit.rng.uniform(0.055, 0.065)
    kit.blob((0, 0, 0.03), (length, 0.012, 0.012), "body")
    kit.tube(
        [(-0.1 * length, y, 0.03) for y in (-0.06, -0.02, 0.02, 0.06)],
        (0.0, 0.0, 1.0),
        [(0.002, 0.008), (0.002, 0.016), (0.002, 0.016), (0.002, 0.008)],
        "accent",
    )
    kit.tube([(0.85 * length, y, 0.033) for y in (-0.022, 0.022)], (0.0, 0.0, 1.0), [(0.0015, 0.008)] * 2, "accent")
    kit.rod([(0.8 * length, 0, 0.035), (0.95 * length, 0, 0.06)], [0.012, 0.007], "trim", flat=0.15)


def boat(kit: Kit) -> None:
    kit.blob((0, 0, 0.018), (0.055, 0.02, 0.018), "body", 0.7)
    kit.box((0, 0, 0.034), (0.10, 0.034, 0.003), "trim")
    if kit.rng.random() < 0.5:
        kit.rod([(0, 0, 0.03), (0, 0, 0.11)], [0.002, 0.002], "trim")
        first = len(kit.vertices)
        kit.vertices += [
            (0.003, 0, 0.045),
            (0.045, 0.006, 0.045),
            (0.003, 0, 0.11),
            (-0.003, 0, 0.045),
            (-0.035, 0.006, 0.045),
            (-0.003, 0, 0.10),
        ]
        kit.add_face([first, first + 1, first + 2], "accent")
        kit.add_face([first + 5, first + 4, first + 3], "accent")
    else:
        kit.box((0.01, 0, 0.046), (0.045, 0.024, 0.022), "accent")
        kit.rod([(0.016, 0, 0.05), (0.016, 0, 0.08)], [0.007, 0.007], "ink")


def key(kit: Kit) -> None:
    kit.rod(arc((0, 0, 0.10), (0.018, 0.018), 0, 360), [0.005] * 19, kit.rng.choice(("steel", "body")), flat=0.6)
    kit.rod([(0, 0, 0.0), (0, 0, 0.082)], [0.005, 0.005], "steel", flat=0.6)
    for z in (0.006, 0.018, 0.026)[: kit.rng.choice((2, 3))]:
        kit.box((0.010, 0, z), (0.014, 0.005, 0.006), "steel")


def flower(kit: Kit) -> None:
    kit.rod([(0, 0, 0), (0.005, 0, 0.05), (0, 0, 0.095)], [0.003, 0.0025, 0.002], "leaf")
    count = kit.rng.choice((5, 6, 8, 10))
    for k in range(count):
        a = 2 * math.pi * k / count
        kit.blob((0.021 * math.cos(a), -0.004, 0.098 + 0.021 * math.sin(a)), (0.0105, 0.003, 0.0105), "body")
    kit.blob((0, -0.006, 0.098), (0.011, 0.006, 0.011), "accent")
    for side in (-1, 1):
        kit.rod(
            [(0, 0, 0.03), (side * 0.015, 0, 0.045), (side * 0.03, 0, 0.05)], [0.002, 0.008, 0.001], "leaf", flat=0.2
        )


CATEGORIES: dict[str, Callable[[Kit], None]] = {
    make.__name__: make
    for make in (
        cup, bowl, vase, jar, flask, can, spray, plate, goblet, lamp, ball, candle, pin, fruit, mushroom, plant, teapot,
        book, carton, milk, phone, remote, camera, radio, clock, brick, die, chair, table, sofa, cupboard, car, truck,
        robot, house, suitcase, drum, hammer, wrench, brush, pencil, spoon, scissors, glasses, doughnut, banana, shoe,
        hat, umbrella, bear, beast, bird, fish, plane, boat, key, flower,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The colours ('#rrggbb') of a thing, its finish, and the seed of its print."""

    name: str
    category: str
    finish: str
    colours: dict[str, str]
    seed: str


def make_thing(category: str, index: int, seed: int) -> tuple[Look, Body]:
    """The `index`-th thing of a category. Depends only on its arguments."""
    name = f"{category}_{index}"
    rng = random.Random(f"{seed}/{name}")
    kit = Kit(rng)
    CATEGORIES[category](kit)
    return Look(name, category, rng.choice(FINISHES_OF.get(category, HARD)), _colours(rng), f"{seed}/{name}/print"), kit


HARD = ("glossy", "satin", "matte")
FINISHES_OF = {
    **dict.fromkeys(("chair", "table", "cupboard", "pin", "hammer", "spoon", "drum"), ("wood", "wood", "satin")),
    **dict.fromkeys(("bear", "beast", "bird", "sofa", "hat", "umbrella"), ("cloth", "cloth", "matte")),
    **dict.fromkeys(("lamp", "goblet", "teapot", "wrench", "clock"), ("metal", "glossy", "satin")),
}


def _colours(rng: random.Random) -> dict[str, str]:
    """A body colour and three that go with it: a dark or light ink, an accent of another hue, a trim."""

    def hsv(hue: float, saturation: float, value: float) -> str:
        import colorsys

        return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))

    hue, value = rng.random(), rng.choice((rng.uniform(0.15, 0.4), rng.uniform(0.4, 0.95), rng.uniform(0.7, 0.95)))
    saturation = rng.choice((rng.uniform(0.0, 0.2), rng.uniform(0.3, 0.6), rng.uniform(0.6, 0.9)))
    ink = 0.12 if value > 0.5 else 0.92
    return {
        "body": hsv(hue, saturation, value),
        "ink": hsv(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.0, 0.5), ink),
        "accent": hsv(
            hue + rng.choice((0.0, 0.3, 0.5, 0.7)) + rng.uniform(-0.06, 0.06),
            rng.uniform(0.35, 0.85),
            rng.uniform(0.45, 0.9),
        ),
        "trim": hsv(hue + rng.uniform(-0.3, 0.3), rng.uniform(0.0, 0.5), rng.uniform(0.2, 0.9)),
    }
