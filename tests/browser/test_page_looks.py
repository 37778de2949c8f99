"""How the page looks: contrast, a steady layout, small screens, in a real browser."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from browser.people import DESKTOP, PHONE, Page
from PIL import Image

from persrep_ray.serving.engine.errors import AdapterUnusableError

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(page: Page, scheme: str) -> None:
    """WCAG level AA requires a contrast of 4.5."""
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
