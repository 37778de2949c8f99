"""Renders a small dataset of look-alike products in the layout of PODS, with exact masks.

Blender comes as a PyPI wheel that needs Python 3.11 and numpy 1, so it gets a separate virtual environment:

    python3.11 -m venv .venv-render
    .venv-render/bin/pip install 'bpy==5.0.1' 'numpy<2' pillow
    .venv-render/bin/python tools/render_mini_pods.py --out examples/mini_pods

Every photo depends only on (seed, object, split, index), so the script can stop and resume, and any part that is
rendered alone comes out the same. Existing photos are kept; delete a photo to render it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mini_pods.catalogue import Design
    from PIL import Image

TEST_SPLITS = ("in_distribution", "pose", "distractors", "pose_and_distractors")


@dataclass(frozen=True)
class Shot:
    """A photo to take: `index` counts within its split, `stem` names the file."""

    name: str
    split: str
    index: int
    folder: str
    stem: str

    def photo(self, out: Path) -> Path:
        return out / self.folder / self.name / f"{self.stem}.jpg"

    def mask(self, out: Path) -> Path:
        return out / f"{self.folder}_masks" / self.name / f"{self.stem}.png"


def shots_of(name: str, train: int, per_split: int) -> list[Shot]:
    shots = [Shot(name, "train", i, "train", f"{i:02d}") for i in range(train)]
    for s, split in enumerate(TEST_SPLITS):
        shots += [Shot(name, split, i, "test", f"{s * per_split + i:02d}") for i in range(per_split)]
    return shots


def write_annotations(out: Path, categories: dict[str, str], shots: list[Shot]) -> None:
    """Writes the two tables of the reference layout: the classes, and the split of every test photo."""
    names = list(categories)
    info = {
        "classes": names,
        "class_to_idx": {name: i for i, name in enumerate(names)},
        "class_to_sc": categories,
        "class_to_split": dict.fromkeys(names, "test"),
    }
    splits = {
        f"{s.name}/{s.stem}.jpg": {"class": s.name, "split": "test", "test_split": s.split}
        for s in shots
        if s.folder == "test"
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "mini_pods_info.json").write_text(json.dumps(info, indent=1) + "\n")
    (out / "pods_image_annos.json").write_text(json.dumps(splits, indent=1) + "\n")


def save_atomically(image: Image.Image, path: Path, **options: object) -> None:
    """Writes under a temporary name first, so that an interrupted run leaves no half-written file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG" if path.suffix == ".png" else "JPEG", **options)
    partial.replace(path)


def render_shot(shot: Shot, designs: dict[str, Design], options: argparse.Namespace) -> None:
    from mini_pods import layout, scene

    key = f"{options.seed}/{shot.name}/{shot.split}/{shot.index}"
    placed = layout.find_layout(shot.name, shot.split, shot.index, designs, key)
    noise_seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    with tempfile.TemporaryDirectory() as folder:
        scene.build_scene(placed, random.Random(f"{key}/room"), options.size)
        photo = scene.render_photo(Path(folder), options.samples, noise_seed)
        mask = scene.render_mask(Path(folder))
        # The photo is written last: where it exists, the mask exists too.
        save_atomically(mask, shot.mask(options.out), compress_level=9)
        save_atomically(photo, shot.photo(options.out), quality=options.quality, optimize=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("examples/mini_pods"), help="the dataset's folder (%(default)s)"
    )
    parser.add_argument("--size", type=int, default=320, help="side of the square photos, pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="each seed gives a different dataset (%(default)s)")
    parser.add_argument(
        "--samples", type=int, default=12, help="Cycles samples per pixel before denoising (%(default)s)"
    )
    parser.add_argument("--quality", type=int, default=88, help="JPEG quality (%(default)s)")
    parser.add_argument("--objects-per-category", type=int, default=4, help="from 2 to 36 (%(default)s)")
    parser.add_argument("--train", type=int, default=3, help="training photos per object (%(default)s)")
    parser.add_argument(
        "--test-per-split",
        type=int,
        default=3,
        help="photos per object in each of the 4 test splits (%(default)s)",
    )
    parser.add_argument("--only", nargs="+", metavar="OBJECT", help="render only these objects, such as mug_0")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    from mini_pods.catalogue import make_catalogue

    designs = {design.name: design for design in make_catalogue(options.objects_per_category, options.seed)}
    unknown = sorted(set(options.only or ()) - set(designs))
    if unknown:
        raise SystemExit(f"there is no object {', '.join(unknown)}; the objects are {', '.join(designs)}")
    shots = [shot for name in designs for shot in shots_of(name, options.train, options.test_per_split)]
    write_annotations(options.out, {name: design.category for name, design in designs.items()}, shots)

    todo = [shot for shot in shots if not options.only or shot.name in options.only]
    todo = [shot for shot in todo if not (shot.photo(options.out).exists() and shot.mask(options.out).exists())]
    todo.sort(key=lambda shot: shot.folder != "train")  # a half-finished dataset can at least be trained on
    start = time.monotonic()
    for done, shot in enumerate(todo, 1):
        render_shot(shot, designs, options)
        spent = time.monotonic() - start
        left = spent / done * (len(todo) - done)
        pace = f"{spent / done:.1f} s per photo, {left / 60:.0f} min left"
        print(f"{done}/{len(todo)} {shot.photo(options.out)} {pace}", flush=True)


if __name__ == "__main__":
    main()
