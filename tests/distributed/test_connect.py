"""Starting Ray on a busy machine."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from persrep_ray.distributed.connect import connected, start_ray

TOO_BUSY = Exception("The current node timed out during startup. This could happen because the GCS is overloaded.")


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """How the next calls of `ray.init` end."""
    outcomes: list[Exception | None] = []

    def init(*, num_cpus: int) -> None:
        assert num_cpus == 2
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(ray, "init", init)
    return outcomes


def test_a_node_that_started_too_slowly_is_started_again(outcomes: list[Exception | None]) -> None:
    outcomes += [TOO_BUSY, TOO_BUSY, None]
    start_ray(num_cpus=2)
    assert not outcomes


def test_a_machine_that_stays_too_busy_is_told_in_one_line(outcomes: list[Exception | None]) -> None:
    outcomes += [TOO_BUSY] * 4
    with pytest.raises(OSError, match=r"^Ray did not start within 120 s, because this machine is too busy;.*$"):
        start_ray(num_cpus=2)
    assert not outcomes


def test_sigterm_ends_a_run_like_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # Ray's native handler would abort this process.
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda *_: os.abort()))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    ended: list[bool] = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(KeyboardInterrupt), connected():
        signal.raise_signal(signal.SIGTERM)
    assert ended == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_error_is_raised_at_once(outcomes: list[Exception | None]) -> None:
    outcomes.append(ConnectionError("no cluster there"))
    with pytest.raises(ConnectionError):
        start_ray(num_cpus=2)
    assert not outcomes
