"""The queue that objects wait in to be trained. A plain class; an actor on the driver's node wraps it.

Nothing here waits or looks at a clock. A lease belongs to its owner until the owner ends it, gives it back, or is given
up by the driver: a slow object is never trained twice at a time, and that of a dead cell is not lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from persrep_ray.distributed.outcome import Outcome


@dataclass(frozen=True)
class Snapshot:
    """What happened since the last snapshot, and how it stands."""

    outcomes: list[Outcome]
    broken: dict[str, str]  # owner -> why it cannot train anything
    images: int  # seen by the trainers so far, all objects and attempts
    waiting: int
    leased: int


class WorkQueue:
    """Objects to train, in the order they were put.

    Args:
        max_attempts: leases of one object that may be lost before the object is given up.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._waiting: deque[str] = deque()
        self._attempts: dict[str, int] = {}
        self._leases: dict[str, str] = {}  # owner -> object
        self._images: dict[str, int] = {}  # of the current lease, by owner
        self._images_before = 0
        self._broken: dict[str, str] = {}
        self._outcomes: list[Outcome] = []
        self._closed = False

    def put(self, object_id: str) -> None:
        """Add an object; one that was put before is not added again."""
        if object_id not in self._attempts:
            self._attempts[object_id] = 0
            self._waiting.append(object_id)

    def close(self) -> None:
        """No object will be put any more."""
        self._closed = True

    def finished(self) -> bool:
        """Whether there is nothing left to train, and nothing will come."""
        return self._closed and not self._waiting and not self._leases

    def lease(self, owner: str) -> str | None:
        """The next object for `owner`, None if there is none now. What it held before is given back first."""
        self.release(owner)
        if not self._waiting:
            return None
        object_id = self._waiting.popleft()
        self._attempts[object_id] += 1
        self._leases[owner] = object_id
        return object_id

    def progress(self, owner: str, object_id: str, images: int) -> None:
        """How many images the trainer of this lease has seen; word of a lease that is over is passed over."""
        if self._leases.get(owner) == object_id:
            self._images[owner] = images

    def end(self, owner: str, outcome: Outcome) -> None:
        """The owner's object is trained, or has failed for good. Not counted if the lease is no longer its."""
        if self._leases.get(owner) == outcome.object_id:
            self._drop(owner)
            self._outcomes.append(outcome)

    def release(self, owner: str) -> None:
        """Give back what `owner` holds: it was restarted or is dead. After `max_attempts` leases the object fails."""
        if owner not in self._leases:
            return
        object_id = self._drop(owner)
        attempts = self._attempts[object_id]
        if attempts < self._max_attempts:
            self._waiting.appendleft(object_id)
        else:
            self._outcomes.append(Outcome(object_id, f"its worker was lost {attempts} times (train.max_attempts)"))

    def broken(self, owner: str, error: str) -> None:
        """`owner` cannot train anything at all, and ends."""
        self.release(owner)
        self._broken[owner] = error

    def give_up(self, error: str) -> None:
        """Nobody is left to train: every object not ended yet fails with `error`."""
        lost = [*self._waiting, *self._leases.values()]
        self._waiting.clear()
        self._leases.clear()
        self._outcomes += [Outcome(object_id, error) for object_id in lost]

    def snapshot(self, drain: bool = True) -> Snapshot:
        """How it stands; with `drain` the outcomes are handed over, and are not in the next snapshot."""
        outcomes = self._outcomes
        if drain:
            self._outcomes = []
        images = self._images_before + sum(self._images.values())
        return Snapshot(outcomes, dict(self._broken), images, len(self._waiting), len(self._leases))

    def _drop(self, owner: str) -> str:
        self._images_before += self._images.pop(owner, 0)
        return self._leases.pop(owner)
