"""Chromium as the tests drive it, by Selenium: what it asks the network for, what it complains of, what it shows."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from mvgan.media import decode_png


PATIENCE_S = 20.0
"""How long a test waits for what should come at once: other work may share the machine."""


class Browser:
    """One window of Chromium."""

    def __init__(self, chromium: str, driver: str) -> None:
        options = Options()
        options.binary_location = chromium
        flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--no-first-run"]
        if os.geteuid() == 0:  # its sandbox refuses to run as root
            flags.append("--no-sandbox")
        for flag in flags:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def begin(self) -> None:
        """An empty page on a light desktop, and empty logs."""
        self.driver.get("about:blank")
        self.screen(1200, 800)
        self.theme("light")
        self.outside()
        self.complaints()

    def open(self, page: Path) -> None:
        """Open a file, and wait until all in it is loaded."""
        self.driver.get(page.as_uri())
        self.until("document.readyState === 'complete'")

    def screen(self, width: int, height: int, mobile: bool = False) -> None:
        """Another size of the screen."""
        self._cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def theme(self, scheme: str) -> None:
        """light or dark, as the system would say."""
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def outside(self) -> list[str]:
        """Every request since the last call that is neither for a file given to `open` nor within the page, by the network log."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        urls = [(params["request"]["url"], params.get("type") == "Document") for params in sent]
        return [url for url, page in urls if not url.startswith(("data:", "about:", *(["file:"] if page else [])))]

    def complaints(self) -> list[str]:
        """What the console has had to say since the last call, warnings too."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds."""
        wait(lambda: self.ask(expression), expression)

    def find(self, selector: str) -> WebElement:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def screenshot(self, whole: bool = False) -> np.ndarray:
        """What is on the screen, or the whole page, uint8 [3, h, w]."""
        return decode_png(base64.b64decode(self._cdp("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def picture(self, selector: str) -> np.ndarray:
        """An element as it is on the screen, uint8 [3, h, w]."""
        return decode_png(self.find(selector).screenshot_as_png)

    def _cdp(self, command: str, **parameters: object) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)


def wait(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; fails when it does not within PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.05)
