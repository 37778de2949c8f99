"""Materials: shader graphs for the objects and for the tables and walls around them."""

from __future__ import annotations

import math
import random
from pathlib import Path

import bpy
import numpy as np
from PIL import Image

from .catalogue import Design
from .prints import draw_print
from .shapes import Body


def data_path(kind: str) -> Path:
    return Path(bpy.utils.system_resource("DATAFILES", path=kind))


def linear(colour: str, factor: float = 1.0) -> tuple[float, float, float, float]:
    """A '#rrggbb' colour as the linear values that shaders expect."""
    srgb = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    values = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
    red, green, blue = (factor * value for value in values)
    return red, green, blue, 1.0


class Shader:
    """A thin wrapper over a material's nodes, which adds nodes, sets their inputs and links sockets by name."""

    def __init__(self, name: str, **principled: object):
        self.material = bpy.data.materials.new(name)
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self.principled = self.add("ShaderNodeBsdfPrincipled", **principled)
        output = self.add("ShaderNodeOutputMaterial")
        self.link(self.principled, "BSDF", output, "Surface")

    def add(self, kind: str, **inputs: object) -> bpy.types.Node:
        node = self.tree.nodes.new(kind)
        for name, value in inputs.items():
            node.inputs[name.replace("_", " ")].default_value = value
        return node

    def link(self, source: bpy.types.Node, output: str, target: bpy.types.Node, name: str) -> None:
        self.tree.links.new(source.outputs[output], target.inputs[name])

    def ramp(self, source: bpy.types.Node, output: str, stops: list[tuple[float, tuple[float, ...]]]) -> bpy.types.Node:
        node = self.add("ShaderNodeValToRGB")
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, colour) in zip(elements, stops, strict=True):
            element.position, element.color = position, colour
        self.link(source, output, node, "Fac")
        return node

    def coordinates(self, scale: tuple[float, float, float], shift: float, turn: float = 0.0) -> bpy.types.Node:
        """Object coordinates in metres, scaled, turned about z and shifted to a random place."""
        source = self.add("ShaderNodeTexCoord")
        mapping = self.add(
            "ShaderNodeMapping",
            Location=(shift, 1.7 * shift, 0.6 * shift),
            Rotation=(0, 0, turn),
            Scale=scale,
        )
        self.link(source, "Object", mapping, "Vector")
        return mapping

    def noise(self, mapping: bpy.types.Node, scale: float, detail: float = 6, distortion: float = 0) -> bpy.types.Node:
        node = self.add("ShaderNodeTexNoise", Scale=scale, Detail=detail, Distortion=distortion)
        self.link(mapping, "Vector", node, "Vector")
        return node

    def colour_from(self, node: bpy.types.Node, output: str = "Color") -> None:
        self.link(node, output, self.principled, "Base Color")

    def multiply(self, first: bpy.types.Node, second: bpy.types.Node) -> None:
        """Makes the product of two nodes' colours the base colour."""
        mix = self.add("ShaderNodeMix")
        mix.data_type, mix.blend_type = "RGBA", "MULTIPLY"
        mix.inputs[0].default_value = 1.0  # by number, because the sockets of all data types share their names
        self.tree.links.new(first.outputs["Color"], mix.inputs[6])
        self.tree.links.new(second.outputs["Color"], mix.inputs[7])
        self.tree.links.new(mix.outputs[2], self.principled.inputs["Base Color"])

    def bump_from(self, node: bpy.types.Node, output: str, strength: float, metres: float) -> None:
        bump = self.add("ShaderNodeBump", Strength=strength, Distance=metres)
        self.link(node, output, bump, "Height")
        self.link(bump, "Normal", self.principled, "Normal")


