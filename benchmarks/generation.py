"""Generation: swapping objects, memory with 200 objects in the queue, the filter on real photos, cost per image.

    python benchmarks/generation.py [--base FOLDER] [--data DIR] [--only PART …]

Python packages bring no weights of a text-to-image model, so a tiny model and one as large as Stable Diffusion 1.5 are
made with random weights: the cost of an image does not depend on the values of the weights. Ratios compare figures of
the same run. The last line is a JSON object.

    swap     seconds to put another object's LoRA into a pipeline: by us, by diffusers, by building the pipeline again
    queue    200 objects are fine-tuned and sampled by a tiny model: memory of the driver, actors and object store
    filter   needs --data, real photos in the reference layout: which crops of objects pass the threshold for which
    cost     seconds and memory for an image: cut-and-paste, and a model as large as Stable Diffusion 1.5 on this CPU
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for the tiny models
MINI_PODS = ROOT / "examples" / "mini_pods"
OBJECTS = 200
SWAPS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, metavar="FOLDER", help="a diffusers pipeline; by default a tiny one is made"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="real photos in the reference layout")
    parser.add_argument("--only", nargs="+", choices=sorted(MEASURES), default=list(MEASURES), metavar="PART")
    options = parser.parse_args()
    document: dict[str, Any] = {
        "benchmark": "generation",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        if options.base is None:
            from helpers.tiny_diffusion import save_tiny_sd

            options.base = save_tiny_sd(options.scratch / "tiny_sd")
        for name in options.only:
            if name == "filter" and options.data is None:
                continue
            document[name] = MEASURES[name](options)
            print(f"\n{name}")
            for key, value in document[name].items():
                print(f"  {key:40} {value:.4g}" if isinstance(value, float) else f"  {key:40} {value}", flush=True)
    print(json.dumps(document))
    return 0


def swap(options: argparse.Namespace) -> dict[str, Any]:
    """The median seconds of a swap between the LoRAs of two objects, by us and in two ways by diffusers."""
    from diffusers import AutoPipelineForText2Image

    from persrep_ray.config import DreamBoothConfig
    from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel

    model = DiffusionModel(DreamBoothConfig(base=str(options.base), precision="float32"))
    folders = []
    for seed in range(2):
        model.reset(seed)
        folders.append(options.scratch / f"lora{seed}")
        model.save(folders[-1])
    plain = AutoPipelineForText2Image.from_pretrained(options.base, use_safetensors=True)

    def load_lora_weights(folder: Path) -> None:
        plain.unload_lora_weights()
        plain.load_lora_weights(folder)

    def rebuild(folder: Path) -> None:
        AutoPipelineForText2Image.from_pretrained(options.base, use_safetensors=True).load_lora_weights(folder)

    ways: dict[str, Callable[[Path], None]] = {
        "ours": model.load,
        "load_lora_weights": load_lora_weights,
        "rebuilt": rebuild,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(SWAPS):
        for name, way in ways.items():
            started = time.perf_counter()
            way(folders[turn % 2])
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    return {
        "tensors": len(model.parameters),
        **{f"{name} ms": 1000 * value for name, value in median.items()},
        "load_lora_weights_over_ours": median["load_lora_weights"] / median["ours"],
        "rebuilt_over_ours": median["rebuilt"] / median["ours"],
    }


def queue(options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after a tenth of the objects, after half of them, and at the end."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import psutil
    import ray

    from persrep_ray.config import load_config
    from persrep_ray.data.objects import load_manifest
    from persrep_ray.data.run_folder import RunFolder
    from persrep_ray.distributed.connect import connected
    from persrep_ray.distributed.resources import plan
    from persrep_ray.generate.generators import generators_of
    from persrep_ray.generate.pipeline import Generation
    from persrep_ray.generate.schedule import chunks
    from persrep_ray.generate.types import GeneratorInputs
    from persrep_ray.masks.pipeline import MaskWorker
    from persrep_ray.storage.store import open_store

    sources = sorted((MINI_PODS / "train").iterdir())
    objects = options.scratch / "objects"
    ids = [f"object_{index:03d}" for index in range(OBJECTS)]
    for index, object_id in enumerate(ids):
        for part in ("train", "train_masks"):
            shutil.copytree(MINI_PODS / part / sources[index % len(sources)].name, objects / part / object_id)
    config = load_config(
        "debug",
        [
            *(
                "generate.generator=dreambooth",
                f"generate.dreambooth.base={options.base}",
                "generate.sampling.actors=2",
            ),
            *("generate.dreambooth.category=thing", "generate.dreambooth.steps=2", "backbone.name=embedded"),
            *("backbone.image_size=224", "generate.calibration_images=0", "generate.negative_objects=2"),
        ],
    )
    manifest, folder = load_manifest(str(objects), config.data), RunFolder(open_store(options.scratch / "run"))
    masker = MaskWorker(config, manifest, folder)
    for object_id in ids:
        masker({"object_id": object_id})
    driver = psutil.Process()

    def megabytes() -> dict[str, float]:
        actors = [one for one in driver.children(recursive=True) if "_PoolActor" in " ".join(one.cmdline())]
        store = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
        return {
            "driver": driver.memory_info().rss / 1e6,
            "largest actor": max((one.memory_info().rss for one in actors), default=0) / 1e6,
            "object store": store / 1e6,
        }

    seen: dict[int, dict[str, float]] = {}
    failed, done, started = 0, 0, time.monotonic()
    with connected():
        generators = generators_of(config)
        inputs = GeneratorInputs(folder, [None] * OBJECTS, [], [], print)
        demands = [stage.demand for generator in generators.values() for stage in generator.stages()]
        generation = Generation(
            [chunk for object_id in ids for chunk in chunks(object_id, config)],
            config,
            folder,
            [ray.put(value) for value in (config, manifest, folder)],
            {name: generator.prepare(inputs) for name, generator in generators.items()},
            plan(config, demands, cpus=2, gpus=0, objects=OBJECTS).pools,
        )
        while done < OBJECTS:
            for outcome in generation.poll():
                done += 1
                failed += outcome.error is not None
                if done in (OBJECTS // 10, OBJECTS // 2, OBJECTS - 1):
                    seen[done] = megabytes()
                    print(f"  {done} of {OBJECTS}", file=sys.stderr, flush=True)
            time.sleep(0.1)
    first, last = seen[OBJECTS // 10], seen[OBJECTS - 1]
    return {
        "objects": OBJECTS,
        "failed": failed,
        "seconds per object": (time.monotonic() - started) / OBJECTS,
        **{f"{name} MB after {count} objects": seen[count][name] for name in first for count in seen},
        **{f"{name} growth MB": last[name] - first[name] for name in first},
    }


def filter_rates(options: argparse.Namespace) -> dict[str, Any]:
    """The share of test crops that pass as an object: its crops, those of its category, those of other categories."""
    from persrep_ray.config import RunConfig
    from persrep_ray.data.images import read_rgb
    from persrep_ray.data.objects import load_manifest
    from persrep_ray.generate.dreambooth.filter import LikenessFilter, Match
    from persrep_ray.generate.dreambooth.run import MaskedImage

    config = RunConfig()
    manifest = load_manifest(str(options.data), config.data)
    likeness_filter = LikenessFilter(config)
    objects = {one.object_id: one for one in manifest.objects.values() if one.train and one.test}
    photos: dict[str, list[MaskedImage]] = {}
    tests: dict[str, list[MaskedImage]] = {}
    for object_id, one in objects.items():
        photos[object_id] = likeness_filter.masked([read_rgb(photo.path, config.data) for photo in one.train])
        tests[object_id] = likeness_filter.masked([read_rgb(photo.path, config.data) for photo in one.test[:3]])
    passed: dict[str, list[bool]] = {"own": [], "same category": [], "other categories": []}
    for object_id, one in objects.items():
        likeness_filter.set_object(photos[object_id], [photos[other][0] for other in objects if other != object_id])
        for other, images in tests.items():
            same = objects[other].category == one.category
            kind = "own" if other == object_id else "same category" if same else "other categories"
            some = images if kind != "other categories" else images[:1]
            passed[kind] += [likeness_filter.accepts(Match(score, None)) for score in likeness_filter.likeness(some)]
    return {f"{kind} passes ({len(values)})": float(np.mean(values)) for kind, values in passed.items()}


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image of cut-and-paste, and seconds and memory of a model as large as Stable Diffusion 1.5."""
    import psutil
    import torch
    from full_size import save_sd15_shaped

    from persrep_ray.config import DreamBoothConfig, SamplingConfig, load_config
    from persrep_ray.data.objects import load_manifest
    from persrep_ray.data.run_folder import RunFolder
    from persrep_ray.generate.cut_paste.worker import CutPasteWorker, UserPhotos
    from persrep_ray.generate.dreambooth.diffusion.model import DiffusionModel
    from persrep_ray.generate.dreambooth.diffusion.sampling import Sampler, Shot
    from persrep_ray.generate.schedule import chunks
    from persrep_ray.generate.shards import shard_report
    from persrep_ray.masks.pipeline import MaskWorker
    from persrep_ray.storage.store import open_store

    config = load_config()
    manifest, folder = load_manifest(str(MINI_PODS), config.data), RunFolder(open_store(options.scratch / "cost"))
    masker = MaskWorker(config, manifest, folder)
    for object_id in manifest.objects:
        masker({"object_id": object_id})
    worker = CutPasteWorker(config, manifest, folder, UserPhotos())
    first, *timed = chunks("mug_0", config)
    worker(asdict(first))  # makes the cutouts
    for chunk in timed:
        worker(asdict(chunk))
    seconds_pasted = sum(shard_report(folder, chunk)["seconds"] for chunk in timed)
    pasted = seconds_pasted / sum(chunk.count for chunk in timed)
    base = save_sd15_shaped(options.scratch / "sd15")
    before = psutil.Process().memory_info().rss
    model = DiffusionModel(DreamBoothConfig(base=str(base)))

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        Sampler(model, SamplingConfig(steps=steps), lambda _: None).draw([Shot("a photo of <new1> mug", 1, 7.5)])
        return time.perf_counter() - started

    seconds(1)
    one, four = seconds(1), seconds(4)
    step = (four - one) / 3
    modules = [part for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)]
    return {
        "cut_paste seconds/image (one thread)": pasted,
        "sd15 parameters": sum(p.numel() for part in modules for p in part.parameters()),
        "sd15 seconds/step (512 px, CFG)": step,
        "sd15 seconds/image (50 steps)": one + 49 * step,
        "sd15 resident GB": (psutil.Process().memory_info().rss - before) / 1e9,
        "torch threads": torch.get_num_threads(),
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "swap": swap,
    "queue": queue,
    "filter": filter_rates,
    "cost": cost,
}

if __name__ == "__main__":
    sys.exit(main())
