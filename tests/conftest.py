"""For all tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

RAY_TESTS = "tests/ray/"

# Tiny models on many threads wait for each other more than they compute.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The Ray tests come first: together they take as long as the rest."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY_TESTS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, and so are all Ray tests: several clusters at a time would slow each other down.

    (xdist's groups do nothing under pytest 9.2: they rely on an attribute that it no longer has.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return RAY_TESTS if nodeid.startswith(RAY_TESTS) else nodeid.partition("::")[0]

    return Scheduler(config, log)
