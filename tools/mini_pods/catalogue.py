"""The objects: a small catalogue of product lines whose instances are easy to confuse.

Four neighbouring instances of a category form a block of two colourways x two motifs. An instance shares its colours
with a second instance of the block, its print with a third, and neither with the fourth. Proportions are drawn per
instance.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CATEGORIES = ("mug", "bottle", "screwdriver", "tin")

# A colourway is a brand name and the colours of body, ink, accent and trim (inside, cap or second component).
COLOURWAYS: dict[str, list[tuple[str, str, str, str, str]]] = {
    "mug": [
        ("NORDLYS", "#ece5d6", "#24425f", "#d9713a", "#ece5d6"),
        ("FERN & CO", "#2f5b4f", "#efe4cc", "#e3ab45", "#e9e0cd"),
        ("TERRA", "#b9553c", "#f1e3cd", "#2b3550", "#efe3d2"),
        ("HARBOUR", "#27324d", "#e9e4da", "#d9a441", "#8fa9bd"),
        ("BLUSH", "#d9a99b", "#5a2a35", "#f0e3d0", "#f0e3d0"),
        ("SAGE", "#94a98f", "#263a2e", "#ece3c8", "#ece3c8"),
    ],
    "bottle": [
        ("AVELLA", "#dfe3df", "#1f5a5c", "#e08a4a", "#1f5a5c"),
        ("LUMEN", "#c9573f", "#f3e6d3", "#2c3448", "#e9dfd0"),
        ("MIRA", "#3f6b8c", "#eef0ea", "#e7b54a", "#20303f"),
        ("OLIO", "#6f8a4a", "#f2efdc", "#a83c2c", "#3a2f25"),
        ("NOCTA", "#2d2f3a", "#e6dccb", "#b98a4a", "#b98a4a"),
        ("ROSA", "#d58f98", "#5b1f35", "#f4e8dc", "#f0e6dd"),
    ],
    "screwdriver": [
        ("KRAFTEK", "#c33427", "#f4efe6", "#17181b", "#1d1e21"),
        ("BOLTON", "#e2b11f", "#1a1a1c", "#f2eee4", "#26272b"),
        ("ARDEN", "#1f5f9c", "#f3f0e8", "#e8a028", "#1c1d20"),
        ("FORTIS", "#2f7d4b", "#f2efe2", "#15181a", "#202224"),
        ("MERIDIAN", "#d96b20", "#191a1c", "#f2ede2", "#3a3d42"),
        ("STEEN", "#4a4f57", "#f1eee6", "#d6452f", "#17181a"),
    ],
    "tin": [
        ("CASA VERDE", "#e8dcc0", "#2c5a3b", "#b8332a", "#2c5a3b"),
        ("OLD HARBOUR", "#27456b", "#f0e8d6", "#d79a34", "#f0e8d6"),
        ("SOL", "#d99a2b", "#6b1f1a", "#f4ead2", "#6b1f1a"),
        ("MONTE", "#9c2f2a", "#f3e6cd", "#e0ad3d", "#f3e6cd"),
        ("LINNEA", "#b9cdb8", "#213b33", "#c8553d", "#213b33"),
        ("NERO", "#26282c", "#eee4cf", "#c9a24b", "#c9a24b"),
    ],
}

# A motif is a drawing (a key of prints.MOTIFS) and the words that go with it.
MOTIFS: dict[str, list[tuple[str, str]]] = {
    "mug": [("mountain", "hej fjell"), ("fox", "stay curious"), ("boat", "slow sunday"),
            ("pine", "into the wild"), ("cat", "do not disturb"), ("sun", "rise & shine")],
    "bottle": [("leaf", "shampoo"), ("drop", "body wash"), ("sun", "sun milk"),
               ("pine", "bath foam"), ("boat", "sea salt"), ("mountain", "cool gel")],
    "screwdriver": [("cross", "PH 2"), ("slot", "SL 6.5"), ("cross", "PH 1"),
                    ("slot", "SL 5.5"), ("cross", "PH 3"), ("slot", "SL 8")],
    "tin": [("tomato", "TOMATO"), ("fish", "TUNA"), ("pear", "PEARS"),
            ("pea", "PEAS"), ("leaf", "SPINACH"), ("pepper", "PEPPER")],
}  # fmt: skip


@dataclass(frozen=True)
class Design:
    """An object of the catalogue; `proportions` are numbers in [-1, 1] that its shape interprets."""

    name: str
    category: str
    brand: str
    body: str
    ink: str
    accent: str
    trim: str
    motif: str
    words: str
    proportions: tuple[float, ...]


def make_design(category: str, index: int, seed: int) -> Design:
    """Instance `index` of a category. Its block has two colourways and two motifs; its place there picks among them."""
    rng = random.Random(f"{seed}/{category}")
    pairs = len(COLOURWAYS[category]) // 2
    colour_pairs, motif_pairs = rng.sample(range(pairs), pairs), rng.sample(range(pairs), pairs)
    block, place = divmod(index, 4)
    # Blocks walk through all (colour pair, motif pair) combinations before any repeats.
    colourway = 2 * colour_pairs[block % pairs] + place // 2
    motif = 2 * motif_pairs[(block + block // pairs) % pairs] + place % 2
    shape = random.Random(f"{seed}/{category}/{index}")
    return Design(
        f"{category}_{index}",
        category,
        *COLOURWAYS[category][colourway],
        *MOTIFS[category][motif],
        tuple(shape.uniform(-1, 1) for _ in range(6)),
    )


def make_catalogue(per_category: int, seed: int) -> list[Design]:
    limit = 4 * (len(COLOURWAYS["mug"]) // 2) ** 2
    if not 2 <= per_category <= limit:
        raise ValueError(f"objects per category must be 2 to {limit}: a distractor of the same category is needed")
    return [make_design(category, i, seed) for category in CATEGORIES for i in range(per_category)]