FINISHES: dict[str, dict[str, float]] = {
    "mug": {"Roughness": 0.22, "Coat_Weight": 0.5, "Coat_Roughness": 0.05},
    "bottle": {"Roughness": 0.38, "Coat_Weight": 0.15, "Coat_Roughness": 0.15},
    "screwdriver": {"Roughness": 0.34, "Coat_Weight": 0.25, "Coat_Roughness": 0.12},
    "tin": {"Roughness": 0.48, "Coat_Weight": 0.12, "Coat_Roughness": 0.20},
}
STEELS = {
    "steel": {"Base_Color": (0.62, 0.62, 0.61, 1), "Metallic": 1.0, "Roughness": 0.26},
    "dark_steel": {"Base_Color": (0.16, 0.16, 0.17, 1), "Metallic": 1.0, "Roughness": 0.38},
}


def object_material(surface: str, design: Design, body: Body) -> bpy.types.Material:
    if surface in STEELS:
        return Shader(surface, **STEELS[surface]).material
    finish = FINISHES[design.category]
    if surface != "print":
        return Shader(surface, Base_Color=linear(getattr(design, surface)), **finish).material
    shader = Shader(surface, **finish)
    around, bottom, top = body.print_area
    sleeve = draw_print(design, around, top - bottom, data_path("fonts") / "Inter.woff2").transpose(
        Image.Transpose.FLIP_TOP_BOTTOM
    )
    image = bpy.data.images.new(design.name, *sleeve.size)
    pixels = np.ones((sleeve.height, sleeve.width, 4), np.float32)
    pixels[..., :3] = np.asarray(sleeve, np.float32) / 255
    image.pixels.foreach_set(pixels.ravel())
    image.pack()
    texture = shader.add("ShaderNodeTexImage")
    texture.image, texture.extension = image, "EXTEND"
    shader.colour_from(texture)
    return shader.material


WOODS = (
    ("#6b4527", "#8f6238", "#a97b4b"),
    ("#3c2618", "#5a3b25", "#6e4a30"),
    ("#b08a5c", "#c7a374", "#d8ba8e"),
)
STONES = (
    ("#c4c1bb", "#d9d6d0", "#a3a09b"),
    ("#4d4f52", "#606265", "#3d3f42"),
    ("#a89f92", "#bdb3a5", "#8f867a"),
)
PAINTS = ("#c9c3b6", "#8ea0a3", "#a8ab94", "#c7ab95", "#6f8087", "#d3cabb", "#936f5f", "#58655c", "#b9bcc0")
CLOTHS = ("#8a8f96", "#b7ab98", "#6d7a6c", "#9c6f5d", "#4f5d73", "#c9c2b4")


def wood(rng: random.Random) -> bpy.types.Material:
    dark, middle, light = (linear(c) for c in rng.choice(WOODS))
    shader = Shader("wood", Roughness=rng.uniform(0.32, 0.55))
    where = shader.coordinates((2.2, 24, 24), rng.uniform(0, 50), math.radians(rng.uniform(-25, 25)))
    grain = shader.noise(where, rng.uniform(2.0, 3.2), 6, 1.0)
    colour = shader.ramp(grain, "Fac", [(0.30, dark), (0.52, middle), (0.72, light)])
    planks = shader.add(
        "ShaderNodeTexBrick",
        Scale=1.0,
        Mortar_Size=0.0012,
        Brick_Width=0.9,
        Row_Height=rng.uniform(0.09, 0.16),
    )
    planks.inputs["Color1"].default_value, planks.inputs["Color2"].default_value = (
        (1, 1, 1, 1),
        (0.72, 0.72, 0.72, 1),
    )
    planks.inputs["Mortar"].default_value = (0.25, 0.22, 0.2, 1)
    mapping = shader.coordinates((1, 1, 1), rng.uniform(0, 5), math.radians(rng.uniform(-25, 25)))
    mapping.inputs["Rotation"].default_value = where.inputs["Rotation"].default_value
    shader.link(mapping, "Vector", planks, "Vector")
    shader.multiply(colour, planks)
    shader.bump_from(grain, "Fac", 0.25, 0.0006)
    return shader.material


