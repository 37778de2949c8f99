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

    def ready(self) -> None:
        """Returns once the actor has started."""

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
        self._starting: dict[Any, Any] = {}  # call of `ready` -> actor
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[str, Any]] = {}  # call -> object and actor
        self._waiting: deque[str] = deque()
        self._start(pool.actors)

    def submit(self, object_id: str) -> None:
        self._waiting.append(object_id)
        self._dispatch()

    def grow(self, actors: int) -> None:
        """Adds actors until there are `actors`, but at most one for each object that waits.

        If the cluster has no room for an actor, the other actors take its share.
        """
        missing = actors - len(self._starting) - len(self._idle) - len(self._running)
        self._start(min(missing, len(self._waiting) - len(self._starting)))

    def poll(self, timeout: float = 0) -> list[Outcome]:
        """The objects that have ended since the last call. Waits up to `timeout` seconds for something to happen."""
        calls = [*self._running, *self._starting]
        ended, _ = ray.wait(calls, num_returns=1, timeout=timeout) if calls else ([], [])
        outcomes = [self._outcome(call) for call in ended if call in self._running]
        self._idle += [self._starting.pop(call) for call in ended if call in self._starting]
        self._dispatch()
        return outcomes

    def _start(self, actors: int) -> None:
        """Starts actors. Only those that have started get objects, because an object is never taken back."""
        remote: Any = ray.remote(_ObjectActor).options(
            num_cpus=self._pool.cpus, max_restarts=-1, max_task_retries=self._attempts - 1
        )
        for _ in range(actors):
            actor = remote.remote(self._pool)
            self._starting[actor.ready.remote()] = actor

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
