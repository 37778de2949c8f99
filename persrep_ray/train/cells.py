"""Training cells: long-lived Ray Train runs that take object after object from the queue.

A `TorchTrainer` takes 20 s to start, too long to start one per object. A cell is started once and trains until the
queue is finished: rank 0 leases an object, all ranks train it, and rank 0 commits it. Only what is committed counts, so
an object whose lease was lost is trained again.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import ray

from persrep_ray.config import RunConfig
from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.train.queue import WorkQueue

_WORKER_RESTARTS = 20  # per cell, by Ray Train; each also costs an object one of its attempts
_CELL_RESTARTS = 3  # per cell, by us, when its Ray Train run itself has ended without having ended an object
_JOIN_S = 10.0
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon a lost worker is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a cluster may have to scale up first
    "RAY_TRAIN_COLLECTIVE_WARN_INTERVAL_S": "86400",  # the other ranks wait while rank 0 has no object
}


class CellError(ValueError):
    """No cell can train; the message is the cause."""


class Cells:
    """The cells of a run and their queue. `poll` also replaces cells that have died.

    Args:
        shared: references to the RunConfig, Manifest, RunFolder, and the photos of other things that check adapters.
        count: the number of cells.
    """

    def __init__(self, config: RunConfig, shared: list[Any], count: int) -> None:
        self.images = 0
        self._config = config
        self._shared = shared
        self._queue: Any = ray.remote(WorkQueue).options(num_cpus=0).remote(config.train.max_attempts)
        self._last_error = ""
        self._prepare(count)

    def _prepare(self, count: int) -> None:
        self._restarts = dict.fromkeys((f"cell-{index}" for index in range(count)), 0)
        self._ended = dict.fromkeys(self._restarts, 0)  # objects that the cell had ended when it was last restarted
        self._running = {self._start(owner): owner for owner in self._restarts}

    def submit(self, object_id: str) -> None:
        ray.get(self._queue.put.remote(object_id))

    def close(self) -> None:
        """Says that no more objects will be submitted, so that the cells end when the queue is empty."""
        ray.get(self._queue.close.remote())

    def join(self) -> None:
        """Closes the queue and gives the cells time to end in order, so that Ray does not kill them."""
        self.close()
        ray.wait(list(self._running), num_returns=len(self._running), timeout=_JOIN_S)

    def poll(self) -> list[Outcome]:
        """The objects that ended since the last call.

        Raises:
            CellError: no cell can train any object.
        """
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in ended:
            self._end(task)
        if not self._running:
            ray.get(self._queue.give_up.remote(f"all training cells are lost: {self._last_error}"))
        snapshot = ray.get(self._queue.snapshot.remote())
        if len(snapshot.broken) == len(self._restarts) > 0:
            raise CellError(f"train: {next(iter(snapshot.broken.values()))}")
        self.images = snapshot.images
        return list(snapshot.outcomes)

    def _start(self, owner: str) -> Any:
        return _run_cell.remote(owner, self._queue, self._shared, self._config)

    def _end(self, task: Any) -> None:
        owner = self._running.pop(task)
        try:
            ray.get(task)
        except Exception as error:  # Ray Train gave up, or the task's node is gone
            self._last_error = describe(error)
        ray.get(self._queue.release.remote(owner))
        snapshot = ray.get(self._queue.snapshot.remote(drain=False))
        is_broken = owner in snapshot.broken
        if (ended := snapshot.ended.get(owner, 0)) > self._ended[owner]:
            self._ended[owner], self._restarts[owner] = (
                ended,
                0,
            )  # nodes come and go for weeks; only standing still counts
        is_needed = not ray.get(self._queue.finished.remote())
        if is_needed and not is_broken and self._restarts[owner] < _CELL_RESTARTS:
            self._restarts[owner] += 1
            self._running[self._start(owner)] = owner


@ray.remote(num_cpus=0, max_retries=0)
def _run_cell(owner: str, queue: Any, shared: list[Any], config: RunConfig) -> None:
    """One Ray Train run from start to end, as a task, so that many run at a time."""
    os.environ.update(_TRAIN_ENVIRONMENT)  # the import reads it
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    train = config.train
    resources = {"CPU": train.cpus_per_worker}
    if train.gpus_per_worker:
        resources["GPU"] = train.gpus_per_worker
    # We report no checkpoints, so Ray Train stores nothing but a marker, which its controller on this node checks.
    with tempfile.TemporaryDirectory(prefix="persrep-ray-train-") as storage:
        TorchTrainer(
            _train,
            train_loop_config={"owner": owner, "queue": queue, "shared": shared},
            scaling_config=ray_train.ScalingConfig(
                num_workers=train.workers_per_object,
                resources_per_worker=resources,
                use_gpu=bool(train.gpus_per_worker),
            ),
            run_config=ray_train.RunConfig(
                name=owner,
                storage_path=storage,
                failure_config=ray_train.FailureConfig(max_failures=_WORKER_RESTARTS),
            ),
        ).fit()


def _train(loop: dict[str, Any]) -> None:
    """What every rank runs. It imports by itself because driver and controllers need neither torch nor transformers."""
    from persrep_ray.train.cell_loop import train_until_finished

    train_until_finished(loop)
