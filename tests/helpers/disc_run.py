"""A run folder with everything that training the object `red` needs: photos of coloured discs, masks and shards."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from helpers.discs import manifest_of, save_discs
from helpers.tiny import COLOURS, shape
from helpers.vits import save as save_vit

from persrep_ray.config import RunConfig, load_config
from persrep_ray.data.images import encode_png_mask, read_mask
from persrep_ray.data.objects import Manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.schedule import chunks
from persrep_ray.generate.shards import write_shard
from persrep_ray.generate.types import Role, SyntheticImage
from persrep_ray.storage.store import open_store


class DiscRun(NamedTuple):
    config: RunConfig
    manifest: Manifest
    folder: RunFolder


def disc_run(root: Path) -> DiscRun:
    """The masks of each object took 0.5 s, and each shard 0.25 s."""
    save_discs(root / "objects")
    save_vit("dinov2", root / "vit")
    config = load_config("debug", [f"backbone.name={root / 'vit'}"])
    manifest, folder = manifest_of(root / "objects"), RunFolder(open_store(root / "out"))
    for object_id, photos in manifest.objects.items():
        masks = [photo.mask and encode_png_mask(read_mask(photo.mask, config.data)) for photo in photos.train]
        folder.write_masks(object_id, masks, {"seconds": 0.5, "problems": []})
    for chunk in chunks("red", config):
        write_shard(folder, chunk, [_synthetic(chunk.role, index) for index in chunk.indices], {"seconds": 0.25})
    return DiscRun(config, manifest, folder)


def _synthetic(role: Role, index: int) -> SyntheticImage:
    source = "red" if role == "positive" else "blue"
    image, mask = shape(COLOURS[source], seed=100 + index)
    return SyntheticImage("red", role, "cut_paste", None, index, None, source, 0, image, mask)
