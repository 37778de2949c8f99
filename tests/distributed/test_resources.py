"""The partition of a cluster: every stage gets something, and together they fit."""

from __future__ import annotations

import pytest

from persrep_ray.config import ConfigError, RunConfig, load_config
from persrep_ray.distributed.resources import Plan, plan


def used(config: RunConfig, counts: Plan) -> float:
    return (
        counts.generate_actors * config.generate.cpus_per_actor
        + counts.evaluate_actors * config.evaluate.cpus_per_actor
        + counts.cells * config.train.workers_per_object * config.train.cpus_per_worker
    )


def test_two_cores() -> None:
    counts = plan(RunConfig(), cpus=2, gpus=0, objects=100)
    assert (counts.cells, counts.generate_actors, counts.evaluate_actors) == (2, 1, 1)


@pytest.mark.parametrize("cpus", [2, 3, 4, 7, 16, 63, 512])
@pytest.mark.parametrize("workers", [1, 2])
def test_auto_fits_and_leaves_no_stage_without(cpus: float, workers: int) -> None:
    config = load_config(None, [f"train.workers_per_object={workers}"])
    counts = plan(config, cpus=cpus, gpus=0, objects=10_000)
    assert min(counts.mask_actors, counts.generate_actors, counts.cells, counts.evaluate_actors) >= 1
    assert used(config, counts) <= cpus
    assert counts.mask_actors * config.masks.cpus_per_actor <= cpus - counts.cells * workers * 0.5
    assert used(config, counts) > cpus - 1.5, "most of the cluster is used"


def test_a_cluster_that_is_too_small() -> None:
    with pytest.raises(ConfigError, match=r"needs at least 1\.5 CPUs .* has 1 "):
        plan(RunConfig(), cpus=1, gpus=0, objects=1)
    with pytest.raises(ConfigError, match="GPUs"):
        plan(load_config(None, ["train.gpus_per_worker=1"]), cpus=8, gpus=0, objects=1)


def test_never_more_cells_or_evaluators_than_objects() -> None:
    counts = plan(RunConfig(), cpus=64, gpus=0, objects=3)
    assert (counts.cells, counts.evaluate_actors) == (3, 3)


def test_gpus_bound_the_cells() -> None:
    config = load_config(None, ["train.gpus_per_worker=0.5", "train.workers_per_object=2"])
    assert plan(config, cpus=64, gpus=4, objects=100).cells == 4


def test_numbers_in_the_configuration_are_taken_as_they_are() -> None:
    config = load_config(None, ["train.cells=7", "generate.actors=5", "evaluate.actors=3"])
    counts = plan(config, cpus=2, gpus=0, objects=100)
    assert (counts.cells, counts.generate_actors, counts.evaluate_actors) == (7, 5, 3)


def test_cells_get_what_explicit_actors_leave() -> None:
    config = load_config(None, ["generate.actors=2", "evaluate.actors=2"])
    assert plan(config, cpus=8, gpus=0, objects=100).cells == 12


def all_cpus(config: RunConfig, counts: Plan) -> float:
    generate = config.generate
    sampling = counts.fine_tune_actors * generate.dreambooth.cpus_per_actor
    return used(config, counts) + sampling + counts.sample_actors * generate.sampling.cpus_per_actor


@pytest.mark.parametrize("cpus", [2, 3, 4, 7, 16, 63, 512])
@pytest.mark.parametrize("generator", ["dreambooth", "combined"])
def test_sampling_fits_beside_the_other_stages(cpus: float, generator: str) -> None:
    config = load_config(None, [f"generate.generator={generator}"])
    counts = plan(config, cpus=cpus, gpus=0, objects=10_000)
    assert min(counts.fine_tune_actors, counts.sample_actors, counts.cells, counts.evaluate_actors) >= 1
    assert (counts.generate_actors >= 1) == (generator == "combined")
    assert counts.fine_tune_gpus == counts.sample_gpus == 0
    assert all_cpus(config, counts) <= cpus
    assert all_cpus(config, counts) > cpus - 1.75, "most of the cluster is used"


def test_cut_and_paste_needs_no_actors_that_sample() -> None:
    counts = plan(RunConfig(), cpus=64, gpus=8, objects=100)
    assert (counts.fine_tune_actors, counts.sample_actors, counts.fine_tune_gpus, counts.sample_gpus) == (0, 0, 0, 0)


def test_an_actor_that_tunes_and_one_that_samples_share_each_gpu_that_training_leaves() -> None:
    config = load_config(None, ["generate.generator=combined"])
    counts = plan(config, cpus=64, gpus=8, objects=100)
    assert (counts.fine_tune_actors, counts.fine_tune_gpus) == (counts.sample_actors, counts.sample_gpus) == (8, 0.5)
    trains = load_config(None, ["generate.generator=combined", "train.gpus_per_worker=1"])
    counts = plan(trains, cpus=64, gpus=8, objects=100)
    assert (counts.fine_tune_actors, counts.sample_actors, counts.cells) == (7, 7, 1)


def test_shares_of_gpus_come_from_the_configuration() -> None:
    config = load_config(
        None,
        [
            *("generate.generator=dreambooth", "generate.dreambooth.gpus_per_actor=1", "generate.dreambooth.actors=1"),
            "generate.sampling.gpus_per_actor=0.25",
        ],
    )
    counts = plan(config, cpus=64, gpus=5, objects=100)
    assert (counts.fine_tune_actors, counts.fine_tune_gpus, counts.sample_actors, counts.sample_gpus) == (
        1,
        1.0,
        16,
        0.25,
    )
    with pytest.raises(ConfigError, match=r"1\.25 GPUs, the cluster has 64 and 1;"):
        plan(config, cpus=64, gpus=1, objects=100)


@pytest.mark.parametrize(
    ("cpus", "gpus", "settings"),
    [
        (32, 8, ["generate.dreambooth.cpus_per_actor=2", "generate.sampling.cpus_per_actor=2"]),
        (48, 8, ["generate.dreambooth.cpus_per_actor=4", "generate.sampling.cpus_per_actor=2"]),
        (8, 16, []),
        (64, 8, ["generate.sampling.actors=8"]),
        (64, 3, ["generate.dreambooth.gpus_per_actor=0.6", "generate.sampling.gpus_per_actor=0.4"]),
        (64, 3, ["generate.dreambooth.gpus_per_actor=0.6", "generate.sampling.gpus_per_actor=0.6"]),
        (64, 8, ["train.gpus_per_worker=2", "generate.generator=combined"]),
    ],
)
def test_sampling_on_gpus_never_wants_more_than_there_is(cpus: float, gpus: float, settings: list[str]) -> None:
    config = load_config(None, ["generate.generator=dreambooth", *settings])
    counts = plan(config, cpus=cpus, gpus=gpus, objects=10_000)
    assert min(counts.fine_tune_actors, counts.sample_actors, counts.cells, counts.evaluate_actors) >= 1
    assert all_cpus(config, counts) <= cpus
    each = counts.fine_tune_gpus, counts.sample_gpus
    used_gpus = counts.fine_tune_actors * each[0] + counts.sample_actors * each[1]
    assert used_gpus + counts.cells * config.train.gpus_per_worker <= gpus
    if sum(each) > 1:  # never two on one GPU
        assert counts.fine_tune_actors + counts.sample_actors <= gpus
