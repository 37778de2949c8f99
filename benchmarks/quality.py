"""Personalization quality on real photos: the figures the README quotes.

    python benchmarks/quality.py --data ../shared/data [--config FILE] [--set key=value …] [--only-sets masked5]

It runs `persrep personalize` with the given or the default configuration on each data set and prints the pretrained and
the personalized figures, for each subject and on average. The last line is one JSON object. If it is interrupted, the
same command continues. The data sets are not part of this project: `dreambooth30` holds 30 real subjects of the
DreamBooth data with three training photos each, `masked5` five subjects with foreground masks. Both have the reference
layout.
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

from persrep_ray.report.table import format_table

DATA_SETS = ("dreambooth30", "masked5")


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


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Personalizes all objects of one data set and condenses the run's summary."""
    out = options.out / name
    command = [sys.executable, "-m", "persrep_ray.cli", "personalize", "--objects", str(options.data / name)]
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
    seconds = sorted(result["seconds"]["train"] for result in done.values())
    return {
        "objects": len(done),
        "failed": len(summary["objects"]) - len(done),
        **{side: {key: round(value, 4) for key, value in summary["mean"][side].items()} for side in summary["mean"]},
        "largest_pr_auc_drop": round(max(0.0, -min(change.values())), 4) if change else None,
        "objects_that_dropped": sorted(object_id for object_id, value in change.items() if value < 0),
        "train_seconds": {"median": round(seconds[len(seconds) // 2], 1), "max": round(seconds[-1], 1)},
        "config": summary["config"],
    }


if __name__ == "__main__":
    sys.exit(main())
