"""The generators by the names that `generate.generator` gives them."""

from __future__ import annotations

import importlib.util

from persrep_ray.config import ConfigError, GeneratorName, RunConfig
from persrep_ray.generate.cut_paste.generator import CutPaste
from persrep_ray.generate.dreambooth.generator import DreamBooth
from persrep_ray.generate.folder.generator import Folder
from persrep_ray.generate.schedule import shares
from persrep_ray.generate.types import Generator

GENERATORS: dict[GeneratorName, type[Generator]] = {
    "cut_paste": CutPaste,
    "dreambooth": DreamBooth,
    "folder": Folder,
}


def generators_of(config: RunConfig) -> dict[GeneratorName, Generator]:
    """The generators that make the images of a run."""
    return {name: GENERATORS[name](config) for name in shares(config)}


def check_packages(config: RunConfig) -> None:
    """Raises ConfigError if a package that the run's generators need is not installed."""
    for generator in generators_of(config).values():
        for package in generator.packages():
            if importlib.util.find_spec(package.name) is None:
                raise ConfigError(f"{package.needed_by} needs the package {package.name}: {package.command}")
