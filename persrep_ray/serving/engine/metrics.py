"""What the engine reports of itself. The endpoint turns it into Prometheus metrics."""

from __future__ import annotations


class Metrics:
    """Takes measurements; this one drops them."""

    def adapter_looked_up(self, *, hit: bool) -> None:
        """An adapter was wanted; `hit`: it was in memory."""

    def adapter_loaded(self, seconds: float) -> None:
        """An adapter was read from the registry."""

    def batch(self, *, rows: int, adapters: int, waited: list[float], seconds: float) -> None:
        """A batch was encoded: its rows, distinct adapters, how long each row had waited, and the time it took."""

    def failed(self, code: str) -> None:
        """A query got an error."""
