"""What a run plans with on a machine, in a container, and on a Mac."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from persrep_ray.distributed import machine
from persrep_ray.distributed.machine import GIB


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host of 192 cores and 768 GiB, of which a container has two cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 192)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 768 * GIB // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setattr(machine, "_LIMITS", ())
    return monkeypatch


def test_a_container_plans_with_its_own_cores(container: pytest.MonkeyPatch) -> None:
    assert machine.usable_cpus() == 2


@pytest.mark.parametrize(("limit", "expected"), [(str(8 * GIB), 8), ("max", 768), ("9223372036854771712", 768)])
def test_memory_is_what_the_container_allows(
    container: pytest.MonkeyPatch, tmp_path: Path, limit: str, expected: int
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    container.setattr(machine, "_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    assert machine.memory() == expected * GIB


@pytest.mark.parametrize(
    ("cores", "gib", "cpus", "cache_mib"),
    [(8, 8, 4, 512), (2, 4, 2, 512), (2, 64, 2, 2048), (192, 768, 192, 1024), (1, 2, 2, 256)],
)
def test_memory_bounds_actors_and_caches(
    container: pytest.MonkeyPatch, cores: int, gib: int, cpus: int, cache_mib: int
) -> None:
    container.setattr("joblib.cpu_count", lambda: cores)
    container.setattr(machine, "memory", lambda: gib * GIB)
    assert machine.usable_cpus() == cpus
    assert machine.cache_bytes() == cache_mib * 1024**2


class TestDevice:
    @pytest.fixture(autouse=True)
    def _asked_anew(self) -> None:
        machine._mps_works.cache_clear()

    def test_without_a_gpu_it_is_the_cpu(self) -> None:
        assert (machine.device(0), machine.device(0.5)) == ("cpu", "cuda")

    def test_a_macs_gpu_is_used_if_it_computes_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
        monkeypatch.setattr(machine, "_attention_gradient", lambda device: torch.ones(2))
        assert machine.device(0) == "mps"

    def test_a_macs_gpu_that_computes_nonsense_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
        monkeypatch.setattr(machine, "_attention_gradient", lambda device: torch.ones(2) * (device.type == "mps"))
        assert machine.device(0) == "cpu"

    def test_a_macs_gpu_that_lacks_an_operation_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)  # PyTorch here has no such device
        assert machine.device(0) == "cpu"

    def test_the_probe_has_a_gradient(self) -> None:
        assert machine._attention_gradient(torch.device("cpu")).abs().max() > 0.01
