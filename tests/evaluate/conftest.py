from __future__ import annotations

from pathlib import Path

import pytest
from helpers.discs import TEST, TRAIN, save
from helpers.tiny import COLOURS, shape


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three coloured discs in the reference layout. All photos have masks, and no two of an object have one size."""
    for number, (object_id, colour) in enumerate(COLOURS.items()):
        for index in range(TRAIN + TEST):
            image, mask = shape(colour, seed=10 * number + index)
            height = 48 + 4 * index  # photos are not square
            part = "train" if index < TRAIN else "test"
            save(tmp_path, part, object_id, index, image[:height], mask[:height])
    return tmp_path
