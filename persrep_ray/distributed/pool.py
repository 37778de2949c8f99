"""A pool of actors that take one object per call, while other stages still produce objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import ray

from persrep_ray.distributed.outcome import Outcome, describe
from persrep_ray.distributed.streaming import Pool


class _ObjectActor:
    """Wraps a worker that turns an object id into a report."""

    def __init__(self, pool: Pool) -> None:
        import torch  # the driver does not need it, and it takes seconds to import

        torch.set_num_threads(max(1, int(pool.cpus)))
        self._broken: str | None = None
        try:
            self._work = pool.worker()
        except Exception as error:  # the driver would only learn that the actor has died
            self._broken = describe(error)

    def call(self, object_id: str) -> Mapping[str, Any] | str:
        """The worker's report, or why there is none."""
        if self._broken is not None:
            return self._broken
        try:
            report: Mapping[str, Any] = self._work(object_id)
        except Exception as error:  # the failure of one object must not affect the next
            return describe(error)
        return report


class ObjectPool:
    """Calls the pool's worker with one object id after another. An actor that dies is replaced, its call repeated.

    Args:
        attempts: how often an object is tried before it fails because its actor died.
    """

    def __init__(self, pool: Pool, *, attempts: int = 3) -> None:
        self._pool = pool
        self._attempts = attempts
        self._idle: list[Any] = [self._start() for _ in range(pool.actors)]
        self._waiting: deque[str] = deque()
        self._running: dict[Any, tuple[str, Any]] = {}

    def submit(self, object_id: str) -> None:
        self._waiting.append(object_id)
        self._dispatch()

    def grow(self, actors: int) -> None:
        """Adds actors until there are `actors`, but no more than there are objects waiting.

        The cluster must have room for all of them, because an object is not taken from an actor that cannot start.
        """
        missing = actors - len(self._idle) - len(self._running)
        self._idle += [self._start() for _ in range(min(missing, len(self._waiting)))]
        self._dispatch()

    def poll(self, timeout: float = 0) -> list[Outcome]:
        """The objects that have ended since the last call. Waits up to `timeout` seconds if there is none."""
        ended, _ = ray.wait(list(self._running), timeout=timeout) if self._running else ([], [])
        outcomes = [self._outcome(call) for call in ended]
        self._dispatch()
        return outcomes

    def _start(self) -> Any:
        actor: Any = ray.remote(_ObjectActor).options(
            num_cpus=self._pool.cpus, max_restarts=-1, max_task_retries=self._attempts - 1
        )
        return actor.remote(self._pool)

    def _outcome(self, call: Any) -> Outcome:
        object_id, actor = self._running.pop(call)
        self._idle.append(actor)
        try:
            result = ray.get(call)
        except ray.exceptions.RayError as error:
            return Outcome(object_id, describe(error))
        return Outcome(object_id, result) if isinstance(result, str) else Outcome(object_id, None, dict(result))

    def _dispatch(self) -> None:
        while self._idle and self._waiting:
            object_id, actor = self._waiting.popleft(), self._idle.pop()
            self._running[actor.call.remote(object_id)] = object_id, actor
