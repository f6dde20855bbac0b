"""`train --dry-run`: a true step, grid and checkpoint, and nothing of them left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipe import PAIRED, tiny_recipe
from typer.testing import CliRunner

from reference_trainer.__main__ import app


@pytest.mark.ci
def test_a_dry_run_measures_and_leaves_nothing(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(family / "catalog.yaml"))
    teacher = {"lora": {"rank": 2, "alpha": 2, "targets": ["to_q"]}, "learning_rate": 1e-2, "warmup_steps": 10}
    recipe = tiny_recipe(family, steps=3600, regularisation=PAIRED | {"pairs": 500}, lora_teacher=teacher)
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json())
    arguments = ["train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"), "--device", "cpu", "--dry-run"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert found["hours"]["steps"] == pytest.approx(found["seconds_a_step"])  # 3,600 steps
    assert found["hours"]["warm_up"] > 0 and found["hours"]["pairs"] > 0
    assert found["hours"]["total"] == pytest.approx(sum(v for k, v in found["hours"].items() if k != "total"))
    assert found["checkpoint_bytes"] > 1e6 and found["disk_needed_bytes"] == 3 * found["checkpoint_bytes"]
    assert found["largest_micro_batch"] == 4 and found["largest_micro_batch_is"] == "estimated"
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0 and "memory at the worst moment" in told.stdout and "hours: total" in told.stdout
