"""Commands in an empty folder, on weights that can be planned with and a run that samples nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Done
from sample_results import sample_result, write_package_weights

from sbv2bench import paths
from sbv2bench.cli import app
from sbv2bench.results import store


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            app(list(words), prog_name="sbv2bench")
        out, err = capsys.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return call


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped weights that can be planned with, though not sampled."""
    folder = write_package_weights(tmp_path_factory.mktemp("package") / "weights")
    monkeypatch.setattr(paths, "package_weights", lambda: folder)
    return folder


@pytest.fixture
def evaluated(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A run that samples nothing: prints as libraries do, and stores a result. The list has the plans that were carried out."""
    from sbv2bench.evaluation import evaluate

    plans: list[Any] = []

    def evaluate_and_store(plan: Any, registry: Any, progress: Any) -> Any:
        plans.append(plan)
        print("a library's chatter")
        progress("generate", 5, 5)
        result = sample_result(suite=plan.suite.id, status="partial" if plan.partial else "complete")
        return result, store.write(result, plan.options.results)

    monkeypatch.setattr(evaluate, "evaluate_and_store", evaluate_and_store)
    return plans