def stone(rng: random.Random) -> bpy.types.Material:
    base, light, vein = (linear(c) for c in rng.choice(STONES))
    shader = Shader("stone", Roughness=rng.uniform(0.22, 0.5))
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 50))
    clouds = shader.noise(where, rng.uniform(12, 22), 8, rng.uniform(0.4, 1.0))
    shader.colour_from(shader.ramp(clouds, "Fac", [(0.36, vein), (0.45, base), (0.66, light)]))
    return shader.material


def concrete(rng: random.Random) -> bpy.types.Material:
    grey = rng.uniform(0.6, 1.1)
    shader = Shader("concrete", Roughness=rng.uniform(0.6, 0.85))
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 50))
    stains = shader.noise(where, 22, 6)
    shader.colour_from(shader.ramp(stains, "Fac", [(0.35, linear("#88847d", grey)), (0.7, linear("#a5a199", grey))]))
    shader.bump_from(shader.noise(where, 160, 2), "Fac", 0.25, 0.001)
    return shader.material


def cloth(rng: random.Random) -> bpy.types.Material:
    colour = rng.choice(CLOTHS)
    shader = Shader("cloth", Roughness=0.95, Sheen_Weight=0.25, Specular_IOR_Level=0.15)
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 50), rng.uniform(0, 3))
    weave = shader.noise(where, 420, 2)
    shader.colour_from(shader.ramp(weave, "Fac", [(0.3, linear(colour, 0.72)), (0.7, linear(colour, 1.05))]))
    shader.bump_from(shader.noise(where, 300, 1), "Fac", 0.5, 0.001)
    return shader.material


def laminate(rng: random.Random) -> bpy.types.Material:
    colour = rng.choice(PAINTS)
    shader = Shader("laminate", Roughness=rng.uniform(0.25, 0.5))
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 50))
    marks = shader.noise(where, 30, 2)
    shader.colour_from(shader.ramp(marks, "Fac", [(0.3, linear(colour, 0.93)), (0.7, linear(colour))]))
    return shader.material


def plaster(rng: random.Random) -> bpy.types.Material:
    colour = rng.choice(PAINTS)
    shader = Shader("plaster", Roughness=0.9)
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 50))
    stains = shader.noise(where, 5, 4)
    shader.colour_from(shader.ramp(stains, "Fac", [(0.35, linear(colour, 0.82)), (0.65, linear(colour))]))
    shader.bump_from(shader.noise(where, rng.uniform(25, 70), 3), "Fac", rng.uniform(0.15, 0.5), 0.004)
    return shader.material


def masonry(rng: random.Random) -> bpy.types.Material:
    """Bricks, or tiles laid without offset."""
    tiles = rng.random() < 0.4
    shader = Shader("masonry", Roughness=0.2 if tiles else 0.9)
    where = shader.coordinates((1, 1, 1), rng.uniform(0, 5))
    size = (0.10, 0.10, 0.003) if tiles else (0.21, 0.071, 0.009)
    bricks = shader.add("ShaderNodeTexBrick", Scale=1.0, Brick_Width=size[0], Row_Height=size[1], Mortar_Size=size[2])
    bricks.offset = 0.0 if tiles else 0.5
    first, second = (
        (rng.choice(PAINTS),) * 2
        if tiles
        else rng.choice((("#7d3f2c", "#9a5a42"), ("#b9b1a4", "#cfc8bb"), ("#5b4a44", "#77625a")))
    )
    bricks.inputs["Color1"].default_value = linear(first)
    bricks.inputs["Color2"].default_value = linear(second, 0.95)
    bricks.inputs["Mortar"].default_value = linear("#a09a90")
    shader.link(where, "Vector", bricks, "Vector")
    if tiles:
        shader.colour_from(bricks)
    else:
        grit = shader.ramp(shader.noise(where, 45, 4), "Fac", [(0.3, (0.6, 0.58, 0.56, 1)), (0.7, (1, 1, 1, 1))])
        shader.multiply(bricks, grit)
    shader.bump_from(bricks, "Fac", -0.6, 0.004)
    return shader.material
