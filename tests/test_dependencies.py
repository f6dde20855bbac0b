"""Every dependency has a reason and the licence that it says itself, and the README's table is what pyproject.toml asks for."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
from dependencies import PART, README, REASONS, asked_for, lowest, table
from readme_parts import part

SAYS_OTHERWISE = {"axe-playwright-python", "clean-fid"}  # nothing, and BSD, where their LICENSE files are of MIT
ALIKE = {
    "BSD-3-Clause": "BSD",
    "BSD-2-Clause": "BSD",
    "Apache-2.0": "Apache",
    "MIT-CMU": "MIT-CMU",
    "MPL-2.0": "MPL",
    "MIT": "MIT",
}


def names() -> set[str]:
    return {name for packages in asked_for().values() for name in packages}


def test_every_dependency_has_a_reason_and_every_reason_a_dependency() -> None:
    assert names() == set(REASONS)
    assert all(len(one["why"]) > 4 for one in REASONS.values())


@pytest.mark.parametrize("name", sorted(set(REASONS) - SAYS_OTHERWISE))
def test_licences_are_what_the_packages_say(name: str) -> None:
    try:
        said = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed here")
    words = [said.get("License-Expression"), said.get("License"), *(said.get_all("Classifier") or ())]
    text = " ".join(word for word in words if word and not word.startswith(("Programming", "Topic")))
    expected = ALIKE[REASONS[name]["licence"]]
    assert re.search(rf"\b{expected}\b|{'Enthought|Vega-Altair' if expected == 'BSD' else expected}", text), text[:200]


def test_the_readmes_table_is_generated() -> None:
    assert part(README, PART) == table(), "python tests/support/dependencies.py"


def test_lowest_versions_are_of_everything_that_an_installation_has() -> None:
    found = lowest()
    assert "torch==2.6.*" in found and len(found) >= 26
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+(\.\*)?", line) for line in found)
