"""From a layout to a photo and its mask: the room, the light, and the two Cycles renders."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from PIL import Image

from .layout import FOCAL, SENSOR, Layout, Placed
from .materials import (
    Shader,
    cloth,
    concrete,
    data_path,
    laminate,
    masonry,
    object_material,
    plaster,
    stone,
    wood,
)
from .shapes import Body

HDRIS = ("city", "courtyard", "forest", "interior", "studio", "sunrise", "sunset")
MIDDLE_GREY = 0.26  # the exposure brings a photo's typical luminance here ...
HIGHLIGHT = 2.5  # ... unless its bright end would then exceed this
WHITE_LEVEL, MOST_LIFT = 240.0, 1.3  # auto levels lift the bright end to this level, at most by this factor
WHITE_BALANCE = 0.2  # how much of a photo's overall tint is taken away
TARGET_INDEX = 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards the progress that Blender writes straight to the standard output of the process."""
    saved, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)


Cover = Callable[[str, Any, Body], bpy.types.Material]  # (surface, design, body) -> material


def add_object(placed: Placed, index: int, cover: Cover) -> None:
    body = placed.body
    mesh = bpy.data.meshes.new(placed.design.name)
    mesh.from_pydata(body.vertices, [], body.faces)
    mesh.uv_layers.new().data.foreach_set(
        "uv", np.asarray([c for face in body.uvs for uv in face for c in uv], np.float32)
    )
    surfaces = sorted(set(body.surfaces))
    for surface in surfaces:
        mesh.materials.append(cover(surface, placed.design, body))
    mesh.polygons.foreach_set("material_index", [surfaces.index(surface) for surface in body.surfaces])
    mesh.shade_smooth()
    item = bpy.data.objects.new(placed.design.name, mesh)
    item.matrix_world, item.pass_index = placed.matrix, index
    # Flat walls keep their own normals and only the fillets bend the light.
    item.modifiers.new("normals", "WEIGHTED_NORMAL").weight = 90
    bpy.context.collection.objects.link(item)


def add_plane(
    size: float,
    location: tuple[float, float, float],
    rotation: tuple[float, float, float],
    material: bpy.types.Material,
) -> None:
    half = size / 2
    mesh = bpy.data.meshes.new("plane")
    mesh.from_pydata([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)], [], [(0, 1, 2, 3)])
    mesh.materials.append(material)
    plane = bpy.data.objects.new("plane", mesh)
    plane.location, plane.rotation_euler = location, rotation
    bpy.context.collection.objects.link(plane)


def add_room(layout: Layout, rng: random.Random) -> None:
    table = rng.choices((wood, stone, concrete, cloth, laminate), (5, 2, 2, 2, 2))[0](rng)
    wall = rng.choices((plaster, masonry, wood), (5, 4, 1))[0](rng)
    things = [layout.target, *layout.distractors]
    deepest = max((placed.matrix @ Vector(v)).y for placed in things for v in placed.body.vertices)
    add_plane(6, (0, 0, 0), (0, 0, 0), table)
    add_plane(
        6,
        (0, deepest + rng.uniform(0.18, 0.55), 0),
        (math.pi / 2, 0, math.radians(rng.uniform(-14, 14))),
        wall,
    )


def add_light(rng: random.Random) -> None:
    world = bpy.data.worlds.new("world")
    bpy.context.scene.world = world
    # A coarse importance map finds the same windows and suns at a fraction of the set-up time.
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 256
    tree = world.node_tree
    background = tree.nodes["Background"]
    background.inputs["Strength"].default_value = rng.uniform(0.35, 0.8)
    environment = tree.nodes.new("ShaderNodeTexEnvironment")
    environment.image = bpy.data.images.load(str(data_path("studiolights/world") / f"{rng.choice(HDRIS)}.exr"))
    mapping, source = tree.nodes.new("ShaderNodeMapping"), tree.nodes.new("ShaderNodeTexCoord")
    mapping.inputs["Rotation"].default_value = (0, 0, rng.uniform(0, 2 * math.pi))
    tree.links.new(source.outputs["Generated"], mapping.inputs["Vector"])
    tree.links.new(mapping.outputs["Vector"], environment.inputs["Vector"])
    tree.links.new(environment.outputs["Color"], background.inputs["Color"])
    side = rng.choice((-1, 1))
    add_lamp(rng, side * rng.uniform(15, 75), rng.uniform(35, 65), rng.uniform(12, 28))
    if rng.random() < 0.6:
        add_lamp(rng, -side * rng.uniform(30, 90), rng.uniform(25, 60), rng.uniform(2, 5))


