"""What was found, as it is sent: in pixels of the image, with masks as run lengths or PNG."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
from faster_coco_eval.core import mask as coco

from persrep_ray.data.images import encode_png, encode_png_mask
from persrep_ray.serving.http.schemas import PngMask, RleMask, SimilarityMap
from persrep_ray.tasks.dense import Instance


def enlarged(instance: Instance, searched: tuple[int, int], size: tuple[int, int]) -> Instance:
    """An instance on an image of `searched` (H, W), in pixels of the same image at `size` (H, W), which is not smaller.

    A pixel gets the value of the mask at its centre, and the box surrounds the mask as before.
    """
    x, y, width, height = (int(value) for value in instance.box)
    rows, columns = (
        ((np.arange(many) + 0.5) * few / many).astype(np.intp) for few, many in zip(searched, size, strict=True)
    )
    top, bottom = np.searchsorted(rows, (y, y + height))
    left, right = np.searchsorted(columns, (x, x + width))
    mask = instance.mask[rows[top:bottom, None] - y, columns[left:right] - x]
    return replace(instance, box=np.array([left, top, right - left, bottom - top], np.int32), mask=mask)


def as_rle(instance: Instance, size: tuple[int, int]) -> RleMask:
    """The mask on the whole image of `size` (H, W) as COCO's run lengths, which go down one column after another."""
    height, width = size
    x, y, across, down = (int(value) for value in instance.box)
    columns = np.zeros((height, across), np.uint8, order="F")  # only those of the box: an image may be large
    columns[y : y + down] = instance.mask
    zero = np.uint8(0)
    changes = np.flatnonzero(np.diff(columns.ravel("F"), prepend=zero, append=zero)) + x * height
    counts = np.diff(np.unique(np.append(changes, height * width)), prepend=0)
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return RleMask(size=[height, width], counts=encoded["counts"].decode("ascii"))


def as_png(instance: Instance) -> PngMask:
    """The mask in the box as a PNG."""
    return PngMask(png=base64.b64encode(encode_png_mask(instance.mask)).decode("ascii"))


def as_map(similarity: np.ndarray) -> SimilarityMap:
    """`similarity` (h, w), -1 to 1, as a grey PNG."""
    grey = np.rint((similarity + 1) / 2 * 255).clip(0, 255).astype(np.uint8)
    return SimilarityMap(png=base64.b64encode(encode_png(grey)).decode("ascii"), size=list(grey.shape))
