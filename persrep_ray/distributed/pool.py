"""Evaluation on Ray: a pool of actors, an object per call, while other objects still train."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from persrep_ray.distributed.outcome import Outcome, describe


class _PoolActor:
    """Wraps a plain worker (object id -> report), built from the shared arguments."""

    def __init__(self, make: Callable[..., Any], shared: Sequence[Any], cpus: float) -> None:
        import torch  # here and not above: the driver has no use for it, and it takes seconds

        torch.set_num_threads(max(1, int(cpus)))
        self._broken: str | None = None
        try:
            self._work = make(*ray.get(list(shared)))
        except Exception as error:  # an actor whose constructor raises says no more than that it died
            self._broken = describe(error)

    def call(self, object_id: str) -> Mapping[str, Any] | str:
        """The worker's report, or in words why there is none."""
        if self._broken is not None:
            return self._broken
        try:
            report: Mapping[str, Any] = self._work(object_id)
        except Exception as error:  # one object's failure is never another's
            return describe(error)
        return report


class ObjectPool:
    """Calls `make(*shared)(object_id)` on a pool of actors. An actor that dies is replaced and its call repeated.

    Args:
        shared: references to the arguments of `make`.
        attempts: calls of one object before it fails with its actor's death.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        shared: Sequence[Any],
        *,
        actors: int,
        cpus: float,
        attempts: int = 3,
    ) -> None:
        actor: Any = ray.remote(_PoolActor).options(num_cpus=cpus, max_restarts=-1, max_task_retries=attempts - 1)
        self._idle: list[Any] = [actor.remote(make, list(shared), cpus) for _ in range(actors)]
        self._waiting: deque[str] = deque()
        self._running: dict[Any, tuple[str, Any]] = {}

    def submit(self, object_id: str) -> None:
        self._waiting.append(object_id)
        self._dispatch()

    def poll(self, timeout: float = 0) -> list[Outcome]:
        """The objects that ended since the last call; waits up to `timeout` seconds for the first of them."""
        ended, _ = ray.wait(list(self._running), timeout=timeout) if self._running else ([], [])
        outcomes = [self._outcome(call) for call in ended]
        self._dispatch()
        return outcomes

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


def make_publisher(*arguments: Any) -> Any:
    """A `Publisher`, imported where it is made: the driver needs neither torch nor transformers."""
    from persrep_ray.runs.publish import Publisher

    return Publisher(*arguments)
