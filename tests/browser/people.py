"""The page in a browser, and what people do with it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from browser.site import PHOTO, Site
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 20
DESKTOP, PHONE = (1280, 900), (360, 740)
TASKS = ("classify", "detect", "segment", "identify")


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
        """Waits until all four answers about the image and the object are shown."""
        self.wait(lambda: all(self.text(f"ms-{task}").endswith(" ms") for task in TASKS))
