"""The bank of generic negatives: photos of everyday things of many categories, with masks, that come with the package.

An object that has few other objects beside it is told apart from them. `tools/render_bank.py` made the photos. Half of
the things are for training. The rest is never trained on, so that it can check an adapter and normalise its scores.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Literal

from persrep_ray.data.objects import ObjectPhotos, Photo

Part = Literal["negatives", "cohort"]

_PREFIX = "bank:"  # a user's object cannot have such an id


def things(part: Part) -> dict[str, ObjectPhotos]:
    """The things of a part by their ids, in order, each with its category; all photos are train photos with a mask.

    Both parts hold things of every category. Their files are those of the installation, so workers on other nodes
    look for themselves. Raises ValueError if the installation lacks them.
    """
    photos: dict[tuple[str, int], list[Photo]] = defaultdict(list)
    for path in sorted(Path(str(resources.files("persrep_ray.data"))).joinpath("bank").glob("*.webp")):
        name, _, _ = path.stem.partition("-")  # <category>_<number>-<photo>
        category, _, number = name.partition("_")
        photos[category, int(number)].append(Photo(f"{_PREFIX}{name}", path, path.with_suffix(".png"), None))
    if not photos:
        raise ValueError("the bank of negatives, persrep_ray/data/bank, is missing from the installation")
    return {
        shots[0].object_id: ObjectPhotos(shots[0].object_id, category, tuple(shots), ())
        for (category, number), shots in photos.items()
        if (number % 2 == 0) == (part == "negatives")
    }


def is_thing(object_id: str) -> bool:
    """Whether this is the id of a thing of the bank."""
    return object_id.startswith(_PREFIX)
