"""How many actors and cells a run gets. The cluster is partitioned explicitly, so that no stage can starve another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from persrep_ray.config import ConfigError, RunConfig

_EPSILON = 1e-9
_CPUS_PER_MODEL = 8  # without GPUs, for each actor of a pool that holds a large model: it takes gigabytes
_AUTO_GPUS = 0.5  # of an actor that holds a large model: an actor of each of two pools shares a GPU


@dataclass(frozen=True)
class Demand:
    """A pool of actors that generation asks for.

    Attributes:
        name: unique within the run.
        cpus, gpus: of one actor. `auto`: a share of a GPU if the cluster has any.
        holds_model: its actors hold a large model, so GPUs or memory limit their number and not CPUs.
        by_object: an item of work is a whole object, so more actors than objects are of no use.
    """

    name: str
    actors: int | Literal["auto"]
    cpus: float
    gpus: float | Literal["auto"] = 0.0
    holds_model: bool = False
    by_object: bool = False


class PoolSize(NamedTuple):
    """`gpus` are those of one actor."""

    actors: int
    gpus: float


@dataclass(frozen=True)
class Plan:
    """`pools` are those of generation, by the names of the demands.

    Masks are made before generation and evaluation start, with the share of both.
    """

    mask_actors: int
    pools: Mapping[str, PoolSize]
    cells: int
    evaluate_actors: int


def plan(config: RunConfig, demands: Sequence[Demand], *, cpus: float, gpus: float, objects: int) -> Plan:
    """Divides the `cpus` and `gpus` that the cluster has now among the stages of a run of `objects` objects.

    With `auto`, training gets half of the CPUs, generation and evaluation a quarter each, and every stage at least one
    worker. Pools that hold large models get the GPUs that training leaves, as many actors in each as there are shares,
    if there are CPUs for them. Numbers in the configuration are taken as they are: a cluster that scales up will have
    the room.

    Raises:
        ConfigError: with `auto`, one worker per stage is more than the cluster has.
    """
    train, evaluate = config.train, config.evaluate
    cell_cpus = train.cpus_per_worker * train.workers_per_object
    cell_gpus = train.gpus_per_worker * train.workers_per_object
    gpus_of = {demand.name: _gpus_per_actor(demand, gpus) for demand in demands}
    least = cell_cpus + evaluate.cpus_per_actor + sum(demand.cpus for demand in demands)
    least_gpus = cell_gpus + sum(gpus_of.values())
    wanted = [evaluate.actors, train.cells, *(demand.actors for demand in demands)]
    if "auto" in wanted and (least > cpus + _EPSILON or least_gpus > gpus + _EPSILON):
        raise ConfigError(
            f"the run needs at least {least:g} CPUs and {least_gpus:g} GPUs, the cluster has {cpus:g} and "
            f"{gpus:g}; lower train.workers_per_object or the cpus_per_… and gpus_per_… settings"
        )
    models = [demand for demand in demands if demand.holds_model]
    others = [demand for demand in demands if not demand.holds_model]
    if any(gpus_of[demand.name] for demand in models):
        room = cpus - cell_cpus - evaluate.cpus_per_actor - sum(demand.cpus for demand in others)
        actors = _share_gpus(models, gpus_of, gpus - cell_gpus, room)
    else:
        actors = {demand.name: _number(demand.actors, cpus, _CPUS_PER_MODEL) for demand in models}
    for demand in models:
        if demand.by_object:
            actors[demand.name] = min(actors[demand.name], max(1, objects))
    generating = sum(actors[demand.name] * demand.cpus for demand in models)
    for demand in others:
        actors[demand.name] = _number(demand.actors, cpus / 4 - generating, demand.cpus)
        generating += actors[demand.name] * demand.cpus
    share = min(cpus / 4, cpus - generating - cell_cpus)
    evaluate_actors = min(_number(evaluate.actors, share, evaluate.cpus_per_actor), max(1, objects))
    taken = generating + evaluate_actors * evaluate.cpus_per_actor
    cells = _number(train.cells, cpus - taken, cell_cpus)
    if train.cells == "auto" and cell_gpus:
        left = gpus - sum(count * gpus_of[name] for name, count in actors.items())
        cells = min(cells, max(1, int(left / cell_gpus + _EPSILON)))
    return Plan(
        mask_actors=_number("auto", taken, config.masks.cpus_per_actor),
        pools={name: PoolSize(count, gpus_of[name]) for name, count in actors.items()},
        cells=min(cells, max(1, objects)),
        evaluate_actors=evaluate_actors,
    )


def evaluate_actors(config: RunConfig, *, cpus: float, objects: int) -> int:
    """How many actors an evaluation gets that has the cluster to itself."""
    return min(_number(config.evaluate.actors, cpus, config.evaluate.cpus_per_actor), max(1, objects))


def _gpus_per_actor(demand: Demand, gpus: float) -> float:
    if demand.gpus == "auto":
        return _AUTO_GPUS if gpus else 0.0
    return demand.gpus


def _share_gpus(demands: Sequence[Demand], gpus_of: Mapping[str, float], gpus: float, cpus: float) -> dict[str, int]:
    """How many actors of each pool fit on `gpus` and `cpus`: the same number of each pool with `auto`."""
    actors = {demand.name: demand.actors for demand in demands if demand.actors != "auto"}
    auto = [demand for demand in demands if demand.actors == "auto"]
    if auto:
        cpus -= sum(actors.get(demand.name, 0) * demand.cpus for demand in demands)
        gpus -= sum(count * gpus_of[name] for name, count in actors.items())
        fitting = _fitting(gpus, sum(gpus_of[demand.name] for demand in auto))
        together = _number("auto", min(fitting, cpus / sum(demand.cpus for demand in auto)), 1)
        actors |= {demand.name: together for demand in auto}
    return actors


def _fitting(gpus: float, each: float) -> float:
    """How often `each` fits into whole GPUs: three times 0.4 takes two of them."""
    if each == 0:
        return math.inf
    return int(gpus + _EPSILON) * int(1 / each + _EPSILON) if each <= 1 else int(gpus / math.ceil(each) + _EPSILON)


def _number(wanted: int | Literal["auto"], share: float, each: float) -> int:
    return wanted if wanted != "auto" else max(1, int(share / each + _EPSILON))
