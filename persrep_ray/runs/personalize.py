"""A run turns photos of objects into published adapters. It reads from top to bottom; the stages do the work.

    manifest → masks → generation → training → evaluation and publishing → summary

Masks are a barrier, because an object's negatives are cut out of other objects' photos. After them everything streams:
an object is trained as soon as its last chunk is stored and evaluated as soon as it is trained, while other objects are
still being generated. What is complete in the run folder is never done again, so the same command resumes a killed run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray

from persrep_ray.config import RunConfig
from persrep_ray.data.distractors import choose_distractors, split_negatives
from persrep_ray.data.objects import Manifest, load_manifest
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.connect import connected
from persrep_ray.distributed.outcome import Outcome
from persrep_ray.distributed.pool import ObjectPool
from persrep_ray.distributed.resources import Plan, plan
from persrep_ray.distributed.streaming import Pool
from persrep_ray.generate.generators import check_packages, generators_of
from persrep_ray.generate.pipeline import Generation
from persrep_ray.generate.schedule import missing_chunks
from persrep_ray.generate.types import GeneratorInputs
from persrep_ray.masks.pipeline import make_masks
from persrep_ray.registry.pointers import in_parallel
from persrep_ray.registry.registry import Registry
from persrep_ray.runs.inputs import (
    check_checkpoints,
    duplicates_report,
    input_digests,
    photos_in,
    readable,
    select_objects,
)
from persrep_ray.runs.open_run import open_run
from persrep_ray.runs.progress import StageProgress, StatusLine
from persrep_ray.runs.summary import summarize
from persrep_ray.storage.files import File
from persrep_ray.storage.lock import Held
from persrep_ray.storage.store import StorageError, is_remote, open_store
from persrep_ray.train.cells import Cells

_TICK_S = 0.1


class RunInterruptedError(OSError):
    """A run that began and cannot go on now; the same command continues it. The message is one line."""


@dataclass(frozen=True)
class Request:
    """What a user asks for in addition to the configuration. Locations are local paths or `s3://` URIs."""

    objects: str
    registry: str
    out: str
    only: tuple[str, ...] = ()
    backgrounds: str | None = None
    negatives: str | None = None
    verbose: bool = False


def personalize(config: RunConfig, request: Request, status: StatusLine) -> dict[str, Any]:
    """Starts or resumes a run and returns what `summary.json` then holds. A failed object is listed; the run goes on.

    Raises:
        ConfigError: the user has to fix something before the run can start.
        ValueError: the photos cannot be used.
        StorageError: a bucket cannot be read or written at the start.
        RunInterruptedError: storage failed for good during the run, or another driver has taken the run over.
    """
    registry_store, out_store = open_store(request.registry), open_store(request.out)
    for location, store in ((request.registry, registry_store), (request.out, out_store)):
        if is_remote(location):
            store.check_writable()  # before hours of reading; a local folder is only created when a run begins
    manifest = load_manifest(request.objects, config.data)
    selected = select_objects(manifest, request.only)
    backgrounds = photos_in(request.backgrounds, "--backgrounds")
    negatives = photos_in(request.negatives, "--negatives")
    status.warn([f"{problem.path}: {problem.cause}" for problem in manifest.problems])
    duplicates = duplicates_report(manifest)
    status.warn(duplicates.warnings)
    check_packages(config)
    inputs = input_digests(manifest, backgrounds, negatives, config)
    registry_store.check_writable()
    with open_run(out_store, config, inputs, status.say) as (folder, lock):
        run = _Run(config, manifest, folder, lock, Registry(registry_store), status)
        try:
            run.look_at(selected)
            if run.unfinished:
                check_checkpoints(config, generates=True)
                with connected(verbose=request.verbose):
                    run.execute(backgrounds, negatives)
            summary = summarize(folder, config, selected, run.failed) | {"duplicates": duplicates.counts}
            folder.write_json(folder.summary, summary)
        except StorageError as error:
            raise RunInterruptedError(f"the run was interrupted: {error}; run the same command again") from error
    return summary


class _Run:
    """The driver's view of a run: which objects are where, and what has failed."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        folder: RunFolder,
        lock: Held,
        registry: Registry,
        status: StatusLine,
    ) -> None:
        self._config = config
        self._manifest = manifest
        self._folder = folder
        self._lock = lock
        self._registry = registry
        self._status = status
        self._categories = {photos.object_id: photos.category for photos in manifest.objects.values() if photos.train}
        self.failed: dict[str, str] = {}
        self._to_train: list[str] = []
        self._trained: list[str] = []
        self._generators = generators_of(config)
        preparations = [generator.preparation for generator in self._generators.values() if generator.preparation]
        names = ("mask", *preparations, "generate", "train", "evaluate")
        self._stages = {name: StageProgress(name) for name in names}

    def look_at(self, selected: Iterable[str]) -> None:
        """Sorts the objects by how far earlier calls got with them."""
        published = self._published()
        trained = self._folder.trained()
        for object_id in selected:
            if object_id not in self._categories:
                causes = [p.cause for p in self._manifest.problems if p.object_id == object_id]
                self._fail("data", object_id, "; ".join(["no usable train photo", *causes[:3]]))
            elif object_id not in published:
                (self._trained if object_id in trained else self._to_train).append(object_id)

    @property
    def unfinished(self) -> bool:
        return bool(self._to_train or self._trained)

    def execute(self, backgrounds: list[File], negatives: list[File]) -> None:
        """Takes every unfinished object through the stages it still needs."""
        config, available = self._config, ray.cluster_resources()
        stages = [stage for generator in self._generators.values() for stage in generator.stages()]
        counts = plan(
            config,
            [stage.demand for stage in stages],
            cpus=available.get("CPU", 0),
            gpus=available.get("GPU", 0),
            objects=len(self._to_train) + len(self._trained),
        )
        self._warn_of_surprises(counts, has_photos=bool(backgrounds or negatives))
        if (gpus := available.get("GPU", 0)) and not config.train.gpus_per_worker:
            self._status.warn([f"none of the {gpus:g} GPUs trains adapters; train.gpus_per_worker=1 lets them"])
        shared = [ray.put(value) for value in (config, self._manifest, self._folder)]
        negatives, held_out = split_negatives(negatives)
        held_out, problems = readable(held_out, config)
        self._status.warn(problems)
        # Cells are started first because they take long to start; masks are made meanwhile.
        cells = Cells(config, [*shared, ray.put(held_out)], min(counts.cells, len(self._to_train)))
        self._make_masks(shared, counts.mask_actors)
        self._to_train = [object_id for object_id in self._to_train if object_id not in self.failed]
        chunks = missing_chunks(self._by_category(self._to_train), self._folder, config)
        categories = [self._categories[object_id] for object_id in self._to_train]
        inputs = GeneratorInputs(
            self._folder, categories, backgrounds, negatives, lambda text: self._status.warn([text])
        )
        prepared = {name: generator.prepare(inputs) for name, generator in self._generators.items()}
        generation = Generation(chunks, config, self._folder, shared, prepared, counts.pools)
        publishers = [*shared, ray.put(self._registry)]
        evaluation = ObjectPool(
            Pool(make_publisher, publishers, counts.evaluate_actors, cpus=config.evaluate.cpus_per_actor)
        )
        self._stream(generation, cells, evaluation, cores=int(available.get("CPU", 0)))

    def _by_category(self, object_ids: Iterable[str]) -> list[str]:
        """The ids in the order of generation: what a category needs is made once and then used by all its objects."""
        return sorted(object_ids, key=lambda object_id: (self._categories[object_id] or "", object_id))

    def _warn_of_surprises(self, counts: Plan, *, has_photos: bool) -> None:
        """Warns of what the user may not have meant; `has_photos` tells whether there are backgrounds or negatives."""
        if has_photos and not any(generator.uses_photos for generator in self._generators.values()):
            name = self._config.generate.generator
            self._status.warn(
                [f"generate.generator={name} does not use --backgrounds, and --negatives only check the adapters"]
            )
        for generator in self._generators.values():
            self._status.warn(generator.warnings(counts.pools))

    def _make_masks(self, shared: list[Any], actors: int) -> None:
        """Masks the photos of the objects to train, and of the objects that they are told apart from."""
        most, seed = self._config.generate.negative_objects, self._config.seed
        needed = set(self._to_train)
        if most * len(needed) >= len(self._categories):
            # So many objects need nearly all others; in a large run, choosing for each would take hours.
            needed.update(self._categories)
        else:
            for object_id in self._to_train:
                needed.update(choose_distractors(object_id, self._categories, most, seed))
        missing = sorted(needed - self._folder.masked())
        self._stages["mask"].total = len(missing)
        for outcome in make_masks(missing, shared, actors=actors, cpus=self._config.masks.cpus_per_actor):
            self._stages["mask"].count_object()
            self._status.warn(outcome.report["problems"])
            if outcome.error and outcome.object_id in self._to_train:
                self._fail("mask", outcome.object_id, outcome.error)
            self._show()

    def _stream(self, generation: Generation, cells: Cells, evaluation: ObjectPool, *, cores: int) -> None:
        """Passes objects from stage to stage until none is left. The cluster has `cores` CPU cores."""
        generating = {chunk.object_id for chunk in generation.chunks}
        for object_id in sorted(set(self._to_train) - generating):  # earlier calls made all their images
            if cause := generation.why_unusable(object_id):
                self._fail("generate", object_id, cause)
            generation.clean_up(object_id)
        self._to_train = [object_id for object_id in self._to_train if object_id not in self.failed]
        training = set(self._to_train) - generating
        evaluating = set(self._trained)
        for stage, objects in (("generate", generating), ("train", self._to_train)):
            self._stages[stage].total = len(objects)
        self._stages["generate"].images_total = sum(chunk.count for chunk in generation.chunks)
        self._stages["train"].images_total = self._config.train.images_per_object * len(self._to_train)
        self._stages["evaluate"].total = len(self._to_train) + len(self._trained)
        for object_id in sorted(training):
            cells.submit(object_id)
        for object_id in sorted(evaluating):
            evaluation.submit(object_id)
        while generating or training or evaluating:
            self._advance("generate", generation.poll(), generating, training, cells.submit)
            self._advance("train", cells.poll(), training, evaluating, evaluation.submit)
            self._advance("evaluate", evaluation.poll(), evaluating, set(), lambda _: None)
            if not generating:
                cells.close()
                if not training and self._config.evaluate.actors == "auto":
                    evaluation.grow(cores)  # the other stages have ended and left their cores
            self._stages["generate"].count_images(generation.images)
            for name, (done, total) in generation.preparations().items():
                self._stages[name].done, self._stages[name].total = done, total
            self._status.warn(generation.new_warnings())
            self._stages["train"].count_images(cells.images)
            self._show()
            time.sleep(_TICK_S)
        self._show(final=True)
        cells.join()

    def _advance(
        self,
        stage: str,
        outcomes: list[Outcome],
        here: set[str],
        there: set[str],
        submit: Callable[[str], None],
    ) -> None:
        """Moves the objects that have finished a stage to the next stage."""
        for outcome in outcomes:
            here.discard(outcome.object_id)
            self._stages[stage].count_object()
            self._status.warn(outcome.report.get("warnings", []))
            if outcome.error:
                self._fail(stage, outcome.object_id, outcome.error)
            else:
                there.add(outcome.object_id)
                submit(outcome.object_id)

    def _published(self) -> set[str]:
        """The objects that are done: their results are there, and the registry still has the versions they name."""
        results = self._folder.published_objects()
        live = self._registry.live() if results else {}

        def is_there(object_id: str) -> bool:
            version = self._folder.read_json(self._folder.published(object_id))["version"]
            return live.get(object_id) == version or version in self._registry.versions(object_id)

        ids = sorted(results)
        return {object_id for object_id, done in zip(ids, in_parallel(is_there, ids), strict=True) if done}

    def _fail(self, stage: str, object_id: str, cause: str) -> None:
        """Records a failure. Some causes already name the object and the stage; all end up in the same form."""
        cause = cause.removeprefix(f"object {object_id}: ").removeprefix(f"{stage}: ")
        self.failed[object_id] = f"object {object_id}: {stage}: {cause}"
        self._status.say(f"failed: {self.failed[object_id]}")

    def _show(self, *, final: bool = False) -> None:
        """Shows the progress. It is called all the time, so this is also where a lost lock is noticed."""
        if self._lock.lost:
            raise RunInterruptedError(f"{self._folder.store.uri}: another process has taken this run over")
        self._status.show([stage for stage in self._stages.values() if stage.total], final=final)


def make_publisher(*arguments: Any) -> Any:
    """Makes a `Publisher`, which is imported only here because the driver needs neither torch nor transformers."""
    from persrep_ray.runs.publish import Publisher

    return Publisher(*arguments)
