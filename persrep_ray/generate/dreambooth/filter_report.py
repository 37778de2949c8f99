"""What the filter of sampled pictures let pass: in counts, per prompt, as shards keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persrep_ray.config import RunConfig
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.generate.shards import shard_report


@dataclass
class FilterReport:
    """Pictures that were looked at and those of them that were rejected, per prompt; `best` is the largest score."""

    candidates: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    best: float | None = None

    def add(self, prompt: str, score: float | None, *, accepted: bool) -> None:
        self.candidates[prompt] += 1
        if not accepted:
            self.rejected[prompt] += 1
        self._see(score)

    def merge(self, other: FilterReport) -> None:
        self.candidates.update(other.candidates)
        self.rejected.update(other.rejected)
        self._see(other.best)

    def _see(self, score: float | None) -> None:
        if score is not None:
            self.best = score if self.best is None else max(self.best, score)

    def to_dict(self) -> dict[str, Any]:
        return {"candidates": dict(self.candidates), "rejected": dict(self.rejected), "best": self.best}

    @classmethod
    def of_shards(cls, paths: Iterable[Path]) -> FilterReport:
        """All that the shards' reports say; those of other generators say nothing. Raises `ShardError`."""
        total = cls()
        for path in paths:
            if part := shard_report(path).get("filter"):
                total.merge(cls(Counter(part["candidates"]), Counter(part["rejected"]), part["best"]))
        return total

    def summary(self) -> dict[str, Any]:
        """For `filtered/<object>.json`: counts, the share that was rejected, and the same per prompt, worst first."""

        def share(rejected: int, candidates: int) -> float:
            return round(rejected / max(1, candidates), 4)

        by_prompt = {
            prompt: {
                "candidates": count,
                "rejected": self.rejected[prompt],
                "rejected_share": share(self.rejected[prompt], count),
            }
            for prompt, count in self.candidates.items()
        }
        candidates, rejected = self.candidates.total(), self.rejected.total()
        return {
            "candidates": candidates,
            "rejected": rejected,
            "rejected_share": share(rejected, candidates),
            "by_prompt": dict(sorted(by_prompt.items(), key=lambda item: -item[1]["rejected_share"])),
        }


def sampled_shards(folder: RunFolder, config: RunConfig, object_id: str) -> list[Path]:
    """Those of the positives that an object is to be trained on which come from the text-to-image model."""
    chunks = folder.chunks_by_role(object_id, config)["positive"]
    return [folder.shard(chunk) for chunk in chunks if chunk.generator == "dreambooth"]


def why_no_positive(report: FilterReport, config: RunConfig) -> str | None:
    """In words, if everything was rejected; else None."""
    candidates = report.candidates.total()
    if candidates > report.rejected.total():
        return None
    most = "none shows a foreground" if report.best is None else f"the largest likeness is {report.best:.2f}"
    return (
        f"all {candidates} sampled images were rejected: {most}, "
        f"generate.filter.threshold is {config.generate.filter.threshold}"
    )
