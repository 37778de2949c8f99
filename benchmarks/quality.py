"""Personalization quality on real photos: the figures the README quotes.

    python benchmarks/quality.py --data ../shared/data [--config FILE] [--set key=value …] [--only-sets masked5]

It runs `persrep personalize` with the given or the default configuration on each data set and prints the pretrained and
the personalized figures, for each subject and on average. The last line is one JSON object. If it is interrupted, the
same command continues. `mini_pods` comes with the project, the rest does not: `dreambooth30` holds 30 real subjects of
the DreamBooth data with three training photos each, `masked5` five subjects with foreground masks, `grocery10` ten
cartons in a shop; these have the reference layout. `shelf_cereal` holds eight products with one photo each, and scenes
with their boxes, on which every product is looked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from persrep_ray.config import RunConfig, recorded_config
from persrep_ray.data.images import read_rgb
from persrep_ray.registry.registry import Registry
from persrep_ray.report.table import format_table
from persrep_ray.storage.store import open_store
from persrep_ray.tasks.coco import Region, Scored, average_precision, box_region
from persrep_ray.tasks.metrics import mean_sides

DATA_SETS = ("dreambooth30", "masked5", "grocery10", "shelf_cereal", "mini_pods")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds the data sets")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quality"), metavar="DIR", help="run folders and registry"
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file or a preset")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--only-sets", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), metavar="NAME")
    options = parser.parse_args()

    results = {name: measure(name, options) for name in options.only_sets}
    document = {
        "benchmark": "quality",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        **results,
    }
    print(json.dumps(document))
    return 0


_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Personalizes all objects of one data set and condenses the run's summary."""
    out = options.out / name
    data = (_EXAMPLES if name == "mini_pods" else options.data) / name
    objects = data / "train" if name == "shelf_cereal" else data
    command = [sys.executable, "-m", "persrep_ray.cli", "personalize", "--objects", str(objects)]
    command += ["--registry", str(out / "registry"), "--out", str(out)]
    command += ["--config", options.config] if options.config else []
    command += ["--set", *options.set] if options.set else []
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # the summary lists failed objects
    summary = json.loads((out / "summary.json").read_text())
    done = {object_id: result for object_id, result in summary["objects"].items() if result["status"] == "published"}
    metrics = {object_id: result["metrics"] for object_id, result in done.items()}
    print(f"\n{name}")
    print(format_table(metrics, summary["mean"]))
    pr_auc = "classification.pr_auc"
    change = {
        object_id: sides["personalized"][pr_auc] - sides["pretrained"][pr_auc]
        for object_id, sides in metrics.items()
        if pr_auc in sides["personalized"]
    }
    more: dict[str, Any] = {"identify": summary["identify"]} if "identify" in summary else {}
    if name == "shelf_cereal":
        more["shelf"] = shelf(data, out / "registry", recorded_config(summary["config"], where="summary.json: "))
        print(f"boxes on the shelves: AP50 {more['shelf']['map50']:.3f}, AP {more['shelf']['map']:.3f}")
    cards = [Registry(open_store(out / "registry")).card(object_id) for object_id in done]
    splits = sorted({split for card in cards for split in card["by_split"]})
    if splits:
        more["by_split"] = {
            split: mean_sides(card["by_split"][split] for card in cards if split in card["by_split"])
            for split in splits
        }
    seconds = sorted(result["seconds"]["train"] for result in done.values())
    return {
        "objects": len(done),
        "failed": len(summary["objects"]) - len(done),
        **{side: {key: round(value, 4) for key, value in summary["mean"][side].items()} for side in summary["mean"]},
        "largest_pr_auc_drop": round(max(0.0, -min(change.values())), 4) if change else None,
        "objects_that_dropped": sorted(object_id for object_id, value in change.items() if value < 0),
        "train_seconds": {"median": round(seconds[len(seconds) // 2], 1), "max": round(seconds[-1], 1)},
        **more,
        "config": summary["config"],
    }


def shelf(data: Path, registry: str | Path, config: RunConfig) -> dict[str, float]:
    """COCO `map` and `map50` of the boxes of all published products on all scenes."""
    # The rest of the benchmark needs neither torch nor transformers.
    from safetensors.numpy import load

    from persrep_ray.backbones.lora import ADAPTER_FILES, load_lora
    from persrep_ray.data.objects import Photo
    from persrep_ray.evaluate.finders import find
    from persrep_ray.evaluate.photo_cache import PhotoCache
    from persrep_ray.tasks.model import ObjectModel

    boxes = json.loads((data / "boxes.json").read_text())
    store, lora = Registry(open_store(registry)), load_lora(config)
    lora.train(False)
    cache = PhotoCache(lora, config, budget=2**30)
    truths: list[list[Region]] = []
    found: list[list[Scored]] = []
    for object_id in store.objects():
        files = store.files(object_id)
        lora.load(lora.load_files({name: files[name] for name in ADAPTER_FILES}))
        model = ObjectModel.from_arrays(load(files["prototypes.safetensors"]), lora.backbone.dim)
        for scene in sorted(boxes):
            photo = Photo(object_id, data / "scenes" / scene, None, None)
            height, width = read_rgb(photo.path, config.data).shape[:2]
            true = [np.array(box) for box in boxes[scene].get(object_id, [])]
            truths.append([box_region(box, (height, width)) for box in true])
            if model is None or model.finder is None:
                found.append([])
                continue
            matches = [] if model.keypoints is None else model.keypoints.find(cache.keypoints(photo))
            prediction = find(cache, "personalized", model, photo, cache.patches([photo], adapted=True)[0], matches)
            scale = np.array([width, height, width, height]) / np.array([*prediction.size[::-1]] * 2)
            found.append(
                [Scored(box_region(one.box * scale, (height, width)), one.score) for one in prediction.instances]
            )
    metrics = average_precision(truths, found, "bbox")
    return {name: round(metrics[name], 4) for name in ("map50", "map")}


if __name__ == "__main__":
    sys.exit(main())
