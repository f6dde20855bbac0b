"""Every test has its own cache folder and no hub, whatever the machine's environment says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.pop("COLUMNS", None)  # pytest-xdist gives it to its workers
os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is first imported
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: one thread each, before torch asks
    os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["standin_hub", "asset_server"]  # the fixtures standin, without_network and server


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """What a test makes of torch's threads ends with it: more of them than cores make the tests after it many times slower."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    yield
    if torch is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SBV2BENCH_HOME, offline, and none of the user's own settings."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SBV2BENCH_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("SBV2BENCH_SUITE", "SBV2BENCH_CATALOG", "SBV2BENCH_ALLOW_PICKLE", "SBV2BENCH_OFFLINE", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return home
