"""What is true of every generator, and what a run asks of those that it uses."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from typing import get_args

import pytest

from persrep_ray.config import ConfigError, GeneratorName, load_config
from persrep_ray.generate.generators import GENERATORS, check_packages, generators_of


def test_every_generator_that_can_be_configured_is_listed() -> None:
    assert set(GENERATORS) == set(get_args(GeneratorName))


@pytest.mark.parametrize("name", GENERATORS)
def test_pools_have_names_of_their_own_and_workers_that_can_be_sent(name: GeneratorName) -> None:
    stages = GENERATORS[name](load_config()).stages()
    others = [stage for other in GENERATORS if other != name for stage in GENERATORS[other](load_config()).stages()]
    names = [stage.demand.name for stage in stages]
    assert len(set(names)) == len(names) > 0
    assert not set(names) & {stage.demand.name for stage in others}
    assert all(pickle.loads(pickle.dumps(stage.worker)) is stage.worker for stage in stages)


def test_the_driver_loads_no_model_library_for_any_generator() -> None:
    code = (
        "import sys, persrep_ray.generate.generators;"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("generator", "names"),
    [
        ("cut_paste", ["cut_paste"]),
        ("dreambooth", ["dreambooth"]),
        ("folder", ["folder"]),
        ("combined", ["cut_paste", "dreambooth"]),
    ],
)
def test_a_run_uses_the_generators_that_it_names(generator: str, names: list[str]) -> None:
    assert list(generators_of(load_config(None, [f"generate.generator={generator}"]))) == names


def test_a_missing_package_is_named_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else found(name))
    check_packages(load_config())
    combined = "generate.generator=combined"
    with pytest.raises(
        ConfigError, match=r"combined needs the package diffusers: pip install 'persrep-ray\[dreambooth\]'"
    ):
        check_packages(load_config(None, [combined]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dreamsim" else found(name))
    check_packages(load_config(None, [combined]))
    with pytest.raises(ConfigError, match=r"generate\.filter\.metric: dreamsim needs the package dreamsim"):
        check_packages(load_config(None, [combined, "generate.filter.metric=dreamsim"]))
