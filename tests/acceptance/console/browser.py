"""Debian's Chromium, driven by Playwright: a page of the console, and whatever it complained of or asked for."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from citybeat.stack.__main__ import BROWSERS


def program() -> str | None:
    """The browser that is installed, if any."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser; it ends with the block."""
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root. A container's /dev/shm may be too small.
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        made = playwright.chromium.launch(executable_path=program(), args=arguments)
        try:
            yield made
        finally:
            made.close()


@dataclass(kw_only=True)
class Visit:
    """A page, and what happened on it."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)  # requests to other hosts

    def open(self, key: str | None) -> Page:
        """Open the console and wait until it shows the city."""
        self.page.goto(f"{self.url}/" + (f"#key={key}" if key else ""))
        if key:
            self.page.wait_for_selector("body[data-ready=yes]")
        return self.page


@contextmanager
def visit(made: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A visitor without a past: nothing stored, nothing cached. Times out in 20 s."""
    context = made.new_context(**({"locale": "en-GB", "viewport": {"width": 1360, "height": 800}} | options))
    context.set_default_timeout(20_000)
    page = context.new_page()
    visited = Visit(page=page, url=url)
    page.on(
        "console",
        lambda message: (
            visited.complaints.append(f"{message.type}: {message.text}") if message.type in {"error", "warning"} else None
        ),
    )
    page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            visited.strangers.append(request.url)
            if urlsplit(request.url).scheme not in {"data", "blob"} and not request.url.startswith(f"{url}/")
            else None
        ),
    )
    try:
        yield visited
    finally:
        context.close()
