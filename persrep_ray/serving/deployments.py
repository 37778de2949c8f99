"""The Ray Serve application: an ingress that speaks HTTP, and encoders that hold the backbone and the adapters.

The ingress authenticates callers, enforces limits, and decodes and shrinks images. Consistent hashing of the object's
id routes a query to an encoder, so each encoder keeps the adapters of its share of the objects. An encoder batches
queries about different objects together.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter, Histogram

from persrep_ray.config import ConfigError, ServeConfig, load_serve_config
from persrep_ray.distributed.machine import device
from persrep_ray.serving.engine.answers import AdapterRef, Classification, Comparison, Identification
from persrep_ray.serving.engine.catalog import Catalog
from persrep_ray.serving.engine.errors import Failure, OverloadedError, QueryError, RegistryUnavailableError
from persrep_ray.serving.engine.metrics import Metrics
from persrep_ray.serving.engine.profile import Profile, read_profile
from persrep_ray.serving.engine.source import Source
from persrep_ray.serving.http.api import make_app
from persrep_ray.serving.http.auth import ENVIRONMENT, Keys
from persrep_ray.tasks.dense import DensePrediction

_RETRY_PAUSE_S = 0.1
_HEALTH_CHECK_S = 5
_ENCODES_WITHIN_S = 25.0  # Ray Serve's own limit is 30 s
_ROUTER = "persrep_ray.serving.router.EncoderRouter"
_GONE = (RayActorError, ObjectLostError, DeploymentUnavailableError, ReplicaUnavailableError)
_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
_ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
_log = logging.getLogger(__name__)


class Encoder:
    """A replica with one `LocalEngine`."""

    async def __init__(self, config: ServeConfig, profile: Profile) -> None:  # type: ignore[misc]
        import torch  # not at the top: it takes seconds and half a gigabyte, and the ingress does not need it

        from persrep_ray.serving.engine.engine import LocalEngine

        torch.set_num_threads(config.encoder.threads or max(1, int(config.encoder.cpus_per_replica)))
        self._engine = LocalEngine(
            config, profile, device=device(config.encoder.gpus_per_replica), metrics=RayMetrics()
        )
        self._follower = asyncio.create_task(self._engine.run())

    async def check_health(self) -> None:
        """Raises an error if this replica cannot encode any more; Ray Serve then replaces it."""
        await self._engine.check(_ENCODES_WITHIN_S)

    async def ask(
        self, method: str, arguments: tuple[Any, ...], options: Mapping[str, Any], held: AdapterRef | None = None
    ) -> Any:
        """The answer of the engine's `method`, or a `Failure`, at once if the adapter `held` is not in memory."""
        if held is not None and held not in self._engine.bank:
            return Failure.of(RegistryUnavailableError("the adapter is not in memory"))
        try:
            return await getattr(self._engine, method)(*arguments, **options)
        except QueryError as error:
            return Failure.of(error)


class RemoteEngine:
    """An `answers.Engine` that sends queries to the encoders, at most `most`.

    An encoder that takes longer than `patience_s` may hang (its GPU is lost, say), so another one is asked as well.

    A query that is lost with an encoder is sent again. An encoder that has just joined has nothing in memory. If it
    cannot read an adapter because the registry is out of reach, the encoders that hold the adapter answer.
    """

    def __init__(self, encoders: DeploymentHandle[Any], most: int, patience_s: float = math.inf) -> None:
        self._encoders = encoders
        self._most = most
        self._patience_s = patience_s if most > 1 and patience_s < math.inf else None

    async def ping(self) -> None:
        await self._ask("", "ping")

    async def reach(self) -> None:
        """Waits until an encoder answers."""
        while True:
            try:
                await self.ping()
                return
            except QueryError as error:
                _log.info("no encoder answers yet: %s", error)
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def embed(self, ref: AdapterRef, image: np.ndarray) -> np.ndarray:
        answer: np.ndarray = await self._ask_about(ref, "embed", image)
        return answer

    async def classify(self, ref: AdapterRef, image: np.ndarray) -> Classification:
        answer: Classification = await self._ask_about(ref, "classify", image)
        return answer

    async def locate(self, ref: AdapterRef, image: np.ndarray) -> DensePrediction:
        answer: DensePrediction = await self._ask_about(ref, "locate", image)
        return answer

    async def compare(self, ref: AdapterRef, images: tuple[np.ndarray, np.ndarray]) -> Comparison:
        answer: Comparison = await self._ask_about(ref, "compare", images)
        return answer

    async def identify(self, image: np.ndarray, prefixes: Sequence[str], *, top_k: int, exact: bool) -> Identification:
        answer: Identification = await self._ask("", "identify", image, tuple(prefixes), top_k=top_k, exact=exact)
        return answer

    async def _ask_about(self, ref: AdapterRef, method: str, *arguments: Any) -> Any:
        """The answer of the object's encoder or, if it cannot read the adapter now, of one that holds it."""
        try:
            return await self._ask(ref.object_id, method, ref, *arguments)
        except RegistryUnavailableError:
            for place in range(1, self._most):
                with suppress(RegistryUnavailableError):
                    return await self._ask(f"{ref.object_id}/{place}", method, ref, *arguments, held=ref)
            raise

    async def _ask(
        self, session: str, method: str, *arguments: Any, held: AdapterRef | None = None, **options: Any
    ) -> Any:
        """The answer of the encoder that `EncoderRouter` finds for the session, of any encoder for the session "".

        It tries again while encoders are lost; the caller limits the time. Raises `QueryError`.
        """
        handle = self._encoders.options(session_id=session) if session else self._encoders
        moved = False
        while True:
            response = handle.ask.remote(method, arguments, options, held)
            try:
                answer = await asyncio.wait_for(_answer(response), None if moved else self._patience_s)
            except asyncio.TimeoutError:
                response.cancel()
                _log.warning("an encoder gave no answer within %g s; another one is asked", self._patience_s)
                moved = True
                if session:
                    object_id, _, place = session.partition("/")
                    handle = self._encoders.options(session_id=f"{object_id}/{int(place or 0) + 1}")
                continue
            except asyncio.CancelledError:  # the client has gone or the time is over, so the encoder can stop
                response.cancel()
                raise
            except BackPressureError:
                raise OverloadedError("all encoders are busy") from None
            except _GONE as error:
                _log.warning("an encoder was lost (%s); the query is sent again", type(error).__name__)
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            if isinstance(answer, Failure):
                raise answer.error()
            return answer


