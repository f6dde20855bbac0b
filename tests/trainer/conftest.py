"""One tiny family for the trainer's tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest
from merge_ends import a, b, copy_of_b, no_compute  # noqa: F401  # fixtures
from tiny_recipe import write_tiny_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_family(tmp_path_factory.mktemp("family"))
