"""A headless Chromium of this machine, driven by playwright; what goes wrong in a page is collected."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def program() -> str | None:
    """The installed browser."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    path = program()
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Trouble:
    """Errors in the console, exceptions, dialogs that opened, and addresses that were asked for."""

    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        def closed(dialog: Any) -> None:
            self.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on(
            "console",
            lambda message: (
                self.errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", closed)
        page.on("request", lambda request: self.asked.append(request.url))

    def none(self, *addresses: str) -> None:
        """Nothing went wrong, and nothing but these addresses was asked for."""
        assert self.errors == []
        assert self.dialogs == []
        assert {
            address.partition("#")[0] for address in self.asked if not address.startswith(("data:", "blob:"))
        } <= set(addresses)


def until(page: Page, expression: str, seconds: float = 20) -> None:
    """Wait for an expression to be true (`page.wait_for_function` evaluates text, which the page forbids)."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not true: {expression}"
        page.wait_for_timeout(50)


@contextmanager
def opened(browser: Browser, file: Path | str, **options: Any) -> Iterator[tuple[Page, Trouble]]:
    """A page in a context of its own; `file` may be an address."""
    address = file if isinstance(file, str) else file.as_uri()
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    page, trouble = context.new_page(), Trouble()
    trouble.watch(page)
    page.goto(address)
    page.wait_for_selector("html[data-drawn]", state="attached")
    yield page, trouble
    context.close()
