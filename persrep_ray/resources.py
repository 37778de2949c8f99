"""How many actors and cells a run gets: an explicit partition, so that no stage can starve another."""

from __future__ import annotations

from dataclasses import dataclass

from persrep_ray.config import ConfigError, RunConfig

_EPSILON = 1e-9


@dataclass(frozen=True)
class Plan:
    """Masking ends before generation and evaluation start, and uses their share."""

    mask_actors: int
    generate_actors: int
    cells: int
    evaluate_actors: int


def plan(config: RunConfig, *, cpus: float, gpus: float, objects: int) -> Plan:
    """Shares `cpus` and `gpus`, what the cluster has now, among the stages of a run of `objects` objects.

    `auto` gives half of the CPUs to training and a quarter each to generation and evaluation, and every stage at least
    one worker. Numbers in the configuration are taken as they are: a cluster that scales up will find the room.

    Raises:
        ConfigError: with `auto`, one worker per stage is more than the cluster has.
    """
    generate, train, evaluate = config.generate, config.train, config.evaluate
    cell_cpus = train.cpus_per_worker * train.workers_per_object
    cell_gpus = train.gpus_per_worker * train.workers_per_object
    fixed = "auto" not in (generate.actors, train.cells, evaluate.actors)
    least = cell_cpus + generate.cpus_per_actor + evaluate.cpus_per_actor
    if not fixed and (least > cpus + _EPSILON or cell_gpus > gpus + _EPSILON):
        raise ConfigError(
            f"the run needs at least {least:g} CPUs and {cell_gpus:g} GPUs, the cluster has {cpus:g} and {gpus:g}; "
            "lower train.workers_per_object or the cpus_per_… and gpus_per_… settings"
        )
    generate_actors = _number(generate.actors, cpus / 4, generate.cpus_per_actor)
    evaluate_actors = min(_number(evaluate.actors, cpus / 4, evaluate.cpus_per_actor), max(1, objects))
    left = cpus - generate_actors * generate.cpus_per_actor - evaluate_actors * evaluate.cpus_per_actor
    cells = _number(train.cells, left, cell_cpus)
    if train.cells == "auto" and cell_gpus:
        cells = min(cells, max(1, int(gpus / cell_gpus + _EPSILON)))
    free = generate_actors * generate.cpus_per_actor + evaluate_actors * evaluate.cpus_per_actor
    return Plan(
        mask_actors=_number("auto", free, config.masks.cpus_per_actor),
        generate_actors=generate_actors,
        cells=min(cells, max(1, objects)),
        evaluate_actors=evaluate_actors,
    )


def evaluate_actors(config: RunConfig, *, cpus: float, objects: int) -> int:
    """How many actors an evaluation gets that has the cluster to itself."""
    return min(_number(config.evaluate.actors, cpus, config.evaluate.cpus_per_actor), max(1, objects))


def _number(wanted: int | str, share: float, each: float) -> int:
    return wanted if isinstance(wanted, int) else max(1, int(share / each + _EPSILON))
