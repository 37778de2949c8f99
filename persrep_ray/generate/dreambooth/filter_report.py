"""What the filter of sampled images accepted and rejected, per prompt, as shards store it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FilterReport:
    """How many images the filter looked at and how many of them it rejected, per prompt.

    `best` is the largest likeness, None if no image had a foreground.
    """

    candidates: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    best: float | None = None

    def add(self, prompt: str, score: float | None, *, accepted: bool) -> None:
        self.candidates[prompt] += 1
        if not accepted:
            self.rejected[prompt] += 1
        self._see(score)

    def _see(self, score: float | None) -> None:
        if score is not None:
            self.best = score if self.best is None else max(self.best, score)

    def to_dict(self) -> dict[str, Any]:
        return {"candidates": dict(self.candidates), "rejected": dict(self.rejected), "best": self.best}

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str, Any]]) -> FilterReport:
        """The sum of several reports, each as its `to_dict`."""
        total = cls()
        for part in parts:
            total.candidates.update(part["candidates"])
            total.rejected.update(part["rejected"])
            total._see(part["best"])
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

    def why_no_image(self, threshold: float | None) -> str | None:
        """Says so if every image was rejected; None otherwise."""
        candidates = self.candidates.total()
        if candidates > self.rejected.total():
            return None
        most = "none shows a foreground" if self.best is None else f"the largest likeness is {self.best:.2f}"
        return f"all {candidates} sampled images were rejected: {most}, generate.filter.threshold is {threshold}"
