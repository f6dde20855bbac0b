"""A tiny family for every test of the runs, and a cache of its own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Watched
from tiny_suite import write_tiny_suite

from sbv2bench.evaluation import evaluate as spine
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of a tiny family that no test changes."""
    return write_tiny_suite(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def registry(catalog: Path) -> Registry:
    return Registry.load(catalog)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a working folder with no catalog in it."""
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "home"))
    for name in ("SBV2BENCH_CATALOG", "SBV2BENCH_SUITE", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[PromptBlock, int], None]], list[Watched]]:
    """watch(before) puts a Watched around every model that is loaded from now on, and lists them."""
    real = spine.load_sampler

    def begin(before: Callable[[PromptBlock, int], None]) -> list[Watched]:
        loaded: list[Watched] = []

        def load(*arguments: Any) -> Watched:
            loaded.append(Watched(real(*arguments), before))
            return loaded[-1]

        monkeypatch.setattr(spine, "load_sampler", load)
        return loaded

    return begin
