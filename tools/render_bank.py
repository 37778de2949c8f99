"""Renders the bank of generic negatives: everyday things of many categories, which comes with the package.

It needs the virtual environment of `render_mini_pods.py`:

    .venv-render/bin/python tools/render_bank.py --work runs/bank --out persrep_ray/data/bank.zip

A photo depends only on (seed, thing, index), so the script can stop and resume: photos that are in the work folder are
kept. A photo is a WebP image whose alpha channel is the mask of the thing; the colours around it are kept, too.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
import zipfile
from pathlib import Path

LICENSE = "Rendered by tools/render_bank.py of persrep-ray. Apache-2.0, as the rest of the package.\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same photos give the same file


def render(category: str, number: int, index: int, options: argparse.Namespace, path: Path) -> None:
    from bank import studio, things
    from mini_pods import scene
    from PIL import Image

    look, body = things.make_thing(category, number, options.seed)
    key = f"{options.seed}/{look.name}/{index}"
    layout = studio.compose(look, body, index, random.Random(key))
    with tempfile.TemporaryDirectory() as folder:
        scene.build_scene(layout, random.Random(f"{key}/room"), options.size, studio.material)
        noise_seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        photo = scene.render_photo(Path(folder), options.samples, noise_seed)
        photo.putalpha(scene.render_mask(Path(folder)))
    partial = path.with_suffix(".partial")
    photo.save(partial, format="WEBP", quality=options.quality, method=6, exact=True)
    with Image.open(partial) as saved:  # a thing that fills too little or all of its photo is a mistake of its shape
        share = sum(saved.getchannel("A").histogram()[128:]) / options.size**2
    if not 0.03 < share < 0.9:
        print(f"{path.stem}: the thing covers {share:.0%} of its photo", flush=True)
    partial.replace(path)


def pack(work: Path, out: Path) -> None:
    """Packs all photos into one file. They are compressed already, so they are stored as they are."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bank:
        bank.writestr(zipfile.ZipInfo("LICENSE", EPOCH), LICENSE)
        for path in sorted(work.glob("*.webp")):
            bank.writestr(zipfile.ZipInfo(path.name, EPOCH), path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder of single photos")
    parser.add_argument("--out", type=Path, default=Path("persrep_ray/data/bank.zip"), help="(%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="side of the square photos, pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="each seed gives other things (%(default)s)")
    parser.add_argument("--samples", type=int, default=6, help="Cycles samples per pixel (%(default)s)")
    parser.add_argument("--quality", type=int, default=82, help="WebP quality (%(default)s)")
    parser.add_argument("--things", type=int, default=2, help="things per category (%(default)s)")
    parser.add_argument("--photos", type=int, default=2, help="photos per thing (%(default)s)")
    options = parser.parse_args()
    from bank.things import CATEGORIES

    options.work.mkdir(parents=True, exist_ok=True)
    shots = [  # in an order that covers all things early
        (category, number, index)
        for index in range(options.photos)
        for number in range(options.things)
        for category in CATEGORIES
    ]
    start = time.monotonic()
    for done, (category, number, index) in enumerate(shots, 1):
        path = options.work / f"{category}_{number}-{index}.webp"
        if not path.exists():
            render(category, number, index, options, path)
            print(f"{done}/{len(shots)} {path.name} {time.monotonic() - start:.0f} s", flush=True)
    pack(options.work, options.out)


if __name__ == "__main__":
    main()
