"""What a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

import persrep_ray

_PACKAGES = ("ray", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    """Name to version: this library, Python, and the packages that results depend on."""
    return {
        "persrep_ray": persrep_ray.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in _PACKAGES},
    }
