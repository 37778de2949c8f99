"""Things that are bent or soft: tools, clothes, animals."""

from __future__ import annotations

import math

from mini_pods.shapes import Corner

from .kit import Kit, arc


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
