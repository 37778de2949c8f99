"""How many actors and cells a run gets: an explicit partition, so that no stage can starve another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from persrep_ray.config import ConfigError, RunConfig

_EPSILON = 1e-9
_CPUS_PER_PAIR = 8  # of an actor that fine-tunes and one that samples without GPUs: each holds gigabytes
_AUTO_GPUS = 0.5  # of an actor that fine-tunes or samples: one of each shares a GPU


@dataclass(frozen=True)
class Plan:
    """Masking ends before generation and evaluation start, and uses their share."""

    mask_actors: int
    generate_actors: int
    cells: int
    evaluate_actors: int
    fine_tune_actors: int = 0
    fine_tune_gpus: float = 0.0  # of each actor
    sample_actors: int = 0
    sample_gpus: float = 0.0


def plan(config: RunConfig, *, cpus: float, gpus: float, objects: int) -> Plan:
    """Shares `cpus` and `gpus`, what the cluster has now, among the stages of a run of `objects` objects.

    `auto` gives half of the CPUs to training and a quarter each to generation and evaluation, and every stage at least
    one worker. The GPUs that training leaves go to fine-tuning and sampling, an actor of each for every share, as far
    as there are CPUs for them. Numbers in the configuration are taken as they are: a cluster that scales up will find
    the room.

    Raises:
        ConfigError: with `auto`, one worker per stage is more than the cluster has.
    """
    generate, train, evaluate = config.generate, config.train, config.evaluate
    cell_cpus = train.cpus_per_worker * train.workers_per_object
    cell_gpus = train.gpus_per_worker * train.workers_per_object
    pastes, samples = generate.generator != "dreambooth", generate.generator != "cut_paste"
    fine_tune_gpus, sample_gpus = _sampling_gpus(config, gpus) if samples else (0.0, 0.0)
    paste_cpus = generate.cpus_per_actor if pastes else 0.0
    pair_cpus = generate.dreambooth.cpus_per_actor + generate.sampling.cpus_per_actor if samples else 0.0
    wanted = [evaluate.actors, train.cells]
    wanted += [generate.actors] * pastes + [generate.dreambooth.actors, generate.sampling.actors] * samples
    least, least_gpus = (
        cell_cpus + evaluate.cpus_per_actor + paste_cpus + pair_cpus,
        cell_gpus + fine_tune_gpus + sample_gpus,
    )
    if "auto" in wanted and (least > cpus + _EPSILON or least_gpus > gpus + _EPSILON):
        raise ConfigError(
            f"the run needs at least {least:g} CPUs and {least_gpus:g} GPUs, the cluster has {cpus:g} and "
            f"{gpus:g}; lower train.workers_per_object or the cpus_per_… and gpus_per_… settings"
        )
    fine_tune_actors = sample_actors = generate_actors = 0
    if samples:
        if fine_tune_gpus + sample_gpus:
            room = cpus - cell_cpus - evaluate.cpus_per_actor - paste_cpus
            fine_tune_actors, sample_actors = _pairs_on_gpus(
                config, gpus - cell_gpus, (fine_tune_gpus, sample_gpus), room
            )
        else:  # a pipeline in memory for every few CPUs
            fine_tune_actors = _number(generate.dreambooth.actors, cpus, _CPUS_PER_PAIR)
            sample_actors = _number(generate.sampling.actors, cpus, _CPUS_PER_PAIR)
        fine_tune_actors = min(fine_tune_actors, max(1, objects))
    sampling = fine_tune_actors * generate.dreambooth.cpus_per_actor + sample_actors * generate.sampling.cpus_per_actor
    if pastes:
        generate_actors = _number(generate.actors, cpus / 4 - sampling, generate.cpus_per_actor)
    generating = sampling + generate_actors * paste_cpus
    share = min(cpus / 4, cpus - generating - cell_cpus)
    evaluate_actors = min(_number(evaluate.actors, share, evaluate.cpus_per_actor), max(1, objects))
    free = generating + evaluate_actors * evaluate.cpus_per_actor
    cells = _number(train.cells, cpus - free, cell_cpus)
    if train.cells == "auto" and cell_gpus:
        left = gpus - fine_tune_actors * fine_tune_gpus - sample_actors * sample_gpus
        cells = min(cells, max(1, int(left / cell_gpus + _EPSILON)))
    return Plan(
        mask_actors=_number("auto", free, config.masks.cpus_per_actor),
        generate_actors=generate_actors,
        cells=min(cells, max(1, objects)),
        evaluate_actors=evaluate_actors,
        fine_tune_actors=fine_tune_actors,
        fine_tune_gpus=fine_tune_gpus,
        sample_actors=sample_actors,
        sample_gpus=sample_gpus,
    )


def _sampling_gpus(config: RunConfig, gpus: float) -> tuple[float, float]:
    """GPUs of an actor that fine-tunes and of one that samples."""
    auto = _AUTO_GPUS if gpus else 0.0
    tune, sample = config.generate.dreambooth.gpus_per_actor, config.generate.sampling.gpus_per_actor
    return auto if tune == "auto" else tune, auto if sample == "auto" else sample


def _pairs_on_gpus(config: RunConfig, gpus: float, each: tuple[float, float], cpus: float) -> tuple[int, int]:
    """How many actors tune and sample on `gpus`, of one of which they take `each`; `cpus` is the room for both."""
    tune, sample = config.generate.dreambooth, config.generate.sampling
    if tune.actors != "auto" and sample.actors != "auto":
        return tune.actors, sample.actors
    if tune.actors != "auto":
        left = _fitting(gpus - tune.actors * each[0], each[1])
        return tune.actors, _number(
            "auto", min(left, (cpus - tune.actors * tune.cpus_per_actor) / sample.cpus_per_actor), 1
        )
    if sample.actors != "auto":
        left = _fitting(gpus - sample.actors * each[1], each[0])
        return _number(
            "auto", min(left, (cpus - sample.actors * sample.cpus_per_actor) / tune.cpus_per_actor), 1
        ), sample.actors
    pairs = _number("auto", min(_fitting(gpus, sum(each)), cpus / (tune.cpus_per_actor + sample.cpus_per_actor)), 1)
    return pairs, pairs


def _fitting(gpus: float, each: float) -> float:
    """How often `each` fits into whole GPUs: three times 0.4 takes two of them."""
    if each == 0:
        return math.inf
    return int(gpus + _EPSILON) * int(1 / each + _EPSILON) if each <= 1 else int(gpus / math.ceil(each) + _EPSILON)


def evaluate_actors(config: RunConfig, *, cpus: float, objects: int) -> int:
    """How many actors an evaluation gets that has the cluster to itself."""
    return min(_number(config.evaluate.actors, cpus, config.evaluate.cpus_per_actor), max(1, objects))


def _number(wanted: int | str, share: float, each: float) -> int:
    return wanted if isinstance(wanted, int) else max(1, int(share / each + _EPSILON))
