"""What this machine gives us: the cores and the memory that its container allows, and the device for models."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import joblib

if TYPE_CHECKING:
    import torch

GIB = 1024**3
LEAST_CPUS = 2  # logical: on a single core the stages take turns
_BYTES_PER_CPU = 2 * GIB  # two actors of half a CPU, each with torch and a backbone
_CACHE_SHARE = 1 / 4  # of the memory, for the caches of as many actors as there are CPUs
_MOST_CACHE = 2 * GIB
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of cgroups v2 and v1


def cores() -> int:
    """The cores that this process may use: those of the machine, or fewer if affinity or a cgroup says so."""
    return int(joblib.cpu_count())


def memory() -> int:
    """Bytes of memory: those of the machine, or fewer if a cgroup says so."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _LIMITS:
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return min(limits)


def usable_cpus() -> int:
    """How many CPUs a run on this machine plans with: the cores, or fewer if the memory would not do for them."""
    return max(LEAST_CPUS, min(cores(), memory() // _BYTES_PER_CPU))


def cache_bytes() -> int:
    """How much an actor on this machine may keep of what it can compute again."""
    return min(_MOST_CACHE, int(memory() * _CACHE_SHARE / usable_cpus()))


def device(gpus: float) -> str:
    """PyTorch's name of the device for a model of an actor that has `gpus` GPUs. Ray counts no GPUs on Macs."""
    if gpus:
        return "cuda"
    return "mps" if _mps_works() else "cpu"


@cache
def _mps_works() -> bool:
    """Whether a Mac's GPU computes what our models need: attention in bfloat16, and its gradient."""
    import torch

    if not torch.backends.mps.is_available():
        return False
    try:
        on_cpu, on_gpu = (_attention_gradient(torch.device(kind)) for kind in ("cpu", "mps"))
    except (RuntimeError, TypeError, NotImplementedError):  # an operation or a type that this version lacks
        return False
    return bool(torch.allclose(on_cpu, on_gpu, rtol=0.1, atol=0.01))


def _attention_gradient(device: torch.device) -> torch.Tensor:
    """The gradient (8, 8) of a small attention's output with respect to its query projection, on the CPU."""
    import torch

    numbers = torch.linspace(-1, 1, 4 * 8).reshape(1, 4, 8).to(device)
    query = torch.eye(8, device=device, requires_grad=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type != "cpu"):
        attended = torch.nn.functional.scaled_dot_product_attention(numbers @ query, numbers, numbers)
    attended.float().square().sum().backward()
    assert query.grad is not None
    return query.grad.float().cpu()
