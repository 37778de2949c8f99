"""One status line: on a terminal rewritten in place, in a log a line every few seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

_REDRAW_S = 0.2
_LOG_EVERY_S = 5.0
_MOST_WARNINGS = 20
_SETTLED_S = 1.0  # before, a rate is noise


@dataclass
class StageProgress:
    """How far a stage is, in objects; `images` made by this process so far, where the stage makes images."""

    name: str
    total: int = 0
    done: int = 0
    images: int = 0
    started: float | None = None  # when the first image was there, and how many there were then
    images_at_start: int = 0

    def count_images(self, images: int) -> None:
        if images and self.started is None:
            self.started, self.images_at_start = time.monotonic(), images
        self.images = images

    def count_object(self) -> None:
        if self.started is None:
            self.started = time.monotonic()
        self.done += 1

    def text(self, now: float) -> str:
        elapsed = now - self.started if self.started is not None else 0.0
        rate = (self.images - self.images_at_start) / elapsed if elapsed > _SETTLED_S else 0.0
        speed = f" ({rate:.0f} images/s)" if rate and self.done < self.total else ""
        return f"{self.name} {self.done}/{self.total}{speed}"


class StatusLine:
    """Shows the stages, and how long the run will still take; `say` prints a line of its own above."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._drawn_at = 0.0
        self._shown = ""

    def show(self, stages: Sequence[StageProgress], *, final: bool = False) -> None:
        """Called as often as one likes; draws when it is time, and always if `final`."""
        now = time.monotonic()
        if not final and now - self._drawn_at < (_REDRAW_S if self._in_place else _LOG_EVERY_S):
            return
        self._drawn_at = now
        line = " · ".join(stage.text(now) for stage in stages) + _time_left(stages[-1], now)
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}" + ("\n" if final else ""))
        elif line != self._shown:
            self._stream.write(line + "\n")
        self._shown = line
        self._stream.flush()

    def say(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._in_place else "") + text + "\n")
        self._stream.flush()

    def warn(self, problems: Sequence[str]) -> None:
        """A line for each of the first problems: thousands of bad photos must not hide the rest of the log."""
        for problem in problems[:_MOST_WARNINGS]:
            self.say(f"warning: {problem}")
        if len(problems) > _MOST_WARNINGS:
            self.say(f"warning: … and {len(problems) - _MOST_WARNINGS} more like these")


def _time_left(last: StageProgress, now: float) -> str:
    """From the pace at which objects leave the last stage: all stages before it feed it at the same time."""
    if last.started is None or last.done < 2 or last.done >= last.total:
        return ""
    pace = (now - last.started) / (last.done - 1)
    minutes, seconds = divmod(round(pace * (last.total - last.done)), 60)
    return f" · about {minutes}:{seconds:02d} left"
