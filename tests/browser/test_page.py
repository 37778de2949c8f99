"""The page at `/` in a real browser, used as people use it."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser.people import Page
from browser.site import MASK, MASKLESS, PHOTO, box_of, similarity_map
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from persrep_ray.tasks.dense import Instance


def eroded(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` without the pixels within `pixels` of its edge."""
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.erode(mask.astype(np.uint8), square).astype(bool)


def test_all_of_it_by_keyboard(page: Page) -> None:
    page.wait_for("count", "2,416 objects")
    while page.driver.switch_to.active_element.get_attribute("id") != "object":
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
    typing = page.get("object")
    typing.send_keys("UG_")  # anywhere in the id, small or capital
    options = page.get("options").find_elements(By.CSS_SELECTOR, "[role=option]")
    assert [option.text for option in options] == ["mug_0", "mug_1", "mug_2", "mug_3"]
    assert page.text("count") == "4 of 2,416 objects" and typing.get_attribute("aria-expanded") == "true"
    typing.send_keys(Keys.ARROW_DOWN)
    assert typing.get_attribute("aria-activedescendant") == options[1].get_attribute("id")
    typing.send_keys(Keys.ESCAPE)
    assert typing.get_attribute("aria-expanded") == "false" and typing.get_attribute("value") == ""
    typing.send_keys(Keys.ARROW_DOWN, "mug", Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER)
    assert typing.get_attribute("value") == "mug_0" and not page.get("options").is_displayed()
    page.upload()
    page.asked_and_answered()
    reached: list[str] = []
    while not reached or reached[-1] != "tin_2 61 %":
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        element = page.driver.switch_to.active_element
        reached.append(element.get_attribute("id") or element.text.replace("\n", " "))
        assert (
            page.run("return getComputedStyle(arguments[0].closest('.chip') ?? arguments[0]).outlineWidth", element)
            == "3px"
        )
    assert reached == [
        *("choose", "live", "show-box", "show-mask", "show-heat"), "mug_0 96 %", "mug_1 64 %", "tin_2 61 %"
    ]  # fmt: skip
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait_for("said", "Yes, this shows tin_2")
    assert page.driver.switch_to.active_element.get_attribute("aria-pressed") == "true"


def test_what_the_answers_say(page: Page) -> None:
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    assert page.text("said") == "Yes, this shows mug_0"
    shown = {name: page.text(name) for name in ("score", "threshold", "probability", "box", "mask", "version")}
    x, y, width, height = box_of(MASK)
    assert shown == {
        "score": "0.81",
        "threshold": "0.52",
        "probability": "96 %",
        "box": f"{width} × {height} px at {x}, {y}",
        "mask": f"{MASK.mean():.0%} of the image".replace("%", " %"),
        "version": "v1",
    }
    assert page.candidates() == ["mug_0 96 %", "mug_1 64 %", "tin_2 61 %"]
    assert page.text("searched") == "2,416 objects searched, 16 tried"
    news = page.get("news").get_attribute("textContent") or ""
    assert news.startswith(f"Yes, this shows mug_0. mug_0: box {shown['box']}; mask {shown['mask']}")
    assert shown["box"] in (page.get("view").get_attribute("aria-label") or "")


