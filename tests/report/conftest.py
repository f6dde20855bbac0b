"""The browser and the pages that tests of the page share."""

from browsed_pages import browser, opened, sample

__all__ = ["browser", "opened", "sample"]
