"""Pages without a browser: the same bytes every time, every text escaped, everything in its order, the best numbers marked."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sample_page import COLUMNS, HOSTILE, content, number, picture, row

from sbv2bench.errors import PrerequisiteError
from sbv2bench.report import page as pages
from sbv2bench.report.bars import intervals, scale
from sbv2bench.report.page import best, padding, page, ranked
from sbv2bench.report.page_content import Board, Content


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
        *data, text = elements.texts[tag]
        assert len(data) == (tag == "script")  # the document, which is JSON and no script
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_it_answers_in_order(html: str, elements: Elements) -> None:
    ids = [attributes["id"] for attributes in elements.all("section")]
    assert ids == ["board", "other", "comparisons", "gallery", "sweeps", "claims", "meanings"]
    assert all(head.get("scope") in {"col", "row"} for head in elements.all("th"))
    assert html.index('class="rows"') < html.index('class="frontier"')
    only = Elements(page(Content("t", (), content().boards)))
    assert [attributes["id"] for attributes in only.all("section")] == ["board", "other"]


def test_every_row_is_in_the_table_and_in_the_document(html: str, elements: Elements) -> None:
    rows = [found["id"] for found in elements.all("tr") if "id" in found]
    assert rows == [*(f"board-r{place}" for place in range(6)), "other-r0", "other-r1"]
    document = json.loads(html.partition('id="content">')[2].partition("</script>")[0])
    own = document["boards"][0]["rows"]
    assert [row["kind"] for row in own] == ["real", "measured", "measured", "measured", "published", "measured"]
    assert own[1]["numbers"]["fid"]["value"] == 1.5 and "fid" not in own[5]["numbers"]
    assert own[3]["title"] == HOSTILE and document["gallery"]["captions"][0] == [0, HOSTILE]
    assert "png" not in document["gallery"]


def test_ranks_leave_out_what_is_not_ranked_and_ties_share_a_range() -> None:
    assert ranked(content().boards[0]) == {1: "1-2", 2: "1-2", 3: "3"}
    assert ranked(content().boards[1]) == {}


def test_every_tied_best_is_marked_and_no_real_picture() -> None:
    board = content().boards[0]
    assert {place for place, key in best(board) if key == "fid"} == {1, 2}
    assert {place for place, key in best(board) if key == "precision"} == {1}  # no tests: by value
    assert not [key for _, key in best(content().boards[1])]  # all alike: none is best


def test_the_bars_of_a_column_share_a_scale_that_a_far_value_does_not_stretch() -> None:
    numbers = [number(value, 0.05) for value in (1.0, 1.2, 1.4, 1.6, 40.0)]
    assert scale(numbers) == pytest.approx((0.9, 1.7))
    rows = tuple(replace(row(f"m{place}", 1.0), numbers={"fid": one}) for place, one in enumerate(numbers))
    found = intervals(Board("b", "b", (), COLUMNS, rows))
    assert [("beyond" in found[place, "fid"]) for place in range(5)] == [False] * 4 + [True]
    left = [float(re.search(r'at" d="M([\d.]+)', found[place, "fid"])[1]) for place in range(4)]  # type: ignore[index]
    assert left == sorted(left) and left[0] == pytest.approx(2 + 68 * 0.1 / 0.8, abs=0.1)


def test_decimal_points_stand_in_line() -> None:
    texts = ("0.1223", "17.98", "76", "1.")
    rows = tuple(replace(row("a", 1.0), numbers={"fid": number(1.0, text=text)}) for text in texts)
    padded = padding(Board("b", "b", (), COLUMNS, rows), "fid")
    assert [text + padded[place] for place, text in enumerate(texts)] == ["0.1223", "17.9800", "76.0000", "1.0000"]
    whole = (replace(row("a", 1.0), numbers={"fid": number(1.0, text="5")}), row("b", None))
    assert padding(Board("b", "b", (), COLUMNS, whole), "fid") == {0: ""}


def test_images_are_in_the_page(elements: Elements) -> None:
    (atlas,) = elements.all("img")
    assert atlas["src"] == "data:image/png;base64," + base64.b64encode(picture(4, 4)).decode()


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == "jinja2" else known(name))
    with pytest.raises(PrerequisiteError, match="jinja2: not installed") as caught:
        page(content())
    assert caught.value.exit_code == 3
    assert caught.value.fix == 'pip install "sbv2bench[report]"'
