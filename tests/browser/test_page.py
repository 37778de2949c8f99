"""The page at `/`, used as people use it, in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser.site import MASK, MASKLESS, PHOTO, Site, box_of, running_site, similarity_map
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from persrep_ray.serving.engine.errors import AdapterUnusableError, OverloadedError
from persrep_ray.serving.http.auth import KeyEntry

PATIENCE_S = 20
DESKTOP, PHONE = (1280, 900), (360, 740)

# The worst contrast of a text to what is behind it, as WCAG reckons it, and that text.
WORST_CONTRAST = """
const rgba = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const behind = element => {
  if (!element) return [255, 255, 255, 1];
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(element.parentElement));
};
const light = colour => colour.slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (element, pseudo) => {
  const back = behind(element), front = over(rgba(getComputedStyle(element, pseudo).color), back);
  const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const found = [];
for (const element of document.body.querySelectorAll("*")) {
  if (!element.checkVisibility() || element.closest("script")) continue;
  const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
  if (text) found.push([contrast(element), text]);
  if (element.placeholder) found.push([contrast(element, "::placeholder"), element.placeholder]);
}
return [found.length, ...found.sort((a, b) => a[0] - b[0])[0]];
"""


@dataclass(frozen=True)
class Page:
    """The page, and what people do with it."""

    driver: Chrome
    site: Site

    def open(self) -> None:
        self.driver.get(self.site.url)

    def get(self, id: str) -> WebElement:
        return self.driver.find_element(By.ID, id)

    def text(self, id: str) -> str:
        return self.get(id).text

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def tell(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def wait(self, holds: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: holds())

    def wait_for(self, id: str, text: str) -> None:
        WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(
            lambda _: text in self.text(id), f"{id}: {text!r} does not come"
        )

    def look(self, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        phone = size == PHONE
        factor = 2 if phone else 1
        self.tell(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=factor, mobile=phone
        )
        self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def pick(self, object_id: str) -> None:
        self.get("object").click()
        self.get("object").send_keys(object_id)
        self.wait(lambda: self.run("return document.querySelector('#options .active')?.textContent") == object_id)
        self.get("object").send_keys(Keys.ENTER)

    def upload(self, file: Path = PHOTO) -> None:
        self.get("file").send_keys(str(file))

    def show_only(self, *layers: str) -> None:
        for layer in ("box", "mask", "heat"):
            switch = self.get(f"show-{layer}")
            if switch.is_selected() != (layer in layers):
                switch.send_keys(Keys.SPACE)

    def pixels(self, canvas: str) -> np.ndarray:
        """(H, W, 4) uint8."""
        png = self.run("return document.getElementById(arguments[0]).toDataURL()", canvas).split(",")[1]
        return np.array(Image.open(io.BytesIO(base64.b64decode(png))))

    def candidates(self) -> list[str]:
        return [button.text.replace("\n", " ") for button in self.get("found").find_elements(By.TAG_NAME, "button")]

    def asked_and_answered(self) -> None:
        """All four answers about image and object are shown."""
        self.wait(lambda: all(self.text(f"ms-{task}").endswith(" ms") for task in TASKS))


TASKS = ("classify", "detect", "segment", "identify")


def eroded(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` without what is nearer to its edge."""
    square = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.erode(mask.astype(np.uint8), square).astype(bool)


@pytest.fixture
def page(driver: Chrome, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Opened. In the end nothing is on the browser's console but the statuses of refused requests.

    The parameter, if there is one, is the only key.
    """
    secret = getattr(request, "param", None)
    keys = secret and [KeyEntry(name="it", sha256=hashlib.sha256(secret.encode()).hexdigest(), prefixes=("mug_",))]
    with running_site(keys) as site:
        page = Page(driver, site)
        page.look()
        page.open()
        yield page
        console = [entry for entry in driver.get_log("browser") if entry["source"] != "network"]
        driver.get("about:blank")
    assert console == []


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
    assert page.text("said") == "Choose an object, or one that was recognised"


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(page: Page, scheme: str) -> None:
    """4.5 is what WCAG asks for, level AA."""
    page.look(scheme=scheme)
    assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    worst = [page.run(WORST_CONTRAST)]
    page.upload()
    for object_id in ("part_00000", "mug_0"):
        page.pick(object_id)
        page.asked_and_answered()
        worst.append(page.run(WORST_CONTRAST))
    page.site.engine.failures = [AdapterUnusableError("its card is damaged")] * 3
    page.pick("mug_1")
    page.wait_for("problems", "adapter_unusable")
    page.get("object").send_keys("p")
    worst.append(page.run(WORST_CONTRAST))
    page.run("askForKey({ code: 'unauthorized', message: 'a key is needed' })")
    worst.append(page.run(WORST_CONTRAST))
    for many, contrast, text in worst:
        assert many > 20 and contrast >= 4.5, text


def test_the_layout_keeps_still_while_answers_come(page: Page) -> None:
    page.wait_for("count", "2,416 objects")
    page.run("""
        window.shift = 0;
        new PerformanceObserver(list => { for (const one of list.getEntries()) window.shift += one.value; })
          .observe({ type: "layout-shift", buffered: true });
    """)
    page.upload()
    for object_id in ("mug_0", "part_00000"):
        page.pick(object_id)
        page.asked_and_answered()
    assert (
        page.run(
            "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(window.shift))))"
        )
        < 0.01
    )


def test_it_fits_a_phone(page: Page) -> None:
    page.look(PHONE)
    page.open()
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    assert page.run("return document.documentElement.scrollWidth") == PHONE[0]
    assert page.run("return document.documentElement.clientWidth") == PHONE[0]
    assert page.get("shoot").is_displayed(), "the camera app"
    small = "return [...document.querySelectorAll('button, a, .chip')].filter(e => e.checkVisibility())\
        .map(e => [e.textContent, e.getBoundingClientRect()]).filter(([, box]) => box.height < 44 || box.width < 44)"
    assert page.run(small) == [], "too small for fingers"
    long = "x" * 128
    page.site.catalog.published[long] = ["v" * 64]
    page.open()
    page.pick(long)
    page.upload()
    page.asked_and_answered()
    assert page.run("return document.documentElement.scrollWidth") == PHONE[0]


@pytest.mark.parametrize(
    ("name", "size", "scheme"), [("light-desktop", DESKTOP, "light"), ("dark-phone", PHONE, "dark")]
)
def test_screenshots_for_people(page: Page, artifacts: Path, name: str, size: tuple[int, int], scheme: str) -> None:
    page.look(size, scheme)
    page.open()
    page.pick("mug_0")
    page.upload()
    page.asked_and_answered()
    height = page.run("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1}
    shot = page.tell("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    (artifacts / f"page-{name}.png").write_bytes(base64.b64decode(shot))
    assert Image.open(artifacts / f"page-{name}.png").width == size[0] * (2 if size == PHONE else 1)
