"""A browser without a screen, where one is installed: Debian's chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def opened(path: Path, width: int = 1400, scheme: str = "light") -> Iterator[tuple[Any, list[str]]]:
    """Open a page from its file; yield it, and what it writes to the console or asks the network for.

    The test skips where there is no browser.

    Args:
        path: of the page.
        width: of the window in pixels.
        scheme: light or dark, as the reader has chosen.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--mute-audio"])
        try:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
            page.goto(path.absolute().as_uri())
            yield page, said
        finally:
            browser.close()


def wait_until(page: Any, condition: str, timeout_s: float = 20.0) -> None:
    """Wait until a condition in JavaScript holds; playwright's own wait is refused by a page that allows no `eval`."""
    for _ in range(round(timeout_s / 0.05)):
        if page.evaluate(f"() => Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} does not hold after {timeout_s:g} s")
