"""What the embedded ViT says about a photo besides its saliency: where hands are, and whether a package fills it.

Saliency takes a hand that holds the object for a part of it, and the print on a package for the object. Two linear
probes on the patches of the same forward pass see the difference; `tools/fit_mask_probes.py` fits them.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

PROBES = Path(__file__).parent / "probes.safetensors"

_BORDER = 1  # patches
_FILLED = -0.6  # the highest mean of an ordinary photo in the fit is -0.8, and fronts are far above
_HAND = 0.0
_STEEPNESS = 2.0  # of the hands' edge
_SALIENT = 0.5
_LEAST_LEFT = 0.25  # of the salient pixels; less means that the "hand" is the object


class MaskProbes:
    """The probes in `file`, each (D + 1,): weights and an offset. The scores are in standard deviations.

    `patches` (P, D) are those of `EmbeddedSaliency.look`, a square grid, row by row.
    """

    def __init__(self, file: Path = PROBES) -> None:
        self._probes = load_file(file)

    def filled(self, patches: NDArray[np.float32]) -> bool:
        """Whether the front of a package, or a like surface, fills the photo to its border."""
        side = math.isqrt(len(patches))
        return bool(self._score("filled", patches[border(side)]).mean() > _FILLED)

    def without_hands(self, saliency: NDArray[np.float32], patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """`saliency` (h, w) in 0..1 with hands blotted out, unless little would be left, as of a glove."""
        side = math.isqrt(len(patches))
        score = self._score("hand", patches).reshape(side, side)
        smooth = cv2.resize(score, saliency.shape[::-1], interpolation=cv2.INTER_CUBIC)
        rest: NDArray[np.float32] = saliency / (1 + np.exp(_STEEPNESS * (smooth - _HAND)))
        salient = np.count_nonzero(saliency > _SALIENT)
        return rest if np.count_nonzero(rest > _SALIENT) > _LEAST_LEFT * salient else saliency

    def _score(self, probe: str, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        weights = self._probes[probe]
        return standardized(patches) @ weights[:-1] + weights[-1]


def standardized(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each patch (P, D) with mean 0 and variance 1, as a layer norm without weights."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-6)


def border(side: int) -> NDArray[np.bool_]:
    """Which patches (side * side,) of a square grid lie at its border."""
    outer = np.ones((side, side), np.bool_)
    outer[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return outer.ravel()
