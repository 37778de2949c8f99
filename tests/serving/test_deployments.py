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
from persrep_ray.serving.deployments import Encoder, Ingress, RemoteEngine
from persrep_ray.serving.engine.answers import AdapterRef, Classification
from persrep_ray.serving.engine.errors import (
    AdapterUnusableError,
    Failure,
    OverloadedError,
    RegistryUnavailableError,
)

IMAGE = np.zeros((2, 2, 3), np.uint8)
MUG, CUP = AdapterRef("mug", "v1"), AdapterRef("cup", "v1")
CLASSIFICATION = Classification(0.9, 0.8, 0.5)
OUT_OF_REACH = Failure.of(RegistryUnavailableError("the registry cannot be read"))
NOT_HELD = Failure.of(RegistryUnavailableError("the adapter is not in memory"))


class Handle:
    """A deployment handle whose calls end with `outcomes` in turn."""

    def __init__(self, outcomes: Sequence[Any]) -> None:
        self.outcomes = list(outcomes)
        self.sessions: list[str] = []
        self.held: list[AdapterRef | None] = []
        self.ask = self

    def options(self, *, session_id: str) -> Handle:
        self.sessions.append(session_id)
        return self

    async def remote(
        self, method: str, arguments: tuple[Any, ...], options: dict[str, Any], held: AdapterRef | None
    ) -> Any:
        self.held.append(held)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "_RETRY_PAUSE_S", 0)


def classify(handle: Handle, most: int = 1) -> Classification:
    engine = RemoteEngine(handle, most)  # type: ignore[arg-type]
    return asyncio.run(engine.classify(MUG, IMAGE))


def test_a_lost_encoder_is_asked_again() -> None:
    handle = Handle([ActorDiedError(), DeploymentUnavailableError("encoder"), CLASSIFICATION])
    assert classify(handle) == CLASSIFICATION and not handle.outcomes
    assert handle.sessions == ["mug"], "queries about an object go to the encoder that has its adapter"


def test_a_full_queue_is_told() -> None:
    with pytest.raises(OverloadedError):
        classify(Handle([BackPressureError(num_queued_requests=9, max_queued_requests=9)]))


def test_an_encoders_error_arrives_as_what_it_is() -> None:
    handle = Handle([Failure.of(AdapterUnusableError("damaged"))])
    with pytest.raises(AdapterUnusableError, match="damaged"):
        classify(handle, most=3)


def test_with_the_registry_out_of_reach_an_encoder_that_holds_the_adapter_answers() -> None:
    handle = Handle([OUT_OF_REACH, NOT_HELD, ActorDiedError(), CLASSIFICATION])
    assert classify(handle, most=4) == CLASSIFICATION
    assert handle.sessions == ["mug", "mug/1", "mug/2"]
    assert handle.held == [None, MUG, MUG, MUG], "only the object's encoder may try to read the registry"


@pytest.mark.parametrize("most", [1, 3])
def test_an_adapter_that_no_encoder_holds_is_an_error_of_the_registry(most: int) -> None:
    handle = Handle([OUT_OF_REACH] + [NOT_HELD] * (most - 1))
    with pytest.raises(RegistryUnavailableError, match="cannot be read"):
        classify(handle, most)
    assert not handle.outcomes


@pytest.mark.parametrize(("held", "answer"), [(None, CLASSIFICATION), (MUG, CLASSIFICATION), (CUP, NOT_HELD)])
def test_an_encoder_asked_for_what_it_holds_reads_nothing(held: AdapterRef | None, answer: Any) -> None:
    class Engine:
        bank = frozenset({MUG})

        async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
            return CLASSIFICATION

    encoder = object.__new__(Encoder)
    encoder._engine = Engine()  # type: ignore[assignment]
    assert asyncio.run(encoder.ask("classify", (held, IMAGE), {}, held)) == answer


def test_a_query_that_nobody_waits_for_is_called_off() -> None:
    class Endless:
        cancelled = False

        def __await__(self) -> Generator[Any, None, None]:
            yield from asyncio.get_running_loop().create_future()

        def cancel(self) -> None:
            self.cancelled = True

    response = Endless()

    class Busy(Handle):
        def remote(self, *arguments: Any) -> Any:
            return response

    async def scenario() -> None:
        query = asyncio.create_task(RemoteEngine(Busy([]), 1).classify(MUG, IMAGE))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query

    asyncio.run(scenario())
    assert response.cancelled


def test_a_query_moves_on_from_an_encoder_that_hangs() -> None:
    class Hanging(Handle):
        async def remote(self, *arguments: Any) -> Any:
            if not self.outcomes:
                raise AssertionError("asked too often")
            if (outcome := self.outcomes.pop(0)) is None:
                await asyncio.get_running_loop().create_future()
            return outcome

        def response(self, *arguments: Any) -> Any:
            return Response(self.remote(*arguments))

    class Response:
        def __init__(self, answer: Any) -> None:
            self._answer = answer

        def __await__(self) -> Generator[Any, None, Any]:
            return (yield from self._answer.__await__())

        def cancel(self) -> None:
            cancelled.append(True)

    class Asked:
        def __init__(self, handle: Hanging) -> None:
            self.remote = handle.response

    cancelled: list[bool] = []
    handle = Hanging([None, CLASSIFICATION])
    handle.ask = Asked(handle)  # type: ignore[assignment]
    engine = RemoteEngine(handle, 2, patience_s=0.01)  # type: ignore[arg-type]
    assert asyncio.run(engine.classify(MUG, IMAGE)) == CLASSIFICATION
    assert handle.sessions == ["mug", "mug/1"] and cancelled == [True]


def test_an_encoder_that_cannot_encode_is_not_healthy() -> None:
    class Engine:
        async def check(self, within_s: float) -> None:
            assert within_s < 30, "Ray Serve would give up before"
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    encoder = object.__new__(Encoder)
    encoder._engine = Engine()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="CUDA error"):
        asyncio.run(encoder.check_health())


def test_ready_once_an_encoder_answers() -> None:
    handle = Handle([BackPressureError(num_queued_requests=9, max_queued_requests=9), ActorDiedError(), None])
    asyncio.run(RemoteEngine(handle, 1).reach())  # type: ignore[arg-type]
    assert not handle.outcomes


def test_keys_that_a_replica_does_not_find_leave_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSREP_API_KEYS", raising=False)
    config = ServeConfig(registry=str(tmp_path))
    with pytest.raises(ConfigError, match="PERSREP_API_KEYS is not set where this replica runs"):
        asyncio.run(Ingress.__init__(object.__new__(Ingress), config, Handle([(1, 1)]), keys_needed=True))  # type: ignore[arg-type,func-returns-value]


def test_the_ingress_needs_no_torch() -> None:
    code = "import sys, persrep_ray.serving.deployments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
