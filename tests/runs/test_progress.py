"""The status line in a log and on a terminal."""

from __future__ import annotations

import io

import pytest

from persrep_ray.runs import progress
from persrep_ray.runs.progress import StageProgress, StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_gets_a_line_now_and_then_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    status, stage = StatusLine(log), StageProgress("mask", total=3)
    status.show([stage])
    for _ in range(3):
        clock.now += 1
        stage.count_object()
        status.show([stage])
    clock.now += 5
    status.show([stage])
    clock.now += 5
    status.show([stage])
    status.show([stage], final=True)
    assert log.getvalue() == "mask 0/3\nmask 3/3\n"


def test_a_terminal_has_one_line_and_what_is_said_goes_above(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = Clock(monkeypatch), Terminal()
    status, stage = StatusLine(terminal), StageProgress("mask", total=1)
    status.show([stage])
    status.say("warning: a.jpg: broken")
    clock.now += 1
    stage.count_object()
    status.show([stage], final=True)
    assert terminal.getvalue() == ("\r\x1b[Kmask 0/1" + "\r\x1b[Kwarning: a.jpg: broken\n" + "\r\x1b[Kmask 1/1" + "\n")


def test_speed_counts_from_the_first_image_and_ends_with_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stage = StageProgress("train", total=1)
    stage.count_images(100)
    clock.now += 0.5
    stage.count_images(150)
    assert stage.text(clock.now) == "train 0/1"
    clock.now += 1.5
    stage.count_images(300)
    assert stage.text(clock.now) == "train 0/1 (100 images/s)"
    stage.count_object()
    assert stage.text(clock.now) == "train 1/1"


def test_time_left_follows_the_images_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stage = StageProgress("train", total=3, images_total=1100)
    stage.count_images(100)
    clock.now += 10
    stage.count_images(300)
    assert stage.text(clock.now) == "train 0/3 (20 images/s, 0:40 left)"


def test_time_left_follows_the_objects_where_there_are_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    stage = StageProgress("evaluate", total=10)
    stage.count_object()
    clock.now += 30
    assert stage.text(clock.now) == "evaluate 1/10"
    stage.count_object()
    clock.now += 10
    assert stage.text(clock.now) == "evaluate 2/10 (5:20 left)"


def test_a_flood_of_warnings_is_cut_short() -> None:
    log = io.StringIO()
    StatusLine(log).warn([f"{number}.jpg: broken" for number in range(25)])
    lines = log.getvalue().splitlines()
    assert lines[0] == "warning: 0.jpg: broken"
    assert lines[20:] == ["warning: … and 5 more like these"]
