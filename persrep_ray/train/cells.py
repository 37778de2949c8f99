"""Training cells: long-lived Ray Train runs that take object after object from the queue.

A `TorchTrainer` takes 20 s to start, so there is never one per object. A cell is started once and trains until the
queue is finished: rank 0 leases an object, all ranks train it, rank 0 commits it. What is committed is the truth; a
lease that was lost is simply done again.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer, get_device

from persrep_ray.backbones.load import load_lora
from persrep_ray.config import RunConfig
from persrep_ray.outcome import Outcome, describe
from persrep_ray.run_folder import RunFolder
from persrep_ray.train.objects import ObjectTrainer
from persrep_ray.train.queue import WorkQueue
from persrep_ray.train.trainer import TrainError

_POLL_S = 0.2  # a waiting call would swallow an object when its caller dies: cells ask again instead
_REPORT_S = 0.5
_WORKER_RESTARTS = 20  # of one cell by Ray Train; each also costs an object one of its attempts
_CELL_RESTARTS = 3  # of one cell by us, when its Ray Train run itself is gone
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon a lost worker is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a cluster may have to scale up first
    "RAY_TRAIN_COLLECTIVE_WARN_INTERVAL_S": "86400",  # ranks wait for rank 0 as long as no object is there
}


class Cells:
    """The cells of a run and their queue; `poll` also replaces cells that are gone.

    Args:
        shared: references to the RunConfig, Manifest and RunFolder.
        count: how many cells.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, shared: list[ray.ObjectRef], count: int) -> None:
        self.images = 0
        self._config = config
        self._storage = str(folder.ray_storage)
        self._shared = shared
        self._queue = ray.remote(WorkQueue).options(num_cpus=0).remote(config.train.max_attempts)
        self._restarts = dict.fromkeys((f"cell-{index}" for index in range(count)), 0)
        self._running = {self._start(owner): owner for owner in self._restarts}
        self._last_error = ""

    def submit(self, object_id: str) -> None:
        ray.get(self._queue.put.remote(object_id))

    def close(self) -> None:
        """No object will be submitted any more: the cells end when the queue is empty."""
        ray.get(self._queue.close.remote())

    def poll(self) -> list[Outcome]:
        """The objects that ended since the last call."""
        ended, _ = (
            ray.wait(list(self._running), num_returns=len(self._running), timeout=0) if self._running else ([], [])
        )
        for task in ended:
            self._end(task)
        if not self._running:
            ray.get(self._queue.give_up.remote(self._last_error or "all training cells have ended"))
        snapshot = ray.get(self._queue.snapshot.remote())
        self.images = snapshot.images
        return list(snapshot.outcomes)

    def _start(self, owner: str) -> ray.ObjectRef:
        return _run_cell.remote(owner, self._queue, self._shared, self._config, self._storage)

    def _end(self, task: ray.ObjectRef) -> None:
        owner = self._running.pop(task)
        try:
            ray.get(task)
        except Exception as error:  # Ray Train gave up, or the task's node is gone
            self._last_error = describe(error)
        ray.get(self._queue.release.remote(owner))
        broken = ray.get(self._queue.snapshot.remote(drain=False)).broken.get(owner)
        if broken is not None:
            self._last_error = broken
        elif not ray.get(self._queue.finished.remote()) and self._restarts[owner] < _CELL_RESTARTS:
            self._restarts[owner] += 1
            self._running[self._start(owner)] = owner


@ray.remote(num_cpus=0, max_retries=0)
def _run_cell(owner: str, queue: ActorHandle, shared: list[ray.ObjectRef], config: RunConfig, storage: str) -> None:
    """One Ray Train run from start to end. A task of its own, so that many run at a time."""
    os.environ.update(_TRAIN_ENVIRONMENT)
    train = config.train
    resources = {"CPU": train.cpus_per_worker}
    if train.gpus_per_worker:
        resources["GPU"] = train.gpus_per_worker
    TorchTrainer(
        train_until_finished,
        train_loop_config={"owner": owner, "queue": queue, "shared": shared},
        scaling_config=ScalingConfig(
            num_workers=train.workers_per_object, resources_per_worker=resources, use_gpu=bool(train.gpus_per_worker)
        ),
        run_config=ray.train.RunConfig(
            # A name of its own: Ray Train would continue a run of the same name, and what counts is in our folder.
            name=f"{owner}-{uuid.uuid4().hex[:8]}",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=_WORKER_RESTARTS),
        ),
    ).fit()


def train_until_finished(loop: dict[str, Any]) -> None:
    """What every rank of a cell runs."""
    owner, queue = loop["owner"], loop["queue"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        ray.get(queue.release.remote(owner))  # we may be the restart of a group that died with an object
    try:
        config, manifest, folder = ray.get(loop["shared"])
        torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
        lora = load_lora(config, get_device() if config.train.gpus_per_worker else "cpu")
        trainer = ObjectTrainer(lora, config, manifest, folder, rank=rank, world_size=world_size)
    except Exception as cause:  # a restart would meet the same
        ray.get(queue.broken.remote(owner, describe(cause)))
        return
    while (object_id := _next_object(queue, owner, rank, world_size)) is not None:
        error = None
        try:
            trainer(object_id, _Reporter(queue, owner, object_id, rank))
        except Exception as cause:
            if world_size > 1 and not isinstance(cause, TrainError):
                raise  # the other ranks did not see it and wait for us: only a restart of the group frees them
            error = describe(cause)
        if rank == 0:
            ray.get(queue.end.remote(owner, Outcome(object_id, error)))


def _next_object(queue: ActorHandle, owner: str, rank: int, world_size: int) -> str | None:
    """The next object, the same on all ranks; None when there will be none any more."""
    object_id = None
    if rank == 0:
        while (object_id := ray.get(queue.lease.remote(owner))) is None and not ray.get(queue.finished.remote()):
            time.sleep(_POLL_S)
    return object_id if world_size == 1 else broadcast_from_rank_zero(object_id)


class _Reporter:
    """Tells the queue how far rank 0 is, not more often than people can read."""

    def __init__(self, queue: ActorHandle, owner: str, object_id: str, rank: int) -> None:
        self._send = lambda images: queue.progress.remote(owner, object_id, images)
        self._rank = rank
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._rank == 0 and (done == total or now - self._last > _REPORT_S):
            self._last = now
            self._send(done)
