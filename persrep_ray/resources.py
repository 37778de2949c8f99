"""How many actors and cells a run gets: an explicit partition, so that no stage can starve another."""

from __future__ import annotations

from dataclasses import dataclass

from persrep_ray.config import ConfigError, RunConfig

_EPSILON = 1e-9
_AUTO_GPUS = 0.5  # of an actor that fine-tunes or samples: one of each shares a GPU


@dataclass(frozen=True)
class Plan:
    """Masking ends before generation and evaluation start, and uses their share."""

    mask_actors: int
    generate_actors: int
    cells: int
    evaluate_actors: int
    tune_actors: int = 0
    tune_gpus: float = 0.0  # of each actor
    sample_actors: int = 0
    sample_gpus: float = 0.0


def plan(config: RunConfig, *, cpus: float, gpus: float, objects: int) -> Plan:
    """Shares `cpus` and `gpus`, what the cluster has now, among the stages of a run of `objects` objects.

    `auto` gives half of the CPUs to training and a quarter each to generation and evaluation, and every stage at least
    one worker; the GPUs that training leaves go to fine-tuning and sampling, an actor of each for every share. Numbers
    in the configuration are taken as they are: a cluster that scales up will find the room.

    Raises:
        ConfigError: with `auto`, one worker per stage is more than the cluster has.
    """
    generate, train, evaluate = config.generate, config.train, config.evaluate
    cell_cpus = train.cpus_per_worker * train.workers_per_object
    cell_gpus = train.gpus_per_worker * train.workers_per_object
    pastes, samples = generate.generator != "dreambooth", generate.generator != "cut_paste"
    tune_gpus, sample_gpus = _sampling_gpus(config, gpus) if samples else (0.0, 0.0)
    pair_cpus = generate.dreambooth.cpus_per_actor + generate.sampling.cpus_per_actor if samples else 0.0
    pair_gpus = tune_gpus + sample_gpus
    wanted = [evaluate.actors, train.cells]
    wanted += [generate.actors] * pastes + [generate.dreambooth.actors, generate.sampling.actors] * samples
    least = cell_cpus + evaluate.cpus_per_actor + generate.cpus_per_actor * pastes + pair_cpus
    if "auto" in wanted and (least > cpus + _EPSILON or cell_gpus + pair_gpus > gpus + _EPSILON):
        raise ConfigError(
            f"the run needs at least {least:g} CPUs and {cell_gpus + pair_gpus:g} GPUs, the cluster has {cpus:g} and "
            f"{gpus:g}; lower train.workers_per_object or the cpus_per_… and gpus_per_… settings"
        )
    tune_actors = sample_actors = generate_actors = 0
    if samples:
        share = (gpus - cell_gpus) / pair_gpus if pair_gpus else cpus / (8 if pastes else 4) / pair_cpus
        tune_actors = min(_number(generate.dreambooth.actors, share, 1), max(1, objects))
        sample_actors = _number(generate.sampling.actors, share, 1)
    generating = tune_actors * generate.dreambooth.cpus_per_actor + sample_actors * generate.sampling.cpus_per_actor
    if pastes:
        generate_actors = _number(generate.actors, cpus / 4 - generating, generate.cpus_per_actor)
        generating += generate_actors * generate.cpus_per_actor
    evaluate_actors = min(_number(evaluate.actors, cpus / 4, evaluate.cpus_per_actor), max(1, objects))
    free = generating + evaluate_actors * evaluate.cpus_per_actor
    cells = _number(train.cells, cpus - free, cell_cpus)
    if train.cells == "auto" and cell_gpus:
        left = gpus - tune_actors * tune_gpus - sample_actors * sample_gpus
        cells = min(cells, max(1, int(left / cell_gpus + _EPSILON)))
    return Plan(
        mask_actors=_number("auto", free, config.masks.cpus_per_actor),
        generate_actors=generate_actors,
        cells=min(cells, max(1, objects)),
        evaluate_actors=evaluate_actors,
        tune_actors=tune_actors,
        tune_gpus=tune_gpus,
        sample_actors=sample_actors,
        sample_gpus=sample_gpus,
    )


def _sampling_gpus(config: RunConfig, gpus: float) -> tuple[float, float]:
    """GPUs of an actor that fine-tunes and of one that samples."""
    auto = _AUTO_GPUS if gpus else 0.0
    tune, sample = config.generate.dreambooth.gpus_per_actor, config.generate.sampling.gpus_per_actor
    return auto if tune == "auto" else tune, auto if sample == "auto" else sample


def evaluate_actors(config: RunConfig, *, cpus: float, objects: int) -> int:
    """How many actors an evaluation gets that has the cluster to itself."""
    return min(_number(config.evaluate.actors, cpus, config.evaluate.cpus_per_actor), max(1, objects))


def _number(wanted: int | str, share: float, each: float) -> int:
    return wanted if isinstance(wanted, int) else max(1, int(share / each + _EPSILON))
