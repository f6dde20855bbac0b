"""Two students to be merged, and what they say of themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tiny_pipeline, write_tiny_student

from reference_trainer import merge as merge_module


def declare(folder: Path, **fields: Any) -> Path:
    """Say that a folder is a one-step student."""
    (folder / "sbv2bench.json").write_text(json.dumps({"id": "local/x", "sampler": "one_step", "steps": 1, **fields}))
    return folder


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return declare(write_tiny_pipeline(tmp_path_factory.mktemp("ends") / "a"))


@pytest.fixture(scope="module")
def b(a: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return declare(write_tiny_student(tmp_path_factory.mktemp("ends") / "b", a, seed=5))


@pytest.fixture
def copy_of_b(b: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return Path(shutil.copytree(b, tmp_path / "copy_of_b"))


@pytest.fixture
def no_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a network fails the test."""
    monkeypatch.setattr(merge_module, "load_components", lambda *_: pytest.fail("a network was loaded"))
