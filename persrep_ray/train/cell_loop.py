"""What a training cell does: object after object, until the queue is finished."""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from persrep_ray.backbones.lora import load_lora
from persrep_ray.distributed.machine import device
from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.train.objects import ObjectTrainer
from persrep_ray.train.trainer import TrainError

_POLL_S = 0.2  # cells ask repeatedly, because a call that waits would swallow an object if its caller dies
_REPORT_S = 0.5


def train_until_finished(loop: dict[str, Any]) -> None:
    """What every rank of a cell runs."""
    owner, queue = loop["owner"], loop["queue"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        ray.get(queue.release.remote(owner))  # a group that this one replaces may have died with an object
    try:
        config, manifest, folder, negatives = ray.get(loop["shared"])
        torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
        lora = load_lora(config, get_device() if config.train.gpus_per_worker else device(gpus=0))
        trainer = ObjectTrainer(lora, config, manifest, folder, negatives, rank=rank, world_size=world_size)
    except Exception as cause:  # a restart would fail in the same way
        ray.get(queue.broken.remote(owner, describe(cause)))
        return
    while (object_id := _next_object(queue, owner, rank, world_size)) is not None:
        error = None
        try:
            trainer(object_id, _Reporter(queue, owner, object_id, rank))
        except Exception as cause:
            if world_size > 1 and not isinstance(cause, TrainError):
                raise  # the other ranks did not fail and wait for this one; only a restart of the group frees them
            error = describe(cause)
        if rank == 0:
            ray.get(queue.end.remote(owner, Outcome(object_id, error)))


def _next_object(queue: Any, owner: str, rank: int, world_size: int) -> str | None:
    """The next object, the same on all ranks; None if there will be no more."""
    object_id = None
    if rank == 0:
        while (object_id := ray.get(queue.lease.remote(owner))) is None and not ray.get(queue.finished.remote()):
            time.sleep(_POLL_S)
    return object_id if world_size == 1 else broadcast_from_rank_zero(object_id)


class _Reporter:
    """Tells the queue how far rank 0 is, at most as often as people can read."""

    def __init__(self, queue: Any, owner: str, object_id: str, rank: int) -> None:
        self._send = lambda images: queue.progress.remote(owner, object_id, images)
        self._rank = rank
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._rank == 0 and (done == total or now - self._last > _REPORT_S):
            self._last = now
            self._send(done)
