"""Starting Ray on a busy machine."""

from __future__ import annotations

import pytest
import ray

from persrep_ray.distributed.connect import start_ray

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


def test_a_node_that_started_too_slowly_is_started_once_more(outcomes: list[Exception | None]) -> None:
    outcomes += [TOO_BUSY, None]
    start_ray(num_cpus=2)
    assert not outcomes


@pytest.mark.parametrize("failures", [[TOO_BUSY, TOO_BUSY], [ConnectionError("no cluster there")]])
def test_what_does_not_pass_is_raised(outcomes: list[Exception | None], failures: list[Exception]) -> None:
    outcomes += failures
    with pytest.raises(type(failures[-1])):
        start_ray(num_cpus=2)
    assert not outcomes
