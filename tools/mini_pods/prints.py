"""The prints on the objects, drawn with PIL as unrolled sleeves: x runs once around the object, y up its wall.

The middle of a sleeve is the front of its object; its two ends meet at the back.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .catalogue import Design

PIXELS_PER_METRE = 5000
OVERSAMPLE = 2  # PIL draws polygons without antialiasing, so prints are drawn large and then shrunk

# Drawings in a unit box (y down): shape, colour role, coordinates.
MOTIFS: dict[str, list[tuple[str, str, list[tuple[float, float]]]]] = {
    "mountain": [
        ("ellipse", "accent", [(0.58, 0.02), (0.86, 0.30)]),
        ("polygon", "ink", [(0.0, 0.95), (0.36, 0.22), (0.72, 0.95)]),
        ("polygon", "body", [(0.36, 0.22), (0.26, 0.43), (0.33, 0.39), (0.38, 0.46), (0.46, 0.42)]),
        ("polygon", "ink", [(0.45, 0.95), (0.72, 0.46), (1.0, 0.95)]),
        ("polygon", "body", [(0.72, 0.46), (0.64, 0.61), (0.70, 0.58), (0.75, 0.63), (0.80, 0.60)]),
    ],
    "fox": [
        ("polygon", "accent", [(0.05, 0.05), (0.38, 0.30), (0.62, 0.30), (0.95, 0.05), (0.97, 0.52),
                               (0.5, 1.0), (0.03, 0.52)]),
        ("polygon", "ink", [(0.11, 0.15), (0.28, 0.31), (0.13, 0.42)]),
        ("polygon", "ink", [(0.89, 0.15), (0.72, 0.31), (0.87, 0.42)]),
        ("polygon", "body", [(0.03, 0.52), (0.36, 0.60), (0.5, 0.92), (0.5, 1.0)]),
        ("polygon", "body", [(0.97, 0.52), (0.64, 0.60), (0.5, 0.92), (0.5, 1.0)]),
        ("ellipse", "ink", [(0.28, 0.46), (0.37, 0.55)]),
        ("ellipse", "ink", [(0.63, 0.46), (0.72, 0.55)]),
        ("ellipse", "ink", [(0.43, 0.87), (0.57, 1.0)]),
    ],
    "boat": [
        ("polygon", "ink", [(0.48, 0.0), (0.48, 0.66), (0.08, 0.66)]),
        ("polygon", "accent", [(0.54, 0.12), (0.54, 0.66), (0.90, 0.66)]),
        ("polygon", "ink", [(0.02, 0.72), (0.98, 0.72), (0.80, 0.96), (0.18, 0.96)]),
    ],
    "pine": [
        ("polygon", "accent", [(0.45, 0.8), (0.55, 0.8), (0.55, 1.0), (0.45, 1.0)]),
        ("polygon", "ink", [(0.5, 0.0), (0.70, 0.34), (0.30, 0.34)]),
        ("polygon", "ink", [(0.5, 0.18), (0.79, 0.60), (0.21, 0.60)]),
        ("polygon", "ink", [(0.5, 0.38), (0.88, 0.86), (0.12, 0.86)]),
    ],
    "cat": [
        ("polygon", "ink", [(0.12, 0.02), (0.40, 0.24), (0.60, 0.24), (0.88, 0.02), (0.94, 0.60),
                            (0.70, 0.94), (0.30, 0.94), (0.06, 0.60)]),
        ("ellipse", "accent", [(0.24, 0.42), (0.42, 0.58)]),
        ("ellipse", "accent", [(0.58, 0.42), (0.76, 0.58)]),
        ("polygon", "body", [(0.43, 0.68), (0.57, 0.68), (0.5, 0.77)]),
    ],
    "sun": [("rays", "accent", [(0.0, 0.0), (1.0, 1.0)]), ("ellipse", "ink", [(0.24, 0.24), (0.76, 0.76)])],
    "leaf": [
        ("polygon", "ink", [(0.5, 0.0), (0.76, 0.22), (0.84, 0.50), (0.70, 0.78), (0.5, 0.94), (0.30, 0.78),
                            (0.16, 0.50), (0.24, 0.22)]),
        ("line", "body", [(0.5, 0.12), (0.5, 1.0)]),
        ("line", "body", [(0.28, 0.36), (0.5, 0.54), (0.72, 0.36)]),
        ("line", "body", [(0.28, 0.58), (0.5, 0.76), (0.72, 0.58)]),
    ],
    "drop": [
        ("polygon", "ink", [(0.5, 0.0), (0.80, 0.52), (0.20, 0.52)]),
        ("ellipse", "ink", [(0.165, 0.32), (0.835, 0.99)]),
        ("ellipse", "accent", [(0.34, 0.56), (0.54, 0.80)]),
    ],
    "tomato": [
        ("ellipse", "fruit:#c8321f", [(0.02, 0.16), (0.98, 0.98)]),
        ("ellipse", "fruit:#e2664a", [(0.16, 0.30), (0.36, 0.52)]),
        ("polygon", "fruit:#3d6b2c", [(0.5, 0.02), (0.58, 0.16), (0.84, 0.16), (0.62, 0.27), (0.66, 0.44),
                                      (0.5, 0.32), (0.34, 0.44), (0.38, 0.27), (0.16, 0.16), (0.42, 0.16)]),
    ],
    "fish": [
        ("polygon", "fruit:#54748a", [(0.70, 0.5), (1.0, 0.22), (0.95, 0.5), (1.0, 0.78)]),
        ("ellipse", "fruit:#54748a", [(0.0, 0.24), (0.82, 0.76)]),
        ("chord", "fruit:#b9c7cc", [(0.0, 0.24), (0.82, 0.76)]),
        ("ellipse", "fruit:#14191d", [(0.12, 0.41), (0.20, 0.49)]),
    ],
    "pear": [
        ("ellipse", "fruit:#b5b23c", [(0.14, 0.42), (0.86, 1.0)]),
        ("ellipse", "fruit:#b5b23c", [(0.29, 0.14), (0.71, 0.66)]),
        ("ellipse", "fruit:#d3d06a", [(0.28, 0.58), (0.44, 0.78)]),
        ("line", "fruit:#5a3d22", [(0.5, 0.17), (0.56, 0.0)]),
    ],
    "pea": [
        ("ellipse", "fruit:#3f7a35", [(0.0, 0.30), (1.0, 0.70)]),
        ("ellipse", "fruit:#8cc152", [(0.10, 0.39), (0.32, 0.61)]),
        ("ellipse", "fruit:#8cc152", [(0.39, 0.38), (0.63, 0.62)]),
        ("ellipse", "fruit:#8cc152", [(0.70, 0.39), (0.92, 0.61)]),
    ],
    "pepper": [
        ("ellipse", "fruit:#d9892a", [(0.06, 0.20), (0.56, 0.98)]),
        ("ellipse", "fruit:#d9892a", [(0.44, 0.20), (0.94, 0.98)]),
        ("ellipse", "fruit:#e5a24c", [(0.27, 0.18), (0.73, 0.98)]),
        ("line", "fruit:#3d6b2c", [(0.5, 0.24), (0.55, 0.0)]),
    ],
}  # fmt: skip


class Sleeve:
    """A canvas whose coordinates are fractions of its width and height, with the colours of a design."""

    def __init__(self, design: Design, around: float, height: float, font: Path):
        scale = PIXELS_PER_METRE * OVERSAMPLE
        self.design, self.font = design, font
        self.width, self.height = round(around * scale), round(height * scale)
        self.image = Image.new("RGB", (self.width, self.height), design.body)
        self.draw = ImageDraw.Draw(self.image)

    def colour(self, role: str) -> str:
        return role.removeprefix("fruit:") if role.startswith("fruit:") else getattr(self.design, role)

    def box(self, x0: float, y0: float, x1: float, y1: float, role: str) -> None:
        corners = (x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height)
        self.draw.rectangle(corners, fill=self.colour(role))

    def motif(self, name: str, x: float, y: float, size: float) -> None:
        """Draws a motif centred at (x, y); `size` is its side as a fraction of the sleeve's height."""
        side = size * self.height
        left, top = x * self.width - side / 2, y * self.height - side / 2
        for shape, role, points in MOTIFS[name]:
            at = [(left + px * side, top + py * side) for px, py in points]
            fill = self.colour(role)
            if shape == "polygon":
                self.draw.polygon(at, fill=fill)
            elif shape == "ellipse":
                self.draw.ellipse([*at[0], *at[1]], fill=fill)
            elif shape == "chord":
                self.draw.chord([*at[0], *at[1]], 20, 160, fill=fill)
            elif shape == "line":
                self.draw.line(at, fill=fill, width=max(1, round(0.045 * side)), joint="curve")
            else:
                self._rays(at, fill)

    def _rays(self, corners: list[tuple[float, float]], fill: str) -> None:
        (x0, y0), (x1, y1) = corners
        cx, cy, radius = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2
        for k in range(12):
            tip, half = k * math.pi / 6, 0.17
            reach = [(tip - half, 0.62), (tip, 1.0), (tip + half, 0.62)]
            ray = [(cx + radius * d * math.cos(a), cy + radius * d * math.sin(a)) for a, d in reach]
            self.draw.polygon(ray, fill=fill)

    def text(self, words: str, x: float, y: float, width: float, height: float, role: str, weight: int) -> None:
        """Writes centred words as large as fits into a box given in fractions of the sleeve."""
        font = ImageFont.truetype(str(self.font), 200)
        font.set_variation_by_axes([14, weight])  # Inter's axes: optical size, weight
        left, top, right, bottom = font.getbbox(words)
        fit = min(width * self.width / (right - left), height * self.height / (bottom - top))
        font = font.font_variant(size=max(6, int(200 * fit)))
        font.set_variation_by_axes([14, weight])
        self.draw.text((x * self.width, y * self.height), words, self.colour(role), font, anchor="mm")

    def small_print(self, x0: float, x1: float, y0: float, y1: float, role: str) -> None:
        """Draws the back of a label: greeked lines of text above a bar code on white."""
        rng = random.Random(self.design.name)
        lines = 9
        for k in range(lines):
            y = y0 + (y1 - y0) * 0.6 * k / lines
            self.box(x0, y, x1 - (x1 - x0) * rng.uniform(0, 0.3), y + (y1 - y0) * 0.028, role)
        code_top = y0 + (y1 - y0) * 0.68
        self.box(x0, code_top, x1, y1, "fruit:#efece4")
        x, step = x0 + 0.012, (x1 - x0) / 70
        while x < x1 - 0.012:
            bar = step * rng.choice((0.5, 1.0, 1.6))
            self.box(x, code_top + 0.02, x + bar, y1 - 0.02, "fruit:#1b1b1b")
            x += bar + step * rng.choice((0.6, 1.1, 1.8))

    def finished(self) -> Image.Image:
        return self.image.resize((self.width // OVERSAMPLE, self.height // OVERSAMPLE), Image.Resampling.LANCZOS)


def draw_print(design: Design, around: float, height: float, font: Path) -> Image.Image:
    sleeve = Sleeve(design, around, height, font)
    {"mug": _mug, "bottle": _bottle, "screwdriver": _screwdriver, "tin": _tin}[design.category](sleeve)
    return sleeve.finished()


def _mug(sleeve: Sleeve) -> None:
    design = sleeve.design
    sleeve.motif(design.motif, 0.5, 0.41, 0.50)
    sleeve.text(design.words, 0.5, 0.76, 0.27, 0.10, "ink", 600)
    for x in (0.0, 1.0):  # a small print at the back, across the seam
        sleeve.motif(design.motif, x, 0.46, 0.34)
    # A border around the foot or the lip tells instances apart from the side, where no print shows.
    y = 0.90 if design.proportions[4] > 0 else 0.07
    if design.proportions[5] > 0:
        sleeve.box(0, y, 1, y + 0.045, "accent")
    else:
        for k in range(24):
            x = (k + 0.5) / 24
            sleeve.motif("sun", x, y + 0.02, 0.07)


def _bottle(sleeve: Sleeve) -> None:
    design = sleeve.design
    sleeve.text(design.brand, 0.5, 0.13, 0.30, 0.09, "ink", 800)
    sleeve.box(0.38, 0.205, 0.62, 0.215, "accent")
    sleeve.motif(design.motif, 0.5, 0.44, 0.32)
    sleeve.text(design.words, 0.5, 0.70, 0.28, 0.08, "ink", 500)
    sleeve.box(0.0, 0.82, 1.0, 0.93, "accent")
    sleeve.text("250 ml", 0.5, 0.875, 0.2, 0.05, "body", 700)
    sleeve.small_print(0.05, 0.22, 0.12, 0.76, "ink")
    sleeve.motif(design.motif, 0.865, 0.30, 0.20)
    sleeve.text(design.words, 0.865, 0.52, 0.17, 0.06, "ink", 500)


def _screwdriver(sleeve: Sleeve) -> None:
    """The handle has soft stripes in the grooves of the grip, and words along the axis on the front lobe."""
    design = sleeve.design
    for k in range(6):
        x = (k + 0.5) / 6
        sleeve.box(x - 0.036, 0.24, x + 0.036, 1.0, "trim")
    sleeve.box(0, 0.20, 1, 0.24, "accent")
    along = Sleeve(design, 0.76 * sleeve.height / PIXELS_PER_METRE / OVERSAMPLE, 0.0115, sleeve.font)
    along.text(design.brand, 0.40, 0.5, 0.50, 0.62, "ink", 800)
    along.text(design.words, 0.83, 0.5, 0.22, 0.52, "ink", 600)
    lobe = along.image.rotate(90, expand=True)
    sleeve.image.paste(lobe, (round(0.5 * sleeve.width - lobe.width / 2), round(0.24 * sleeve.height)))


def _tin(sleeve: Sleeve) -> None:
    design = sleeve.design
    sleeve.box(0, 0, 1, 0.30, "trim")
    sleeve.box(0, 0.30, 1, 0.325, "accent")
    sleeve.text(design.brand, 0.5, 0.15, 0.30, 0.14, "body", 800)
    sleeve.motif(design.motif, 0.5, 0.55, 0.36)
    sleeve.box(0.33, 0.775, 0.67, 0.915, "accent")
    sleeve.text(design.words, 0.5, 0.845, 0.26, 0.09, "body", 800)
    sleeve.small_print(0.05, 0.22, 0.40, 0.92, "ink")
    sleeve.motif(design.motif, 0.865, 0.54, 0.24)
    sleeve.text(design.words, 0.865, 0.80, 0.17, 0.07, "ink", 700)