async def _answer(response: Any) -> Any:
    return await response


class Ingress:
    """A replica of the HTTP interface."""

    async def __init__(self, config: ServeConfig, encoders: DeploymentHandle[Any], keys_needed: bool) -> None:  # type: ignore[misc]
        self._config = config
        self._engine = RemoteEngine(encoders, config.encoder.most_replicas, config.http.timeout_s / 2)
        self._catalog = Catalog(Source(config.registry), config.refresh_s)
        self._keys = Keys.load(config.http)
        if keys_needed and self._keys.are_open:  # no endpoint is better than an open one
            raise ConfigError(
                f"{ENVIRONMENT} is not set where this replica runs; set it before `ray start` on every node"
            )
        self._metrics = RayMetrics()
        self._follower = asyncio.create_task(self._catalog.run())
        self._key_follower = asyncio.create_task(self._keys.follow())
        self._reaching = asyncio.create_task(self._engine.reach())

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(
            self._config,
            self._engine,
            self._catalog,
            self._keys,
            ready=self._is_ready,
            count=self._metrics.failed,
        )

    def _is_ready(self) -> bool:
        """Whether the registry has been read and an encoder has answered."""
        return self._catalog.loaded and self._reaching.done()


class RayMetrics(Metrics):
    """The engine's measurements as Prometheus metrics `ray_persrep_…`, which every Ray node exports."""

    def __init__(self) -> None:
        self._lookups = Counter(
            "persrep_adapter_lookups",
            description="Adapters wanted, by whether they were in memory.",
            tag_keys=("hit",),
        )
        self._loads = Histogram(
            "persrep_adapter_load_seconds",
            description="Time to read an adapter.",
            boundaries=_SECONDS,
        )
        self._rows = Histogram("persrep_batch_rows", description="Images per batch.", boundaries=_ROWS)
        self._adapters = Histogram(
            "persrep_batch_adapters", description="Distinct adapters per batch.", boundaries=_ROWS
        )
        self._encoded = Histogram("persrep_batch_seconds", description="Time to encode a batch.", boundaries=_SECONDS)
        self._waited = Histogram(
            "persrep_queue_seconds", description="Time that an image waits for its batch to start.", boundaries=_SECONDS
        )
        self._errors = Counter("persrep_errors", description="Queries answered with an error.", tag_keys=("code",))

    def adapter_looked_up(self, *, hit: bool) -> None:
        self._lookups.inc(tags={"hit": str(hit).lower()})

    def adapter_loaded(self, seconds: float) -> None:
        self._loads.observe(seconds)

    def batch(self, *, rows: int, adapters: int, waited: list[float], seconds: float) -> None:
        self._rows.observe(rows)
        self._adapters.observe(adapters)
        self._encoded.observe(seconds)
        for wait in waited:
            self._waited.observe(wait)

    def failed(self, code: str) -> None:
        self._errors.inc(tags={"code": code})


def build_app(args: ServeConfig | Mapping[str, Any]) -> serve.Application:
    """The application of an endpoint.

    Args:
        args: the settings, or the mapping that `serve/config.yaml` holds.

    Raises:
        ConfigError: a setting is not allowed, or nothing can be served from the registry.
    """
    config = args if isinstance(args, ServeConfig) else load_serve_config(args)
    return application(config, read_profile(config), Encoder)


def application(config: ServeConfig, profile: Profile, encoder_class: type) -> serve.Application:
    """An ingress in front of replicas of `encoder_class`, which has the same constructor and `ask` as `Encoder`."""
    encoder, http = config.encoder, config.http
    scaling: dict[str, Any] = {"num_replicas": encoder.min_replicas}
    if encoder.most_replicas > encoder.min_replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=encoder.min_replicas,
                max_replicas=encoder.most_replicas,
                target_ongoing_requests=encoder.batch_rows,
            )
        }
    encoders = serve.deployment(
        name="encoder",
        max_ongoing_requests=encoder.max_waiting,
        max_queued_requests=encoder.max_queued,
        ray_actor_options={"num_cpus": encoder.cpus_per_replica, "num_gpus": encoder.gpus_per_replica},
        request_router_config={
            "request_router_class": _ROUTER,
            "request_router_kwargs": {"num_fallback_replicas": encoder.most_replicas},
        },
        health_check_period_s=_HEALTH_CHECK_S,
        **scaling,
    )(encoder_class)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=http.replicas,
        max_ongoing_requests=http.max_waiting * 4,  # the ingress answers 503 above `max_waiting`
        ray_actor_options={"num_cpus": http.cpus_per_replica},
        health_check_period_s=_HEALTH_CHECK_S,
    )(serve.ingress()(Ingress))
    keys_needed = not Keys.load(config.http).are_open  # a broken keys file fails here and not in every replica
    bound: serve.Application = ingress.bind(config, encoders.bind(config, profile), keys_needed)
    return bound
