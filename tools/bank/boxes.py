"""Things that are mostly boxes: packages, devices, furniture, vehicles."""

from __future__ import annotations

import math

from mini_pods.shapes import Corner

from .kit import Kit, arc


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
