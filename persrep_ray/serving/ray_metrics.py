"""The engine's measurements as Prometheus metrics, which every Ray node exports."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from persrep_ray.serving.engine.metrics import Metrics

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
_ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


class RayMetrics(Metrics):
    """Named `persrep_…`; Prometheus shows them with the prefix `ray_`."""

    def __init__(self) -> None:
        self._lookups = Counter(
            "persrep_adapter_lookups", description="Adapters wanted, by whether they were in memory.", tag_keys=("hit",)
        )
        self._loads = Histogram(
            "persrep_adapter_load_seconds", description="Reading an adapter from the registry.", boundaries=_SECONDS
        )
        self._rows = Histogram("persrep_batch_rows", description="Images of a batch.", boundaries=_ROWS)
        self._adapters = Histogram(
            "persrep_batch_adapters", description="Distinct adapters of a batch.", boundaries=_ROWS
        )
        self._encoded = Histogram("persrep_batch_seconds", description="Encoding a batch.", boundaries=_SECONDS)
        self._waited = Histogram(
            "persrep_queue_seconds", description="An image's wait for its batch to start.", boundaries=_SECONDS
        )
        self._errors = Counter("persrep_errors", description="Queries that got an error.", tag_keys=("code",))

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
