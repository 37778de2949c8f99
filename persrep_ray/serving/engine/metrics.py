"""Measurements of the engine. `deployments.RayMetrics` exports them to Prometheus."""

from __future__ import annotations


class Metrics:
    """Receives measurements and drops them; subclasses record them."""

    def adapter_looked_up(self, *, hit: bool) -> None:
        """A query asked for an adapter; `hit` says whether it was in memory."""

    def adapter_loaded(self, seconds: float) -> None:
        """An adapter was read from the registry."""

    def batch(self, *, rows: int, adapters: int, waited: list[float], seconds: float) -> None:
        """A batch of `rows` rows with so many distinct adapters took `seconds`; `waited` are its rows' waits, in s."""

    def failed(self, code: str) -> None:
        """A query was answered with an error."""
