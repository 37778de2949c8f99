"""A real browser."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.people import Page
from browser.site import running_site
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from persrep_ray.serving.http.auth import KeyEntry

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"  # a camera that shows a test image
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("no browser: tools/install_browser.sh installs one")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots are left for people."""
    folder = Path(__file__).resolve().parents[2] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def page(driver: webdriver.Chrome, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The opened page. At the end, the browser's console holds nothing but the statuses of refused requests.

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
