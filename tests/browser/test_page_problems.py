"""How the page handles keys, errors, a busy endpoint and files that are not images, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.people import TASKS, Page
from selenium.webdriver.common.keys import Keys

from persrep_ray.serving.engine.errors import AdapterUnusableError, OverloadedError


@pytest.mark.parametrize("page", ["s3cret"], indirect=True)
def test_a_key_is_asked_for_and_kept_in_the_tab(page: Page) -> None:
    page.wait_for("key-problem", "unauthorized: ")
    assert page.driver.switch_to.active_element.get_attribute("id") == "key"
    page.get("key").send_keys("wrong", Keys.ENTER)
    page.wait_for("key-problem", "unauthorized: ")
    page.get("key").send_keys("s3cret", Keys.ENTER)
    page.wait_for("count", "4 objects")
    assert not page.get("key-dialog").is_displayed() and not page.get("toast").is_displayed()
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    page.driver.refresh()
    page.wait_for("count", "4 objects")
    assert page.run("return [localStorage.length, document.cookie]") == [0, ""]
    page.get("key-open").click()
    page.get("key-forget").click()
    page.wait_for("key-problem", "unauthorized: ")


def test_errors_are_told_and_can_be_tried_again(page: Page) -> None:
    page.site.engine.failures = [AdapterUnusableError("object mug_1: its card is damaged")] * 3
    page.pick("mug_1")
    page.get("show-heat").send_keys(Keys.SPACE)
    page.upload()
    page.wait_for("problems", "adapter_unusable object mug_1: its card is damaged\nRequest ")
    assert page.text("problems").count("adapter_unusable") == 1, "three requests, one cause"
    page.wait(lambda: "…" not in [page.text(f"ms-{task}") for task in TASKS])
    page.get("again").click()
    page.asked_and_answered()
    assert not page.get("toast").is_displayed()


def test_what_the_endpoint_is_too_busy_for_is_asked_once_more(page: Page) -> None:
    page.upload()
    page.wait(lambda: len(page.candidates()) == 3)
    page.site.engine.asked.clear()
    page.site.engine.failures = [OverloadedError("too many")] * 3
    page.pick("mug_0")
    page.asked_and_answered()
    assert page.site.engine.asked == ["mug_0"] * 6
    page.site.engine.failures = [OverloadedError("too many")] * 6
    page.pick("mug_1")
    page.wait_for("problems", "overloaded too many")
    assert page.site.engine.asked == ["mug_0"] * 6 + ["mug_1"] * 6


def test_a_newer_request_cancels_the_older(page: Page) -> None:
    page.site.engine.held = "mug_1"
    page.pick("mug_1")
    page.upload()
    page.wait_for("said", "Looking for mug_1")
    page.wait(lambda: page.site.engine.asked.count("mug_1") == 3)
    page.pick("mug_0")
    page.asked_and_answered()
    assert page.text("said") == "Yes, this shows mug_0"
    page.wait(lambda: page.site.engine.cancelled == 3)
    assert page.site.engine.asked.count("identify") == 1, "the image is the same"


def test_offline(page: Page) -> None:
    page.wait_for("count", "2,416 objects")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.tell("Network.enable")
    page.tell("Network.emulateNetworkConditions", offline=True, **offline)
    try:
        page.upload()
        page.wait_for("problems", "offline This device is offline.")
    finally:
        page.tell("Network.emulateNetworkConditions", offline=False, **offline)
    page.wait(lambda: len(page.candidates()) == 3)  # by itself
    assert not page.get("toast").is_displayed()


def test_a_file_that_is_no_image(page: Page, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    page.upload(tmp_path / "note.txt")
    page.wait_for("problems", "not_an_image The browser cannot read this file as an image.")
    page.get("dismiss").click()
    assert not page.get("toast").is_displayed() and page.site.engine.asked == []
