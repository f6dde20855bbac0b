"""The page's gallery and its blind votes in Chromium; run with `pytest -m browser`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsed_pages import Open, downloaded, wait_until

pytestmark = pytest.mark.browser


def test_the_gallery_is_ordered_by_scores_and_shows_the_difference(sample: Path, opened: Open) -> None:
    shown = opened(sample)

    def captions() -> list[str]:
        return [text.split("caption ")[-1] for text in shown.locator(".pictures tbody th").all_inner_texts()]

    assert captions() == ["0", "1", "2", "3"]
    assert shown.locator(".pictures thead th", has_text="real").count() == 1
    shown.locator("#gallery select[name=a]").select_option("mini/student")
    shown.locator("#gallery select[name=b]").select_option("mini/teacher")
    shown.locator("#gallery select[name=order]").select_option("worst")
    assert captions() == ["1", "2", "3", "0"]
    shown.locator("#gallery select[name=order]").select_option("disagree")
    assert captions() == ["1", "3", "0", "2"]
    shown.locator("#gallery input[name=pair]").check()
    heads = shown.locator(".pictures thead th").all_inner_texts()
    assert heads == ["Caption", "student", "teacher", "real", "Difference, four times"]
    pixel = (
        "(place) => [...document.querySelector('.pictures tbody tr').querySelectorAll('canvas')[place]"
        ".getContext('2d').getImageData(0, 0, 1, 1).data]"
    )
    wait_until(shown, f"({pixel})(0)[3]")
    assert [shown.evaluate(pixel, place) for place in (0, 1, 3)] == [[160, 50, 30, 255], [120, 50, 30, 255], [160, 0, 0, 255]]
    style = shown.locator(".pictures canvas").first.evaluate("e => getComputedStyle(e).imageRendering")
    assert style == "pixelated"


def test_tiles_are_painted_as_they_come_near_and_all_of_them_on_paper(sample: Path, opened: Open) -> None:
    shown = opened(sample, "telephone")
    blank = "document.querySelectorAll('.pictures canvas:not(.painted)').length"
    every = shown.locator(".pictures canvas").count()
    assert shown.evaluate(blank) == every > 0
    shown.locator(".pictures canvas").first.scroll_into_view_if_needed()
    wait_until(shown, f"{blank} < {every}")
    shown.evaluate("document.querySelector('#gallery input[name=pair]').click(); scrollTo(0, 0)")
    wait_until(shown, f"{blank} > 0")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.evaluate(blank) == 0


def test_blind_votes_are_kept_counted_and_come_back(sample: Path, opened: Open, tmp_path: Path) -> None:
    shown = opened(sample)
    ballot = shown.locator(".ballot")
    assert "student" not in ballot.inner_text() and "teacher" not in ballot.inner_text()  # no name before the vote
    ballot.focus()
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft"):
        shown.keyboard.press(key)
    assert "Left was" in ballot.inner_text() and "Your votes: 4" in shown.locator(".standings").inner_text()
    shown.reload()
    assert "Your votes: 4" in shown.locator(".standings").inner_text()
    text = downloaded(shown, "Export votes", ".votes")
    document = json.loads(text)
    assert [vote["winner"] for vote in document["votes"]] == ["left", "right", "tie", "left"]
    for row in document["strengths"]:
        assert row["ci95"][0] <= row["ci95"][1] and row["votes"] >= 1
    assert sum(row["strength"] for row in document["strengths"]) == pytest.approx(0, abs=1e-6)
    shown.locator(".votes button", has_text="Forget").click()
    assert shown.locator(".standings").count() == 0
    path = tmp_path / "votes.json"
    path.write_text(text)
    shown.locator(".votes input[type=file]").set_input_files(path)
    shown.locator(".standings").wait_for()
    assert json.loads(downloaded(shown, "Export votes", ".votes")) == document


def test_a_vote_is_followed_by_another_pair(sample: Path, opened: Open) -> None:
    shown = opened(sample)
    shown.locator(".ballot").focus()
    for _ in range(24):  # the same caption and sides by chance every time: once in millions of runs
        shown.keyboard.press("ArrowLeft")
    votes = json.loads(downloaded(shown, "Export votes", ".votes"))["votes"]
    assert len({(vote["caption"], vote["left"], vote["right"]) for vote in votes}) > 1


def test_strengths_are_those_of_bradley_and_terry(sample: Path, opened: Open) -> None:
    """Of two models the one that won 3 of 4 is 3 times as strong; the imagined tie draws it in a little."""
    found = opened(sample).evaluate("bradleyTerry(2, [[0, 1, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0]])")
    import math

    assert found[0] - found[1] == pytest.approx(400 * math.log10(3.05 / 1.05), abs=0.01)
