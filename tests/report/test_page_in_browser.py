"""Pages in Chromium: quiet, alone, sortable, filterable, usable by keyboard, readable, and deaf to what a prompt says.

Run with `pytest -m browser`. Wants a Chromium on the path (Debian: `apt-get install chromium`) and is skipped without one.
The pictures that SBV2BENCH_SCREENSHOTS=folder leaves are for people to look at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_page import HOSTILE, content

from sbv2bench.report.page import page

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COMMITTED = Path(__file__).parents[2] / "leaderboards" / "index.html"
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

    def open_page(path: Path, size: str = "desk", scheme: str = "light") -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(60_000)
        shown.on("console", lambda message: heard.append(message.text))
        shown.on("pageerror", lambda error: heard.append(str(error)))
        shown.on("dialog", lambda dialog: heard.append(dialog.message))
        shown.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        shown.goto(path.as_uri())
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert [word for word in heard if not word.startswith("data:")] == []


def names(shown: Any) -> list[str]:
    return [name.strip() for name in shown.locator(".board").first.locator("tbody[data-kind]:visible .name").all_inner_texts()]


def column(shown: Any, place: int) -> list[str]:
    cells = shown.locator(".rows tbody[data-kind] > tr:first-child")
    return [row.locator("> *").nth(place).get_attribute("data-value") for row in cells.all()]


def test_a_hostile_text_runs_nothing_and_is_shown(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    assert shown.evaluate("window.harm") is None
    assert shown.title() == f"A page {HOSTILE}"
    assert shown.locator("img").count() == 1
    assert HOSTILE in names(shown)
    for more in shown.locator(".more").all():
        more.click()
    shown.locator(".mark").nth(3).hover()
    assert shown.evaluate("window.harm") is None
    assert shown.evaluate("document.querySelectorAll('#tip *').length") == 0


def test_an_injected_handler_is_stopped_by_the_policy(tmp_path: Path, browser: Any) -> None:
    """The second line: were a text not escaped, its script and its handler would still not run."""
    path = tmp_path / "index.html"
    html = page(content("plain")).replace(
        "<main>", '<main><img src="data:," onerror="window.harm=1"><script>window.harm=2</script>'
    )
    path.write_text(html, "utf-8")
    shown = browser.new_page()
    shown.goto(path.as_uri())
    shown.wait_for_timeout(200)
    assert shown.evaluate("window.harm") is None
    shown.close()


def test_sorting(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    fid = shown.locator("th", has_text="FID-mini").first
    assert fid.get_attribute("aria-sort") == "none"
    fid.locator("button").click()
    assert fid.get_attribute("aria-sort") == "ascending"  # the best first
    assert column(shown, 3) == ["0.1", "1.5", "2.5", "4.0", "10.0", ""]
    fid.locator("button").press("Enter")
    assert fid.get_attribute("aria-sort") == "descending"
    assert column(shown, 3) == ["10.0", "4.0", "2.5", "1.5", "0.1", ""]  # without a value: last either way
    precision = shown.locator("th", has_text="precision-mini").first
    precision.locator("button").click()
    assert (fid.get_attribute("aria-sort"), precision.get_attribute("aria-sort")) == ("none", "descending")
    assert column(shown, 4) == ["0.9", "0.8", "0.7", "0.6", "0.55", "0.5"]
    shown.locator("th", has_text="Model").first.locator("button").click()
    assert names(shown)[-1] == "unknown"


def test_filtering(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    assert len(names(shown)) == 6
    find, output = shown.locator("input[name=text]"), shown.locator("output")
    find.fill("PRINTED")
    assert names(shown) == ["printed"]
    assert output.inner_text() == "1 of 6 rows"
    printed = shown.locator(".wide .plot").first.locator(".mark", has_not=shown.locator(".gone"))
    assert [mark.get_attribute("class") for mark in printed.all()].count("mark") == 1  # the other points fade
    find.fill("0123abcd")  # a commit, from the provenance
    assert len(names(shown)) == 6
    shown.locator("select[name=steps]").select_option("several")
    assert names(shown) == ["teacher", "unknown"]
    shown.locator("select[name=steps]").select_option("")
    shown.locator("select[name=kind]").select_option("real")
    assert names(shown) == ["real"]
    find.press("Enter")  # sends nothing
    assert shown.url == sample.as_uri()


def test_provenance_opens_by_keyboard(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    more = shown.locator(".more").nth(1)
    detail = shown.locator(f"#{more.get_attribute('aria-controls')}")
    assert not detail.is_visible()
    more.focus()
    shown.keyboard.press("Enter")
    assert detail.is_visible() and more.get_attribute("aria-expanded") == "true"
    assert "by hand" in detail.inner_text() and "0123abcd" in detail.inner_text()
    shown.keyboard.press("Space")
    assert not detail.is_visible() and more.get_attribute("aria-expanded") == "false"


def test_points_speak_and_lead_to_their_rows(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    plot = shown.locator(".wide .plot").first
    assert plot.locator(".mark").count() == 5
    plot.locator(".mark[tabindex='0']").focus()
    first = shown.locator("#tip").inner_text()
    assert "FID-mini" in first and "95 %" in first
    shown.keyboard.press("ArrowRight")
    assert shown.locator("#tip").inner_text() != first
    row = shown.evaluate("document.activeElement.dataset.row")
    shown.keyboard.press("Enter")
    assert shown.locator(f"#{row}d").is_visible()
    assert not shown.locator("#tip").is_visible()


def test_the_theme_is_the_systems_until_it_is_chosen(sample: Path, opened: Open) -> None:
    shown = opened(sample, scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = shown.evaluate(paper)
    button = shown.locator("#theme")
    button.click()
    assert "light" in button.inner_text() and shown.evaluate(paper) == "rgb(255, 255, 255)" != dark
    button.click()
    assert "dark" in button.inner_text() and shown.evaluate(paper) == dark
    shown.reload()
    assert "dark" in shown.locator("#theme").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_committed_page_is_accessible_and_fits(size: str, scheme: str, opened: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    shown = opened(COMMITTED, size, scheme)
    plots = shown.locator(".plot:visible")
    assert plots.count() >= 2
    for plot in plots.all():
        assert plot.locator(".mark").count() >= 2
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")  # tables scroll, the page does not
    shown.locator(".more").nth(1).click()
    found = axe.Axe().run(shown)
    assert found.violations_count == 0, found.generate_report()
    folder = os.environ.get("SBV2BENCH_SCREENSHOTS")
    if folder:
        shown.screenshot(path=Path(folder) / f"{size}-{scheme}.png", full_page=True)


def test_the_head_stays_while_the_rows_scroll(opened: Open) -> None:
    shown = opened(COMMITTED)
    scroll = shown.locator(".board .scroll").first
    before = shown.locator(".rows thead").first.bounding_box()
    scroll.evaluate("element => element.scrollTo(0, 300)")
    assert shown.locator(".rows thead th").first.bounding_box()["y"] == pytest.approx(before["y"], abs=1)
