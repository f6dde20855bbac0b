"""Chromium where there is one, a sample page, and pages that may ask for nothing and say nothing: for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_page import content

from sbv2bench.report.page import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"telephone": (390, 844), "desk": (1440, 900)}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("found no chromium on the path")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # a container's root has no sandbox
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page(content()), "utf-8")
    return path


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a page from disk. Whatever it does beyond that, a request or a word on the console, fails the test."""
    contexts, heard = [], []

    def open_page(path: Path, size: str = "desk", scheme: str = "light", address: str = "", **more: object) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(30_000)
        shown.set_default_navigation_timeout(180_000)  # the committed page has 3 MB, and a busy machine other things to do
        shown.on("console", lambda message: heard.append(message.text))
        shown.on("pageerror", lambda error: heard.append(str(error)))
        shown.on("dialog", lambda dialog: heard.append(dialog.message))
        shown.on("request", lambda request: heard.append(request.url) if request.url.partition("#")[0] != path.as_uri() else None)
        shown.goto(path.as_uri() + address)
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert [word for word in heard if not word.startswith(("data:", "blob:"))] == []


def names(shown: Any) -> list[str]:
    return [name.strip() for name in shown.locator("#board .rows tbody tr:visible .open").all_inner_texts()]


def values(shown: Any, key: str) -> list[str]:
    return [text.strip() for text in shown.locator(f'#board .rows tbody tr:visible [data-key="{key}"] .value').all_inner_texts()]


def downloaded(shown: Any, label: str, root: str = "#board") -> str:
    if root == "#board":
        shown.locator(f"{root} summary", has_text="Download").click()
    with shown.expect_download() as found:
        shown.locator(f"{root} button", has_text=label).first.click()
    return Path(found.value.path()).read_text("utf-8")


def wait_until(shown: Any, true: str) -> None:
    """Until a script's value is true of a page, whose policy lets nobody else evaluate scripts in it."""
    for _ in range(500):
        if shown.evaluate(true):
            return
        shown.wait_for_timeout(20)
    raise AssertionError(f"never true: {true}")
