"""Renders the bank of generic negatives: everyday things of many categories, which comes with the package.

It needs the virtual environment of `render_mini_pods.py`:

    .venv-render/bin/python tools/render_bank.py --out persrep_ray/data/bank

A photo depends only on (seed, thing, index), so the script can stop and resume: photos that exist are kept. The photo
`<category>_<thing>-<index>.webp` has its mask in a PNG of the same name.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from pathlib import Path

LICENSE = "These photos were rendered by tools/render_bank.py of persrep-ray. Apache-2.0, as the rest of the package.\n"


def render(category: str, number: int, index: int, options: argparse.Namespace, path: Path) -> None:
    from bank import studio, things
    from mini_pods import scene

    look, body = things.make_thing(category, number, options.seed)
    key = f"{options.seed}/{look.name}/{index}"
    layout = studio.compose(look, body, index, random.Random(key))
    with tempfile.TemporaryDirectory() as folder:
        scene.build_scene(layout, random.Random(f"{key}/room"), options.size, studio.material)
        noise_seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        photo = scene.render_photo(Path(folder), options.samples, noise_seed)
        mask = scene.render_mask(Path(folder)).convert("1")
    mask.save(path.with_suffix(".png"), optimize=True)
    partial = path.with_suffix(".partial")
    photo.save(partial, format="WEBP", quality=options.quality, method=6)
    partial.replace(path)  # the photo is written last: where it exists, the mask exists, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("persrep_ray/data/bank"), help="the folder (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="side of the square photos, pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="each seed gives other things (%(default)s)")
    parser.add_argument("--samples", type=int, default=6, help="Cycles samples per pixel (%(default)s)")
    parser.add_argument("--quality", type=int, default=82, help="WebP quality (%(default)s)")
    parser.add_argument("--things", type=int, default=2, help="things per category (%(default)s)")
    parser.add_argument("--photos", type=int, default=1, help="photos per thing (%(default)s)")
    options = parser.parse_args()
    from bank.things import CATEGORIES

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "LICENSE").write_text(LICENSE)
    shots = [  # in an order that covers all things early
        (category, number, index)
        for index in range(options.photos)
        for number in range(options.things)
        for category in CATEGORIES
    ]
    start = time.monotonic()
    for done, (category, number, index) in enumerate(shots, 1):
        path = options.out / f"{category}_{number}-{index}.webp"
        if not path.exists():
            render(category, number, index, options, path)
            print(f"{done}/{len(shots)} {path.name} {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
