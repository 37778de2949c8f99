"""The partition of a cluster: every stage gets something, and together they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.distributed.resources import Demand, Plan, PoolSize, plan

CHEAP = Demand("cheap", "auto", 0.5)
FIRST = Demand("first", "auto", 0.25, "auto", holds_model=True, by_object=True)
SECOND = Demand("second", "auto", 0.25, "auto", holds_model=True)
MODELS = [FIRST, SECOND]


def used(config: RunConfig, counts: Plan, demands: Sequence[Demand]) -> float:
    """All CPUs but those of the masks, which are made before."""
    return (
        sum(counts.pools[demand.name].actors * demand.cpus for demand in demands)
        + counts.evaluate_actors * config.evaluate.cpus_per_actor
        + counts.cells * config.train.workers_per_object * config.train.cpus_per_worker
    )


def actors(counts: Plan) -> dict[str, int]:
    return {name: pool.actors for name, pool in counts.pools.items()}


def test_two_cores() -> None:
    counts = plan(RunConfig(), [CHEAP], cpus=2, gpus=0, objects=100)
    assert (counts.cells, actors(counts), counts.evaluate_actors) == (2, {"cheap": 1}, 1)


@pytest.mark.parametrize("cpus", [2, 3, 4, 7, 16, 63, 512])
@pytest.mark.parametrize("workers", [1, 2])
def test_auto_fits_and_leaves_no_stage_without(cpus: float, workers: int) -> None:
    config = load_config(None, [f"train.workers_per_object={workers}"])
    counts = plan(config, [CHEAP], cpus=cpus, gpus=0, objects=10_000)
    assert min(counts.mask_actors, counts.pools["cheap"].actors, counts.cells, counts.evaluate_actors) >= 1
    assert used(config, counts, [CHEAP]) <= cpus
    assert counts.mask_actors * config.masks.cpus_per_actor <= cpus - counts.cells * workers * 0.5
    assert used(config, counts, [CHEAP]) > cpus - 1.5, "most of the cluster is used"


def test_a_cluster_that_is_too_small() -> None:
    with pytest.raises(ConfigError, match=r"needs at least 1\.5 CPUs .* has 1 "):
        plan(RunConfig(), [CHEAP], cpus=1, gpus=0, objects=1)
    with pytest.raises(ConfigError, match="GPUs"):
        plan(load_config(None, ["train.gpus_per_worker=1"]), [CHEAP], cpus=8, gpus=0, objects=1)


def test_never_more_cells_or_evaluators_than_objects() -> None:
    counts = plan(RunConfig(), [CHEAP], cpus=64, gpus=0, objects=3)
    assert (counts.cells, counts.evaluate_actors) == (3, 3)


def test_gpus_bound_the_cells() -> None:
    config = load_config(None, ["train.gpus_per_worker=1", "train.workers_per_object=2"])
    assert plan(config, [CHEAP], cpus=64, gpus=8, objects=100).cells == 4


def test_numbers_in_the_configuration_are_taken_as_they_are() -> None:
    config = load_config(None, ["train.cells=7", "evaluate.actors=3"])
    counts = plan(config, [replace(CHEAP, actors=5)], cpus=2, gpus=0, objects=100)
    assert (counts.cells, actors(counts), counts.evaluate_actors) == (7, {"cheap": 5}, 3)


def test_cells_get_what_explicit_actors_leave() -> None:
    config = load_config(None, ["evaluate.actors=2"])
    assert plan(config, [replace(CHEAP, actors=2)], cpus=8, gpus=0, objects=100).cells == 12


@pytest.mark.parametrize("cpus", [2, 3, 4, 7, 16, 63, 512])
@pytest.mark.parametrize("demands", [MODELS, [CHEAP, *MODELS]])
def test_pools_with_models_fit_beside_the_other_stages(cpus: float, demands: list[Demand]) -> None:
    counts = plan(RunConfig(), demands, cpus=cpus, gpus=0, objects=10_000)
    assert actors(counts).keys() == {demand.name for demand in demands}
    assert min(*actors(counts).values(), counts.cells, counts.evaluate_actors) >= 1
    assert {pool.gpus for pool in counts.pools.values()} == {0}
    assert used(RunConfig(), counts, demands) <= cpus
    assert used(RunConfig(), counts, demands) > cpus - 1.75, "most of the cluster is used"


def test_without_gpus_a_model_is_in_memory_for_every_eight_cpus() -> None:
    counts = plan(RunConfig(), MODELS, cpus=64, gpus=0, objects=100)
    assert actors(counts) == {"first": 8, "second": 8}


def test_more_actors_than_objects_are_of_no_use_where_an_item_is_an_object() -> None:
    assert actors(plan(RunConfig(), MODELS, cpus=64, gpus=8, objects=3)) == {"first": 3, "second": 8}


def test_an_actor_of_each_pool_shares_each_gpu_that_training_leaves() -> None:
    demands = [CHEAP, *MODELS]
    counts = plan(RunConfig(), demands, cpus=64, gpus=8, objects=100)
    assert counts.pools["first"] == counts.pools["second"] == PoolSize(8, 0.5)
    assert counts.pools["cheap"].gpus == 0
    trains = load_config(None, ["train.gpus_per_worker=1"])
    counts = plan(trains, demands, cpus=64, gpus=8, objects=100)
    assert (counts.pools["first"].actors, counts.pools["second"].actors, counts.cells) == (7, 7, 1)


def test_shares_of_gpus_come_from_the_demand() -> None:
    demands = [replace(FIRST, gpus=1.0, actors=1), replace(SECOND, gpus=0.25)]
    counts = plan(RunConfig(), demands, cpus=64, gpus=5, objects=100)
    assert counts.pools == {"first": PoolSize(1, 1.0), "second": PoolSize(16, 0.25)}
    with pytest.raises(ConfigError, match=r"1\.25 GPUs, the cluster has 64 and 1;"):
        plan(RunConfig(), demands, cpus=64, gpus=1, objects=100)


@pytest.mark.parametrize(
    ("cpus", "gpus", "first", "second", "settings"),
    [
        (32, 8, {"cpus": 2}, {"cpus": 2}, []),
        (48, 8, {"cpus": 4}, {"cpus": 2}, []),
        (8, 16, {}, {}, []),
        (64, 8, {}, {"actors": 8}, []),
        (64, 8, {"actors": 3}, {}, []),
        (64, 3, {"gpus": 0.6}, {"gpus": 0.4}, []),
        (64, 3, {"gpus": 0.6}, {"gpus": 0.6}, []),
        (64, 8, {}, {}, ["train.gpus_per_worker=2"]),
    ],
)
def test_models_on_gpus_never_get_more_than_there_is(
    cpus: float, gpus: float, first: dict[str, Any], second: dict[str, Any], settings: list[str]
) -> None:
    config = load_config(None, settings)
    demands = [CHEAP, replace(FIRST, **first), replace(SECOND, **second)]
    counts = plan(config, demands, cpus=cpus, gpus=gpus, objects=10_000)
    assert min(*actors(counts).values(), counts.cells, counts.evaluate_actors) >= 1
    assert used(config, counts, demands) <= cpus
    pools = [counts.pools[demand.name] for demand in demands]
    assert sum(pool.actors * pool.gpus for pool in pools) + counts.cells * config.train.gpus_per_worker <= gpus
    if sum(pool.gpus for pool in pools) > 1:  # no two of their actors on a GPU
        assert sum(pool.actors for pool in pools if pool.gpus) <= gpus
