"""Pages in Chromium: quiet, alone, sortable, filterable, linkable, usable by keyboard, readable, and deaf to what a prompt says.

Run with `pytest -m browser`. Wants a Chromium on the path (Debian: `apt-get install chromium`) and is skipped without one.
The pictures that SBV2BENCH_SCREENSHOTS=folder leaves are for people to look at.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from browsed_pages import SIZES, Open, downloaded, names, values, wait_until
from sample_page import HOSTILE, content

from sbv2bench.report.page import page

pytestmark = pytest.mark.browser
COMMITTED = Path(__file__).parents[2] / "leaderboards" / "index.html"


def test_a_hostile_text_runs_nothing_and_is_shown(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    assert shown.evaluate("window.harm") is None
    assert shown.title() == f"A page {HOSTILE}"
    assert shown.locator("img").count() == 1  # the atlas
    assert HOSTILE in names(shown)
    shown.locator("#board .open", has_text="onerror").last.click()
    assert "onerror" in shown.locator("#panel").inner_text()
    link = shown.locator("#panel a").get_attribute("href")
    assert link.startswith("results/%3Cimg") and "<" not in link
    shown.keyboard.press("Escape")
    shown.locator("#board .frontier .mark").nth(3).hover()
    shown.locator(".ballot button").first.click()
    assert shown.locator(".pictures th", has_text="onerror").count() == 2  # as a model and as a caption
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
    shown.locator("#board .frontier .plot").wait_for()
    assert shown.evaluate("window.harm") is None
    shown.close()


def test_sorting(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    fid = shown.locator("#board th", has_text="FID-mini").first
    assert fid.get_attribute("aria-sort") == "ascending"  # the order that the page comes in: the best first
    fid.locator("button").press("Enter")
    assert fid.get_attribute("aria-sort") == "descending"
    assert values(shown, "fid") == ["10.000", "4.000", "2.500", "1.500", "0.100"]
    assert names(shown)[-1] == "unknown"  # without a value: last either way
    precision = shown.locator("#board th", has_text="precision-mini").first
    precision.locator("button").click()
    assert (fid.get_attribute("aria-sort"), precision.get_attribute("aria-sort")) == ("none", "descending")
    assert values(shown, "precision") == ["0.900", "0.800", "0.700", "0.600", "0.550", "0.500"]
    shown.locator("#board select[name=sort]").select_option("name")
    assert names(shown)[-1] == "unknown"


def test_ranks_are_ranges_where_rows_are_tied(sample: Path, opened: Open) -> None:
    shown = opened(sample)

    def ranks() -> dict[str, str]:
        return dict(zip(names(shown), shown.locator("#board .rows tbody tr:visible .rank").all_inner_texts(), strict=True))

    found = ranks()
    assert (found["teacher"], found["student"], found[HOSTILE]) == ("1-2", "1-2", "3")
    assert [found[name] for name in ("real", "printed", "unknown")] == ["", "", ""]  # nothing to be ranked, or not ranked
    shown.locator("#board select[name=sort]").select_option("-fid")
    assert ranks() == found  # the order of the rows is not what ranks them
    best = shown.locator('#board td.best[data-key="fid"] .value').all_inner_texts()
    assert sorted(best) == ["1.500", "2.500"]  # every tied best


def test_search_is_in_names_and_settings_and_hashes_apart(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    assert len(names(shown)) == 6
    find, output = shown.locator("#board input[name=q]"), shown.locator("#board output")
    find.fill("PRINTED")
    assert names(shown) == ["printed"] and output.inner_text() == "1 of 6 rows"
    for word in ("0123abcd", "abab", "none", "FID"):  # in every row's details and in the table's head
        find.fill(word)
        assert names(shown) == []
    find.fill("hash:0123abcd")
    assert len(names(shown)) == 6
    find.fill("25 steps teacher")
    assert names(shown) == ["teacher"]
    find.press("Enter")  # sends nothing
    assert shown.evaluate("location.href") == f"{sample.as_uri()}#board?q=25+steps+teacher"


def test_filters_redraw_the_plot_and_clear_ends_them(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    marks = shown.locator("#board .frontier .mark")
    assert marks.count() == 4  # by passes: real pictures have none, one row has no FID
    shown.locator("#board select[name=licence]").select_option("MIT")
    assert names(shown) == ["teacher"]
    shown.locator("#board select[name=licence]").select_option("")
    shown.locator("#board select[name=size]").select_option("middle")
    assert names(shown) == ["teacher"]
    shown.locator("#board select[name=size]").select_option("small")
    assert names(shown) == ["student"]
    shown.locator("#board .clear").click()
    shown.locator("#board select[name=steps]").select_option("1")
    assert names(shown) == ["student", HOSTILE, "printed"] and marks.count() == 3
    shown.locator("#board select[name=origin]").select_option("published")
    assert names(shown) == ["printed"]
    shown.locator("#board .clear").click()
    assert len(names(shown)) == 6 and "?" not in shown.evaluate("location.href")
    shown.locator("#board input[name=frontier]").check()
    assert names(shown) == ["teacher", "student"]


def test_columns_are_picked(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    head = shown.locator('#board th[data-key="guidance"]')
    assert not head.is_visible()
    shown.locator("#board summary", has_text="Columns").click()
    shown.locator("#board input[name=cols][value=guidance]").check()
    shown.locator("#board input[name=cols][value=licence]").uncheck()
    assert head.is_visible() and not shown.locator('#board th[data-key="licence"]').is_visible()
    shown.reload()
    assert head.is_visible() and not shown.locator('#board th[data-key="licence"]').is_visible()


def test_a_baseline_recolours(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    shown.locator("#board select[name=base]").select_option("student")
    rows = shown.locator("#board .rows tbody tr:visible")
    told = {row.locator(".open").inner_text(): row.get_attribute("data-verdict") for row in rows.all()}
    assert told["teacher"] == "within noise" and told[HOSTILE] == "worse" and told["printed"] is told["student"] is None
    cell = rows.nth(3).locator('[data-key="fid"]')
    assert "worse" in cell.inner_text()  # not by its colour alone


def test_a_link_that_is_reopened_gives_the_same_view(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    shown.locator("#board select[name=sort]").select_option("-precision")
    shown.locator("#board select[name=steps]").select_option("several")
    shown.locator("#board .frontier select[name=y]").select_option("precision")
    shown.locator("#gallery select[name=order]").select_option("worst")
    shown.locator("#gallery select[name=a]").select_option("mini/student")
    shown.locator("#other select[name=sort]").select_option("name")
    shown.locator("#board .open", has_text="teacher").last.click()
    view = "document.querySelector('main').innerText + document.querySelector('#panel').innerText"
    again = opened(sample, address=shown.evaluate("location.hash"))
    assert again.locator("#panel").is_visible()
    ballot = re.compile(r"Which is better\? Your votes.*?No vote yet", re.DOTALL)  # two pictures by chance
    assert ballot.sub("", again.evaluate(view)) == ballot.sub("", shown.evaluate(view))
    assert names(again) == ["unknown", "teacher"]


def test_a_rows_details_open_by_keyboard_and_copy(sample: Path, opened: Open) -> None:
    shown = opened(sample, permissions=["clipboard-read", "clipboard-write"])
    shown.locator("#board tbody .open").nth(2).focus()
    shown.keyboard.press("Enter")
    panel = shown.locator("#panel")
    text = panel.inner_text()
    assert "sbv2bench eval --model student" in text and "0123abcd" in text and "@misc{sbv2bench-board-student" in text
    assert shown.evaluate("location.href").endswith("#board?row=student")
    panel.locator("button", has_text="Copy JSON").click()
    assert json.loads(shown.evaluate("navigator.clipboard.readText()"))["id"] == "student"
    panel.locator("[aria-label='Copy: To measure it again']").click()
    assert shown.evaluate("navigator.clipboard.readText()") == "sbv2bench eval --model student"
    shown.keyboard.press("Escape")
    wait_until(shown, "!location.hash.includes('row')")  # a dialog tells of its end in a task of its own
    assert not panel.is_visible()
    shown.locator("#board .tiles .open").click()
    assert panel.locator("h2").inner_text() == "teacher"


def test_the_keyboard_reaches_every_control(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    shown.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    wanted = shown.evaluate(
        "[...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility() && !e.disabled).map((e, i) => (e.dataset.stop = i))"
    )
    reached = set()
    for _ in range(len(wanted) + 10):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement?.dataset?.stop"))
    missed = [stop for stop in wanted if str(stop) not in reached]
    assert not missed, [shown.evaluate(f"document.querySelector('[data-stop=\"{stop}\"]').outerHTML") for stop in missed]


def test_points_speak_and_lead_to_their_rows(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    plot = shown.locator("#board .frontier .plot")
    plot.locator(".mark[tabindex='0']").focus()
    first = shown.locator("#tip").inner_text()
    assert "FID-mini" in first and "dominated here with probability" in first
    shown.keyboard.press("ArrowRight")
    assert shown.locator("#tip").inner_text() != first
    row = shown.evaluate("document.activeElement.dataset.row")
    shown.keyboard.press("Enter")
    assert shown.locator("#panel").is_visible() and f"row={row}" in shown.evaluate("location.hash")
    faded = {mark.get_attribute("data-row"): float(mark.get_attribute("fill-opacity")) for mark in plot.locator(".mark").all()}
    assert faded["student"] == 1 and faded["printed"] == 0.25  # the second is surely dominated


def test_downloads_parse_and_hold_what_is_shown(sample: Path, opened: Open) -> None:
    shown = opened(sample, address="#board?steps=1&sort=-fid")
    expected = names(shown)
    rows = list(csv.DictReader(io.StringIO(downloaded(shown, "CSV"))))
    assert [row["name"] for row in rows] == expected == [HOSTILE, "printed", "student"]
    assert float(rows[2]["fid"]) == 2.5 and float(rows[2]["fid_ci95_low"]) == 2.48 and rows[2]["rank"] == "1-2"
    shown.locator("#board summary", has_text="Download").click()
    document = json.loads(downloaded(shown, "JSON"))
    assert [row["title"] for row in document["rows"]] == expected and document["rows"][2]["numbers"]["fid"]["value"] == 2.5
    shown.locator("#board summary", has_text="Download").click()
    lines = downloaded(shown, "Markdown").splitlines()
    assert len(lines) == 5 and len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "**2.500 ± 0.010**" in lines[4] and "\\<img" in lines[2]
    shown.locator("#board summary", has_text="Download").click()
    latex = downloaded(shown, "LaTeX")
    assert latex.startswith("\\begin{tabular}{rll") and latex.count("\\\\\n") == 4 and "\\bottomrule" in latex
    ends = [len(re.findall(r"(?<!\\)&", line)) for line in latex.splitlines() if line.endswith("\\\\")]
    assert len(set(ends)) == 1 and "\\{\\{ 7 * 7 \\}\\}" in latex


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


def test_without_scripts_the_tables_stand(sample: Path, opened: Open) -> None:
    shown = opened(sample, java_script_enabled=False)
    assert names(shown) == ["real", "teacher", "student", HOSTILE, "printed", "unknown"]
    assert not shown.locator(".tools").first.is_visible() and not shown.locator("#gallery").is_visible()


def test_printed_it_is_the_table_without_what_is_pressed(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    shown.emulate_media(media="print")
    assert not shown.locator("#board .filters").first.is_visible() and not shown.locator(".votes").is_visible()
    assert len(names(shown)) == 6
    assert shown.locator("#board .scroll").first.evaluate("e => getComputedStyle(e).overflow") == "visible"


@pytest.mark.timeout(900)  # axe looks at every element of a large page
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_committed_page_is_accessible_and_fits(size: str, scheme: str, opened: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    shown = opened(COMMITTED, size, scheme, "#mini-5k?base=sbv2-b")
    assert COMMITTED.stat().st_size <= 4_000_000
    assert shown.locator("#mini-5k .frontier .mark").count() >= 20
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")  # tables may scroll, the page does not
    if size == "telephone":  # cards, which do not
        assert shown.locator("#mini-5k .rows").evaluate("e => getComputedStyle(e).display") == "block"
        assert shown.locator("#mini-5k > .scroll").evaluate(
            "e => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight + 2"
        )
    folder = os.environ.get("SBV2BENCH_SCREENSHOTS")
    if folder:
        shown.screenshot(path=Path(folder) / f"{size}-{scheme}.png", full_page=True)
    checker, quick = axe.Axe(), {"resultTypes": ["violations"]}
    found = checker.run(shown, options=quick)
    assert found.violations_count == 0, found.generate_report()
    shown.locator("#mini-5k tbody .open").nth(1).click()
    found = checker.run(shown, context="#panel", options=quick)
    assert found.violations_count == 0, found.generate_report()


def test_the_head_stays_while_the_rows_scroll(opened: Open) -> None:
    shown = opened(COMMITTED)
    scroll = shown.locator(".board > .scroll").first
    before = shown.locator(".rows thead th").first.bounding_box()
    scroll.evaluate("element => element.scrollTo(0, 300)")
    assert shown.locator(".rows thead th").first.bounding_box()["y"] == pytest.approx(before["y"], abs=1)
