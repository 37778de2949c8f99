"""The status line, which is rewritten in place on a terminal and printed every few seconds in a log."""

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
_SETTLED_S = 1.0  # before this time, a rate is noise


@dataclass
class StageProgress:
    """How far a stage is, in objects and, where the stage makes or sees images, in images of this process."""

    name: str
    total: int = 0
    images_total: int = 0
    done: int = 0
    images: int = 0
    started: float | None = None  # when the first image or object was done, and how many images there were then
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
        """`train 1/3 (42 images/s, 2:10 left)`, without the parts that are not known yet."""
        notes = []
        if self.started is not None and self.done < self.total and now - self.started > _SETTLED_S:
            elapsed = now - self.started
            if rate := (self.images - self.images_at_start) / elapsed:
                notes.append(f"{rate:.0f} images/s")
                if self.images < self.images_total:
                    notes.append(_left((self.images_total - self.images) / rate))
            elif self.done > 1:  # nobody knows when the first object began
                notes.append(_left(elapsed / (self.done - 1) * (self.total - self.done)))
        return f"{self.name} {self.done}/{self.total}" + (f" ({', '.join(notes)})" if notes else "")


def _left(seconds: float) -> str:
    return "{}:{:02d} left".format(*divmod(round(seconds), 60))


class StatusLine:
    """Shows the stages, each with its speed and the time left; `say` prints a separate line above them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._drawn_at = 0.0
        self._shown = ""

    def show(self, stages: Sequence[StageProgress], *, final: bool = False) -> None:
        """Draws the line if it is due or `final`; call it as often as you like."""
        now = time.monotonic()
        if not final and now - self._drawn_at < (_REDRAW_S if self._in_place else _LOG_EVERY_S):
            return
        self._drawn_at = now
        line = " · ".join(stage.text(now) for stage in stages)
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
        """Prints the first problems, a line each: thousands of bad photos must not hide the rest of the log."""
        for problem in problems[:_MOST_WARNINGS]:
            self.say(f"warning: {problem}")
        if len(problems) > _MOST_WARNINGS:
            self.say(f"warning: … and {len(problems) - _MOST_WARNINGS} more like these")