def add_lamp(rng: random.Random, azimuth: float, elevation: float, watts: float) -> None:
    """A soft box one metre from the target, `azimuth` degrees to the right of the camera."""
    light = bpy.data.lights.new("lamp", "AREA")
    light.energy, light.size = watts, rng.uniform(0.25, 0.6)
    warmth = rng.uniform(-0.12, 0.12)
    light.color = (1 + warmth, 1, 1 - warmth)
    lamp = bpy.data.objects.new("lamp", light)
    a, e = math.radians(azimuth), math.radians(elevation)
    lamp.location = (math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e))
    lamp.rotation_euler = (math.pi / 2 - e, 0, a)
    bpy.context.collection.objects.link(lamp)


def add_camera(layout: Layout, rng: random.Random) -> None:
    camera = bpy.data.cameras.new("camera")
    camera.lens, camera.sensor_width = FOCAL, SENSOR
    camera.clip_start = 0.01
    camera.dof.use_dof, camera.dof.aperture_fstop = True, rng.uniform(8, 18)
    camera.dof.focus_distance = layout.distance
    item = bpy.data.objects.new("camera", camera)
    item.matrix_world = layout.camera
    bpy.context.collection.objects.link(item)
    bpy.context.scene.camera = item


def build_scene(layout: Layout, rng: random.Random, size: int, cover: Cover = object_material) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.use_persistent_data = False
    add_object(layout.target, TARGET_INDEX, cover)
    for placed in layout.distractors:
        add_object(placed, 0, cover)
    add_room(layout, rng)
    add_light(rng)
    add_camera(layout, rng)


def render_to(path: Path, file_format: str) -> None:
    render = bpy.context.scene.render
    render.image_settings.file_format = file_format
    render.filepath = str(path)
    with quiet():
        bpy.ops.render.render(write_still=True)


def render_photo(folder: Path, samples: int, noise_seed: int) -> Image.Image:
    """Renders linear light, then exposes and tones it as a camera would after metering."""
    scene, cycles = bpy.context.scene, bpy.context.scene.cycles
    size = scene.render.resolution_x
    cycles.samples, cycles.use_adaptive_sampling, cycles.seed = samples, False, noise_seed % 2**31
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_prefilter = "FAST"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 3, 3
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect, cycles.blur_glossy = 4.0, 0.5
    render_to(folder / "photo.exr", "OPEN_EXR")
    linear_image = bpy.data.images.load(str(folder / "photo.exr"))
    light = np.empty((size * size, 4), np.float32)
    linear_image.pixels.foreach_get(light.ravel())
    luminance_weights = np.asarray([0.2126, 0.7152, 0.0722], np.float32)
    tint = light[:, :3].mean(0) / (light[:, :3].mean(0) @ luminance_weights)
    light[:, :3] *= tint**-WHITE_BALANCE
    linear_image.pixels.foreach_set(light.ravel())
    luminance = light[:, :3] @ luminance_weights
    typical = float(np.exp(np.log(luminance + 1e-4).mean()))
    gain = min(MIDDLE_GREY / typical, HIGHLIGHT / float(np.percentile(luminance, 97)))
    scene.view_settings.view_transform, scene.view_settings.look = "AgX", "AgX - Punchy"
    scene.view_settings.exposure = math.log2(gain)
    scene.render.image_settings.file_format = "PNG"
    with quiet():
        linear_image.save_render(str(folder / "photo.png"), scene=scene)
    toned = np.asarray(Image.open(folder / "photo.png").convert("RGB"), np.float32)
    toned = toned * min(MOST_LIFT, WHITE_LEVEL / float(np.percentile(toned, 99.5)))
    grain = np.random.default_rng(noise_seed).normal(0, 1.3, toned.shape)
    return Image.fromarray(np.clip(toned + grain, 0, 255).round().astype(np.uint8))


def render_mask(folder: Path) -> Image.Image:
    """Renders again, with the target glowing and the rest black, with one sample through each pixel's centre."""
    scene = bpy.context.scene
    glow = Shader("mask").material
    tree = glow.node_tree
    index, emission = tree.nodes.new("ShaderNodeObjectInfo"), tree.nodes.new("ShaderNodeEmission")
    tree.links.new(index.outputs["Object Index"], emission.inputs["Strength"])
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(emission.outputs["Emission"], output.inputs["Surface"])
    emission.inputs["Color"].default_value = (1, 1, 1, 1)
    bpy.context.view_layer.material_override = glow
    scene.world = None
    scene.camera.data.dof.use_dof = False
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 1, False, 0
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.filter_width = 0.01
    scene.view_settings.view_transform, scene.view_settings.look = "Raw", "None"
    scene.view_settings.exposure = 0.0
    scene.render.image_settings.color_mode = "BW"
    render_to(folder / "mask.png", "PNG")
    return Image.open(folder / "mask.png").convert("L").point(lambda v: 255 if v > 127 else 0)
