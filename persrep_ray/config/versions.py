"""The versions that a result was made with."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata

import persrep_ray

_OPTIONAL = ("diffusers",)
_PACKAGES = ("ray", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    """Versions by name, of this library, of Python and of the packages that results depend on."""
    installed = {one: metadata.version(one) for one in _OPTIONAL if importlib.util.find_spec(one) is not None}
    return {
        "persrep_ray": persrep_ray.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in _PACKAGES},
        **installed,
    }
