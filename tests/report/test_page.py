"""Pages without a browser: the same bytes every time, every text escaped, everything in its order, the best numbers marked."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sample_page import COLUMNS, HOSTILE, content, number, picture, row

from sbv2bench.errors import PrerequisiteError
from sbv2bench.report import page as pages
from sbv2bench.report.page import figures, marks, padding, page
from sbv2bench.report.page_content import Board, Column, Content


class Elements(HTMLParser):
    """Every element that a browser would make, with its attributes, and the text of those named."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"title": [], "script": [], "style": [], "h2": [], "th": []}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in self.texts:
            self._open.append(tag)
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return page(content())


@pytest.fixture(scope="module")
def elements(html: str) -> Elements:
    return Elements(html)


def test_the_same_content_gives_the_same_bytes(html: str) -> None:
    assert page(content()) == html
    assert page(content("other")) != html


def test_no_text_becomes_an_element(html: str, elements: Elements) -> None:
    """Whatever is in names, captions and hashes, the page has the elements that harmless text gives it."""
    harmless = Elements(page(content("x" * len(HOSTILE))))
    assert [tag for tag, _ in elements.found] == [tag for tag, _ in harmless.found]
    assert elements.texts["title"] == [f"A page {HOSTILE}"]  # it is shown, as it is
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "{{" in html and "49" not in elements.texts["title"][0]


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(html: str, elements: Elements) -> None:
    places = [
        value or "" for _, found in elements.found for name, value in found.items() if name in {"src", "href", "xlink:href"}
    ]
    assert not [place for place in places if not re.match(r"data:|#|results/", place)]
    assert "@import" not in html and "url(" not in html
    policy = next(meta["content"] or "" for meta in elements.all("meta") if "http-equiv" in meta)
    for tag in ("script", "style"):
        (text,) = elements.texts[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_a_result_file_is_linked_and_never_a_script() -> None:
    harmful = replace(row("a", 1.0), link="javascript:window.harm=1")
    board = Board("b", (), COLUMNS, (harmful,))
    links = [link["href"] for link in Elements(page(Content("t", (), (board,)))).all("a")]
    assert links == ["#b0", "javascript%3Awindow.harm%3D1"]


def test_it_answers_in_order(html: str, elements: Elements) -> None:
    ids = [attributes["id"] for attributes in elements.all("section")]
    assert ids == ["b0", "comparisons", "sweeps", "pictures", "claims", "meanings"]
    assert all(head.get("scope") in {"col", "row"} for head in elements.all("th"))
    assert html.index('class="rows"') < html.index('class="figures"')
    only = Elements(page(Content("t", (), content().boards)))
    assert [attributes["id"] for attributes in only.all("section")] == ["b0"]


def test_every_row_is_a_body_with_its_provenance(elements: Elements) -> None:
    bodies = [body for body in elements.all("tbody") if "data-kind" in body]
    assert [body["data-kind"] for body in bodies] == ["real", "measured", "measured", "measured", "published", "measured"]
    assert [body["data-steps"] for body in bodies] == ["", "several", "one", "one", "one", "several"]
    assert len([body for body in elements.all("tr") if body.get("class") == "detail" and "hidden" in body]) == 6
    values = [cell["data-value"] for cell in elements.all("td") if "data-value" in cell]
    assert values[2] == repr(0.1) and "" in values  # in full; nothing where there is nothing


def test_best_and_second_by_value_and_without_real_pictures() -> None:
    rows = (
        row("real", 0.1, kind="real"), row("a", 2.0, 0.4), row("b", 1.0, 0.4), row("c", 3.0, 0.3), row("d", 1.0, 0.2),
        row("e", None, 0.1),
    )  # fmt: skip
    board = Board("b", (), COLUMNS, rows)
    found = marks(board)
    assert {place: word for (place, key), word in found.items() if key == "fid"} == {2: "best", 4: "best", 1: "second"}
    assert {place: word for (place, key), word in found.items() if key == "precision"} == {1: "best", 2: "best", 3: "second"}
    assert not [word for (_, key), word in found.items() if key == "latency_ms"]  # all are equal
    assert not marks(replace(board, rows=rows[:2]))  # the only one is not the best of anything


def test_decimal_points_stand_in_line() -> None:
    texts = ("0.1223", "17.98", "76", "1.")
    rows = tuple(replace(row("a", 1.0), numbers={"fid": number(1.0, text=text)}) for text in texts)
    padded = padding(Board("b", (), COLUMNS, rows), "fid")
    assert [text + padded[place] for place, text in enumerate(texts)] == ["0.1223", "17.9800", "76.0000", "1.0000"]
    whole = (replace(row("a", 1.0), numbers={"fid": number(1.0, text="5")}), row("b", None))
    assert padding(Board("b", (), COLUMNS, whole), "fid") == {0: ""}


def test_latency_where_there_is_one_and_nfe_where_there_is_none() -> None:
    board = content("x").boards[0]
    ids = [f"r{place}" for place in range(len(board.rows))]
    first, second = figures(board, ids)
    assert (first.title, second.title) == ("FID-mini against latency", "precision-mini against recall-mini")
    assert re.findall(r'data-row="(r\d)"', first.wide) == ["r0", "r2", "r3", "r4", "r1"]  # r5 has no FID; one step first
    silent = tuple(replace(one, numbers={k: v for k, v in one.numbers.items() if k != "latency_ms"}) for one in board.rows)
    first, _ = figures(replace(board, rows=silent), ids)
    assert first.title == "FID-mini against NFE" and "No two rows have a latency" in first.about
    assert re.findall(r'data-row="(r\d)"', first.narrow) == ["r2", "r3", "r4", "r1"]  # real pictures take no network
    assert figures(replace(board, rows=board.rows[:1]), ids[:1]) == []


def test_the_papers_latency_of_one_machine_is_drawn_before_the_quick_one() -> None:
    machines = ("A", "A", "B", "A", None)
    rows = tuple(
        replace(one, numbers=one.numbers | ({"latency_paper_ms": number(5.0 + place, method=machine)} if machine else {}))
        for place, machine in enumerate(machines)
        for one in [row(f"m{place}", 1.0 + place)]
    )
    columns = (*COLUMNS, Column("latency_paper_ms", "latency (paper)", "lower", "ms"))
    ids = [f"r{place}" for place in range(len(rows))]
    first, _ = figures(Board("b", (), columns, rows), ids)
    assert first.title == "FID-mini against latency (paper)"
    assert re.findall(r'data-row="(r\d)"', first.wide) == ["r0", "r1", "r3"]
    assert "2 rows without a latency of this machine are left out" in first.about


def test_a_point_far_from_all_others_is_named_and_not_drawn() -> None:
    rows = tuple(row(f"m{place}", 1.0, 0.5 + place / 100) for place in range(9))
    far, near = row("far", 1.0, 0.0), row("near", 1.0, 0.45)
    for other, drawn in ((far, 9), (near, 10)):
        board = Board("b", (), COLUMNS, (*rows, other))
        figure = figures(board, [str(place) for place in range(10)])[1]
        assert figure.wide.count('class="mark"') == drawn
        assert ("Outside the plot: far" in figure.about) == (drawn == 9)


def test_images_are_in_the_page(elements: Elements) -> None:
    (image,) = elements.all("img")
    assert image["src"] == "data:image/png;base64," + base64.b64encode(picture()).decode()
    assert image["alt"] == HOSTILE


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == "altair" else known(name))
    with pytest.raises(PrerequisiteError, match="altair: not installed") as caught:
        page(content())
    assert caught.value.exit_code == 3
    assert caught.value.fix == 'pip install "sbv2bench[report]"'
