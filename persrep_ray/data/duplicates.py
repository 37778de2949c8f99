"""Finds photos that are the same: copies that were encoded again, resized or cropped a little.

Each photo has perceptual hashes (Zauner 2010: the signs of low DCT frequencies), of itself and of its centre, so that a
crop of a photo has a hash near to one of the photo's. Photos whose hashes are near are compared by their pixels, in
colour, because products of one line differ in nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_CROPS = (1.0, 0.95, 0.9)
_NEAR = 8  # bits; on real photos, all copies and 97 % of crops to 95 % are nearer, and 1 of 17,000 pairs of others
_WINDOW = 32  # how many of the photos with an equal part of the hash are looked at
_MOST_COMPARISONS = 8  # per photo, so that thousands of pictures that are nearly the same cost no more
_SIDE = 64  # of the images that are compared, pixels
_MARGIN = 8
_ALIKE = 0.96  # correlation
_LEVELS = 10.0  # mean difference of colours, of 255


def perceptual_hashes(grey: NDArray[np.uint8]) -> tuple[int, ...]:
    """64-bit hashes of a grey image (H, W) uint8 and of its centre, a hash per crop."""
    height, width = grey.shape
    hashes = []
    for share in _CROPS:
        rows, columns = max(1, round(height * share)), max(1, round(width * share))
        top, left = (height - rows) // 2, (width - columns) // 2
        small = cv2.resize(grey[top : top + rows, left : left + columns], (32, 32), interpolation=cv2.INTER_AREA)
        low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
        low[0] = 0.0  # brightness
        hashes.append(int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big"))
    return tuple(hashes)


def find_groups(
    hashes: Sequence[tuple[int, ...]], read: Callable[[int], NDArray[np.uint8] | None]
) -> list[tuple[int, ...]]:
    """The groups of two or more photos that are the same, as sorted indices.

    Args:
        hashes: what `perceptual_hashes` gave for each photo.
        read: returns a photo (H, W, 3) uint8, or None if it cannot be read. It is called for photos with near hashes.
    """
    parent = list(range(len(hashes)))

    def root(photo: int) -> int:
        while parent[photo] != photo:
            parent[photo] = photo = parent[parent[photo]]
        return photo

    compared: Counter[int] = Counter()
    for first, second in _near_pairs(hashes):
        if root(first) == root(second) or max(compared[first], compared[second]) >= _MOST_COMPARISONS:
            continue
        images = read(first), read(second)
        if images[0] is not None and images[1] is not None and is_same(images[0], images[1]):
            parent[root(second)] = root(first)
        else:
            compared.update((first, second))
    members: dict[int, list[int]] = {}
    for photo in range(len(hashes)):
        members.setdefault(root(photo), []).append(photo)
    return sorted(tuple(group) for group in members.values() if len(group) > 1)


def _near_pairs(hashes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Pairs of photos with near hashes, nearly all of them, in time n log n.

    Near hashes are equal in some of their bands. The more photos there are, the wider the bands, so that few photos
    share one by chance.
    """
    if len(hashes) < 2:
        return
    codes = np.array([code for row in hashes for code in row], np.uint64)
    owner = np.repeat(np.arange(len(hashes)), len(_CROPS))
    width = int(np.clip(np.ceil(np.log2(len(codes))) - 3, 8, 16))
    found: set[tuple[int, int]] = set()
    for start in range(0, 64 - width + 1, width):
        band = (codes >> np.uint64(start)) & np.uint64((1 << width) - 1)
        order = np.lexsort((codes, band))
        for shift in range(1, min(_WINDOW, len(order) - 1) + 1):
            left, right = order[:-shift], order[shift:]
            left, right = left[band[left] == band[right]], right[band[left] == band[right]]
            if not len(left):
                break
            near = (np.bitwise_count(codes[left] ^ codes[right]) <= _NEAR) & (owner[left] != owner[right])
            found.update(zip(owner[left[near]].tolist(), owner[right[near]].tolist(), strict=True))
    yield from sorted({(min(pair), max(pair)) for pair in found})


def is_same(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Whether two photos (H, W, 3) uint8 show the same pixels, one of them perhaps cropped to 90 % or more."""
    return any(_contains(whole, part) for whole, part in ((first, second), (second, first)))


def _contains(whole: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Whether the middle of `part` is found in `whole`, at one of the scales that a crop would have."""
    canvas = _small(whole, _SIDE)
    for share in _CROPS:
        middle = _small(part, round(_SIDE * share))[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        distance = cv2.matchTemplate(canvas, middle, cv2.TM_SQDIFF)
        y, x = np.unravel_index(int(distance.argmin()), distance.shape)
        found = canvas[y : y + middle.shape[0], x : x + middle.shape[1]].astype(np.float32)
        wanted = middle.astype(np.float32)
        if np.abs(found - wanted).mean() > _LEVELS:
            continue
        found, wanted = found - found.mean(axis=(0, 1)), wanted - wanted.mean(axis=(0, 1))
        spread = float(np.sqrt((found**2).sum() * (wanted**2).sum()))
        if float((found * wanted).sum()) >= _ALIKE * spread:
            return True
    return False


def _small(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
