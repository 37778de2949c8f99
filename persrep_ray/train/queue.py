"""The queue of objects to train: a plain class, which an actor on the driver's node wraps.

Nothing here waits or reads a clock. A lease belongs to its owner until the owner ends it or gives it back, or until the
driver gives up the owner. A slow object is therefore never trained twice at a time, and a dead cell loses no object.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from persrep_ray.distributed.outcome import Outcome


@dataclass(frozen=True)
class Snapshot:
    """The state of the queue, and what has happened since the last snapshot."""

    outcomes: list[Outcome]
    broken: dict[str, str]  # owner -> why it cannot train anything
    ended: dict[str, int]  # owner -> objects that it has ended
    images: int  # that the trainers have seen so far, in all objects and attempts
    waiting: int
    leased: int


class WorkQueue:
    """Objects to train, in the order in which they were put.

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
        self._ended: dict[str, int] = {}
        self._outcomes: list[Outcome] = []
        self._closed = False

    def put(self, object_id: str) -> None:
        """Adds an object. An object that was put before is not added again."""
        if object_id not in self._attempts:
            self._attempts[object_id] = 0
            self._waiting.append(object_id)

    def close(self) -> None:
        """Says that no more objects will be put."""
        self._closed = True

    def finished(self) -> bool:
        """Whether nothing is left to train and nothing more will come."""
        return self._closed and not self._waiting and not self._leases

    def lease(self, owner: str) -> str | None:
        """The next object for `owner`; None if there is none now. An object that it still holds is given back first."""
        self.release(owner)
        if not self._waiting:
            return None
        object_id = self._waiting.popleft()
        self._attempts[object_id] += 1
        self._leases[owner] = object_id
        return object_id

    def progress(self, owner: str, object_id: str, images: int) -> None:
        """Notes how many images the trainer of this lease has seen; a lease that has ended is ignored."""
        if self._leases.get(owner) == object_id:
            self._images[owner] = images

    def end(self, owner: str, outcome: Outcome) -> None:
        """Notes that the owner's object is trained or has failed; ignored if the owner has lost the lease."""
        if self._leases.get(owner) == outcome.object_id:
            self._drop(owner)
            self._ended[owner] = self._ended.get(owner, 0) + 1
            self._outcomes.append(outcome)

    def release(self, owner: str) -> None:
        """Gives back the object of an owner that was restarted or died. It fails after `max_attempts` leases."""
        if owner not in self._leases:
            return
        object_id = self._drop(owner)
        attempts = self._attempts[object_id]
        if attempts < self._max_attempts:
            self._waiting.appendleft(object_id)
        else:
            self._outcomes.append(Outcome(object_id, f"its worker was lost {attempts} times (train.max_attempts)"))

    def broken(self, owner: str, error: str) -> None:
        """Notes that `owner` ends because it cannot train anything at all."""
        self.release(owner)
        self._broken[owner] = error

    def give_up(self, error: str) -> None:
        """Fails every object that has not ended, because no owner is left."""
        lost = [*self._waiting, *self._leases.values()]
        self._waiting.clear()
        self._leases.clear()
        self._outcomes += [Outcome(object_id, error) for object_id in lost]

    def snapshot(self, drain: bool = True) -> Snapshot:
        """The state of the queue. With `drain` the outcomes are handed over, so the next snapshot leaves them out."""
        outcomes = self._outcomes
        if drain:
            self._outcomes = []
        images = self._images_before + sum(self._images.values())
        return Snapshot(outcomes, dict(self._broken), dict(self._ended), images, len(self._waiting), len(self._leases))

    def _drop(self, owner: str) -> str:
        self._images_before += self._images.pop(owner, 0)
        return self._leases.pop(owner)
