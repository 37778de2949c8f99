"""How the ingress handles events of encoders, with a scripted handle."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from persrep_ray.config import ConfigError, ServeConfig
from persrep_ray.serving import deployments
from persrep_ray.serving.deployments import Ingress, RemoteEngine
from persrep_ray.serving.engine.answers import AdapterRef, Classification
from persrep_ray.serving.engine.errors import AdapterUnusableError, Failure, OverloadedError

IMAGE = np.zeros((2, 2, 3), np.uint8)
CLASSIFICATION = Classification(0.9, 0.8, 0.5)


class Handle:
    """A deployment handle whose calls end with `outcomes` in turn."""

    def __init__(self, outcomes: Sequence[Any]) -> None:
        self.outcomes = list(outcomes)
        self.sessions: list[str] = []
        self.ask = self

    def options(self, *, session_id: str) -> Handle:
        self.sessions.append(session_id)
        return self

    async def remote(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def classify(outcomes: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Classification, Handle]:
    monkeypatch.setattr(deployments, "_RETRY_PAUSE_S", 0)
    handle = Handle(outcomes)
    engine = RemoteEngine(handle)  # type: ignore[arg-type]
    return asyncio.run(engine.classify(AdapterRef("mug", "v1"), IMAGE)), handle


def test_a_lost_encoder_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [ActorDiedError(), DeploymentUnavailableError("encoder")]
    classification, handle = classify([*gone, CLASSIFICATION], monkeypatch)
    assert classification == CLASSIFICATION and not handle.outcomes
    assert handle.sessions == ["mug"], "queries about an object go to the encoder that has its adapter"


def test_a_full_queue_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverloadedError):
        classify([BackPressureError(num_queued_requests=9, max_queued_requests=9)], monkeypatch)


def test_an_encoders_error_arrives_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterUnusableError, match="damaged"):
        classify([Failure.of(AdapterUnusableError("damaged"))], monkeypatch)


def test_a_query_that_nobody_waits_for_is_called_off() -> None:
    class Endless:
        cancelled = False

        def __await__(self) -> Generator[Any, None, None]:
            yield from asyncio.get_running_loop().create_future()

        def cancel(self) -> None:
            self.cancelled = True

    response = Endless()

    class Busy(Handle):
        def remote(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            return response

    async def scenario() -> None:
        query = asyncio.create_task(RemoteEngine(Busy([])).classify(AdapterRef("mug", "v1"), IMAGE))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query

    asyncio.run(scenario())
    assert response.cancelled


def test_ready_once_an_encoder_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "_RETRY_PAUSE_S", 0)
    handle = Handle([BackPressureError(num_queued_requests=9, max_queued_requests=9), ActorDiedError(), (56, 112)])
    engine = RemoteEngine(handle)  # type: ignore[arg-type]
    asyncio.run(engine.reach())
    assert asyncio.run(engine.view_sides()) == (56, 112) and not handle.outcomes


def test_keys_that_a_replica_does_not_find_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSREP_API_KEYS", raising=False)
    config = ServeConfig(registry=str(tmp_path))
    with pytest.raises(ConfigError, match="PERSREP_API_KEYS is not set where this replica runs"):
        asyncio.run(Ingress.__init__(object.__new__(Ingress), config, Handle([(1, 1)]), keys_needed=True))  # type: ignore[arg-type,func-returns-value]


def test_the_ingress_needs_no_torch() -> None:
    code = "import sys, persrep_ray.serving.deployments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
