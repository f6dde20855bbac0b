"""Every file of the leaderboards' folder, the page among them, built or checked."""

from __future__ import annotations

from pathlib import Path

from sbv2bench.boards import page as board_page
from sbv2bench.boards import text as leaderboard
from sbv2bench.errors import PrerequisiteError
from sbv2bench.report.page import check_packages


def build(folder: Path) -> list[Path]:
    """Write the tables and the page. Where the [report] extra is missing, a folder that has no page gets the tables alone.

    Raises PrerequisiteError, before anything is written, if the folder has a page that would be left behind.
    """
    return leaderboard.build(folder, _page(folder))


def check(folder: Path) -> list[Path]:
    """Build in memory and compare. Raises as `build`, and IntegrityError naming the files that are not right."""
    return leaderboard.check(folder, _page(folder))


def lacks_page() -> PrerequisiteError | None:
    """Why no page can be built here, if none can."""
    try:
        check_packages()
    except PrerequisiteError as error:
        return error
    return None


def _page(folder: Path) -> str | None:
    lacking = lacks_page()
    if lacking is None:
        return board_page.build(folder)
    if (folder / leaderboard.PAGE).is_file():
        raise lacking
    return None
