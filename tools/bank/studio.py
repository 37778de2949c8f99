"""How a thing of the bank is covered, and how the camera sees it."""

from __future__ import annotations

import math
import random
import string

import bpy
import numpy as np
from mathutils import Vector
from mini_pods.layout import FOCAL, SENSOR, Layout, Placed, View, camera_at, in_frame, settle
from mini_pods.materials import STEELS, Shader, cloth, data_path, linear, wood
from mini_pods.shapes import Body
from PIL import Image, ImageDraw, ImageFont

from .things import Look

FINISHES: dict[str, dict[str, float]] = {
    "glossy": {"Roughness": 0.2, "Coat_Weight": 0.5, "Coat_Roughness": 0.05},
    "satin": {"Roughness": 0.42},
    "matte": {"Roughness": 0.85},
    "metal": {"Roughness": 0.3, "Metallic": 1.0},
    "cloth": {"Roughness": 0.95, "Sheen_Weight": 0.4, "Specular_IOR_Level": 0.1},
    "wood": {"Roughness": 0.5},
}
FIXED = {"leaf": "#3f6b35", "paper": "#ece7da", "dark": "#17181a", "screen": "#22303a"}
PIXELS = 384  # of a print, along its longer side


def material(surface: str, look: Look, body: Body) -> bpy.types.Material:
    """The material of a surface; the body of a wooden or woven thing has a grain."""
    rng = random.Random(f"{look.seed}/{surface}")
    if surface == "steel":
        return Shader(surface, **STEELS["steel"]).material
    if surface in FIXED:
        return Shader(
            surface, Base_Color=linear(FIXED[surface]), Roughness=0.12 if surface == "screen" else 0.6
        ).material
    if look.finish == "wood" and surface == "trim":
        return wood(rng)
    if look.finish == "cloth" and surface == "body" and rng.random() < 0.5:
        return cloth(rng)
    finish = FINISHES[look.finish]
    if surface != "print":
        return Shader(surface, Base_Color=linear(look.colours[surface]), **finish).material
    shader = Shader(surface, **finish)
    around, bottom, top = body.print_area
    cover = draw_print(look, around, top - bottom).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = bpy.data.images.new(look.name, *cover.size)
    pixels = np.ones((cover.height, cover.width, 4), np.float32)
    pixels[..., :3] = np.asarray(cover, np.float32) / 255
    image.pixels.foreach_set(pixels.ravel())
    image.pack()
    texture = shader.add("ShaderNodeTexImage")
    texture.image, texture.extension = image, "EXTEND"
    shader.colour_from(texture)
    return shader.material


def draw_print(look: Look, width: float, height: float) -> Image.Image:
    """A print of random shapes and words; `width` and `height` give its aspect ratio."""
    rng = random.Random(look.seed)
    scale = PIXELS / max(width, height)
    w, h = max(32, round(width * scale)), max(32, round(height * scale))
    image = Image.new("RGB", (w, h), look.colours["body"])
    draw = ImageDraw.Draw(image)

    def colour() -> str:
        return look.colours[rng.choice(("ink", "accent", "trim"))]

    kind = rng.choice(("plain", "bands", "stripes", "dots", "block"))
    if kind == "bands":
        for _ in range(rng.randint(1, 3)):
            y = rng.uniform(0, 0.95) * h
            draw.rectangle((0, y, w, y + rng.uniform(0.02, 0.2) * h), fill=colour())
    elif kind == "stripes":
        count, ink = rng.randint(5, 16), colour()
        for k in range(count):
            draw.rectangle((k * w / count, 0, (k + 0.5) * w / count, h), fill=ink)
    elif kind == "dots":
        step, ink = rng.uniform(0.08, 0.2) * h, colour()
        for row in range(int(h / step) + 1):
            for column in range(int(w / step) + 1):
                x, y, r = (column + 0.5 * (row % 2)) * step, row * step, 0.25 * step
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif kind == "block":
        y = rng.uniform(0.2, 0.7) * h
        draw.rectangle((0, y, w, h), fill=colour())
    centres = [0.5] if w < 1.5 * h else [0.5, 0.0, 1.0]
    side, sign, ink = rng.uniform(0.25, 0.6) * min(h, 0.9 * w), rng.randint(3, 9), colour()
    where, turn, inner = rng.uniform(0.3, 0.6) * h, rng.uniform(0, 6.28), rng.choice((0.45, 0.7, 1.0))
    words = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(3, 8)))
    font = ImageFont.truetype(
        str(data_path("fonts") / "Inter.woff2"), max(8, round(rng.uniform(0.08, 0.2) * min(w, h)))
    )
    text_y, text_ink = rng.choice((0.1, 0.85)) * h, colour()
    for centre in centres:
        points = []
        for k in range(2 * sign):
            angle, reach = turn + math.pi * k / sign, 0.5 * side * (1.0 if k % 2 else inner)
            points.append((centre * w + reach * math.cos(angle), where + reach * math.sin(angle)))
        draw.polygon(points, fill=ink)
        draw.text((centre * w, text_y), words, text_ink, font, anchor="mm")
    return image


def compose(look: Look, body: Body, index: int, rng: random.Random) -> Layout:
    """The thing alone, large in the photo: upright in its first photo, anyhow in the next ones."""
    upright = index == 0 or rng.random() < 0.6
    down = (0.0, 0.0, -1.0) if upright else (rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(-1, 0.4))
    view = View(down, rng.uniform(-50, 50) if index == 0 else rng.uniform(-180, 180), rng.uniform(8, 45))
    placed = Placed(look, body, settle(body, view.down, view.yaw))
    points = [placed.matrix @ Vector(vertex) for vertex in body.vertices]
    aim = Vector([(min(p[k] for p in points) + max(p[k] for p in points)) / 2 for k in range(3)])
    aim += Vector((rng.gauss(0, 0.004), 0, rng.gauss(0, 0.003)))
    reach = max((point - aim).length for point in points)
    distance, roll = reach * FOCAL / SENSOR, rng.gauss(0, 2)
    while not in_frame(placed, camera_at(aim, view.elevation, distance, roll), 0.04):
        distance *= 1.03
    distance *= rng.uniform(1.0, 1.35)
    return Layout(placed, [], camera_at(aim, view.elevation, distance, roll), distance)
