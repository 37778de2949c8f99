"""Things that are turned on a lathe: vessels, toys, fruit."""

from __future__ import annotations

import math

from mini_pods.shapes import Corner

from .kit import Kit, arc


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
