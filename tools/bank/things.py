"""Everyday things of many categories, with random proportions, colours and prints.

A thing is about a decimetre tall, like the objects of mini_pods, whatever it is in life: only its look matters. None
has the shape, the colours or the print of an object of mini_pods, which remains a fair test.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable
from dataclasses import dataclass

from mini_pods.shapes import Body

from . import bent, boxes, turned
from .kit import Kit

CATEGORIES: dict[str, Callable[[Kit], None]] = {
    make.__name__: make
    for make in (
        turned.cup, turned.bowl, turned.vase, turned.jar, turned.flask, turned.can, turned.spray, turned.plate,
        turned.goblet, turned.lamp, turned.ball, turned.candle, turned.pin, turned.fruit, turned.mushroom,
        turned.plant, turned.teapot, boxes.book, boxes.carton, boxes.milk, boxes.phone, boxes.remote, boxes.camera,
        boxes.radio, boxes.clock, boxes.brick, boxes.die, boxes.chair, boxes.table, boxes.sofa, boxes.cupboard,
        boxes.car, boxes.truck, boxes.robot, boxes.house, boxes.suitcase, boxes.drum, bent.hammer, bent.wrench,
        bent.brush, bent.pencil, bent.spoon, bent.scissors, bent.glasses, bent.doughnut, bent.banana, bent.shoe,
        bent.hat, bent.umbrella, bent.bear, bent.beast, bent.bird, bent.fish, bent.plane, bent.boat, bent.key,
        bent.flower,
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