def test_box_mask_and_heat_map_are_drawn_where_they_belong(page: Page) -> None:
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    photo = np.array(Image.open(PHOTO).convert("RGB")).astype(int)
    assert np.abs(page.pixels("photo")[..., :3] - photo).mean() < 3

    page.show_only("mask")
    drawn = page.pixels("overlay")
    fine = drawn.shape[0] // MASK.shape[0]
    assert fine == 2 and drawn.shape[:2] == (fine * MASK.shape[0], fine * MASK.shape[1]), "as fine as the screen"
    large = MASK.repeat(fine, 0).repeat(fine, 1)
    inside, outside = eroded(large, 2), eroded(~large, 8)
    assert (drawn[inside, 3] == 102).all() and np.abs(drawn[inside, :3].astype(int) - [18, 181, 214]).max() < 6
    assert not drawn[outside, 3].any() and drawn[~large & ~eroded(~large, 2), 3].mean() > 180, "a rim"

    page.show_only("box")
    drawn = page.pixels("overlay")
    x, y, width, height = (fine * side for side in box_of(MASK))
    for row, column in ((y + height // 2, x), (y + height // 2, x + width), (y + height, x + width // 2)):
        np.testing.assert_allclose(drawn[row, column], [245, 179, 1, 255], atol=2)
    assert drawn[y + height // 2, x + width // 2, 3] == 0 and drawn[y + height + 9, x, 3] == 0

    page.show_only("heat")
    drawn = page.pixels("overlay")
    assert (drawn[..., 3] >= 105).all()
    cold, hot = drawn[~large][:, :3].mean(0), drawn[inside][:, :3].mean(0)
    assert cold[0] < 90 and hot[0] > 230, "violet and yellow"
    assert (page.text("low"), page.text("high")) == (f"{similarity_map().min():.2f}", f"{similarity_map().max():.2f}")

    page.show_only()
    assert not page.pixels("overlay").any() and not page.get("legend").is_displayed()


def test_every_copy_is_drawn(page: Page) -> None:
    corner = Instance(np.array([0, 0, 30, 20], np.int32), np.ones((20, 30), bool), 0.5, 0.61)
    page.site.engine.more = [corner]
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    assert page.text("box") == "2 places"
    both = MASK.copy()
    both[:20, :30] = True
    assert page.text("mask") == f"{both.mean():.0%} of the image".replace("%", " %")
    page.show_only("mask")
    drawn = page.pixels("overlay")
    fine = drawn.shape[0] // MASK.shape[0]
    assert (drawn[eroded(both.repeat(fine, 0).repeat(fine, 1), 2), 3] == 102).all()
    page.show_only("box")
    drawn = page.pixels("overlay")
    x, y, _, height = (fine * side for side in box_of(MASK))
    for row, column in ((y + height // 2, x), (10 * fine, 30 * fine)):
        np.testing.assert_allclose(drawn[row, column], [245, 179, 1, 255], atol=2)


def test_large_images_are_sent_small_and_upright(page: Page, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (4000, 2000)).save(tmp_path / "large.jpg", exif=exif)
    page.pick("mug_0")
    page.upload(tmp_path / "large.jpg")
    page.asked_and_answered()
    assert page.site.engine.sizes == [(1280, 640)] * 2
    assert page.text("sent").startswith("640 × 1280, ")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(page: Page, kind: str) -> None:
    bring = """
        const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
        const file = new File([bytes], "a.jpg", { type: "image/jpeg" });
        const data = new DataTransfer();
        data.items.add(file);
        document.body.dispatchEvent(arguments[1] === "drop"
          ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    """
    page.run(bring, base64.b64encode(PHOTO.read_bytes()).decode(), kind)
    page.wait(lambda: len(page.candidates()) == 3)
    assert page.site.engine.asked == ["identify"]
    assert page.text("said") == "Choose an object or one of the recognised objects"


def test_images_can_be_taken_with_the_camera(page: Page) -> None:
    page.get("live").click()
    page.wait(lambda: page.run("return document.getElementById('video').videoWidth"))
    page.run("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.get("snap").click()
    page.wait(lambda: len(page.candidates()) == 3)
    assert len(np.unique(page.pixels("photo").reshape(-1, 4), axis=0)) > 10, "not a black image"
    assert page.run("return window.track.readyState") == "ended", "the camera is switched off"


def test_what_is_not_there(page: Page) -> None:
    page.site.engine.found = False
    page.pick("part_02399")  # of the last page of the list
    page.upload()
    page.asked_and_answered()
    assert page.text("said") == "No, this does not show part_02399"
    assert (page.text("box"), page.text("mask")) == ("not found", "not found")
    assert page.text("found") == "None of 2,416 objects was recognised"
    page.show_only("box", "mask")
    assert not page.pixels("overlay").any()


def test_an_object_without_masks_is_no_error(page: Page) -> None:
    page.pick(MASKLESS)
    page.upload()
    page.wait_for("mask", "published without masks")
    page.wait_for("said", f"No, this does not show {MASKLESS}")
    assert page.text("box") == "published without masks" and not page.get("show-box").is_enabled()
    assert not page.get("toast").is_displayed()


def test_no_objects(page: Page) -> None:
    page.site.catalog.published.clear()
    page.open()
    page.wait_for("said", "No objects are published here yet")
    assert page.text("count") == "No objects"
