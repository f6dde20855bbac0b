"""The command that measures on a GPU: a rehearsal of its quickest parts on this CPU, and what it makes of parts that go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu import card, check
from gpu.figures import Figures, errors, holds

ROOT = Path(__file__).parents[2]
PIPELINE = {"pixels", "images", "steps", "dtypes", "parameters", "weights_bytes", "writing_seconds", "loading_seconds"}
PIPELINE |= {
    "first_seconds",
    "seconds",
    "call_bytes",
    "call_bytes_are",
    "deviation_of_pixels",
    "pixels_that_a_second_run_changes",
}
RUNG = {"recipe", "batch_size", "steps", "images_per_second", "seconds", "peak_bytes", "curve", "finite"}


@pytest.mark.ci
@pytest.mark.timeout(1200)
def test_a_rehearsal_has_the_keys_of_the_real_thing_and_leaves_the_checkout_alone(tmp_path: Path) -> None:
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    environment = os.environ | {"OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    command = [str(ROOT / "tests/gpu/check.sh"), "--rehearse", "--only", "pipelines", "rung"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert list(found) == ["device", "versions", "clocks", "power", "parts"]
    assert list(found["parts"]) == ["pipelines", "rung", "asserts"]
    assert found["parts"]["asserts"]["failed"] == 0 and found["parts"]["asserts"]["skipped"] > 20
    for name in ("sd3", "sdxl"):
        assert set(found["parts"]["pipelines"][name]) == PIPELINE
        assert found["parts"]["pipelines"][name]["dtypes"] == ["bfloat16"]
    rung = found["parts"]["rung"]["run"]
    assert set(rung) == RUNG
    assert rung["steps"] == 3 and len(rung["curve"]["loss"]) == 3 and rung["finite"]
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert after == before


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """fake(name=code, ...): parts of one's own, which take their turn; gpu.json's parts."""
    monkeypatch.setattr(check, "REHEARSED_LIMIT", 25.0)
    monkeypatch.setattr(check.asserts, "run", lambda out: {})

    def begin(**parts: str) -> dict[str, Any]:
        (tmp_path / "gpu").mkdir()
        for name, code in parts.items():
            (tmp_path / "gpu" / f"{name}.py").write_text(f"def measure(setting, figures):\n    {code}\n")
        monkeypatch.setattr(check, "LIMITS", dict.fromkeys(parts, 10))
        path = [tmp_path, ROOT, ROOT / "tests", ROOT / "tests" / "support"]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path)))
        (tmp_path / "out").mkdir()
        check.run_all(list(parts), "cpu", tmp_path, tmp_path / "out", 100.0)
        return json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]

    return begin


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_a_part_that_fails_costs_no_other_and_keeps_what_it_measured(fake: Any) -> None:
    broken = "figures.add('a.first', 1); raise ValueError('no such\\n card')"
    found = fake(broken=broken, sound="figures.add('seconds_left', setting.seconds)")
    assert found["broken"]["a"] == {"first": 1}
    assert found["broken"]["error"] == "ValueError: no such card"
    assert found["sound"]["seconds_left"] == 25.0 - check.GRACE and "error" not in found["sound"]


@pytest.mark.slow  # on a quiet machine: its limits are seconds
@pytest.mark.timeout(600)
def test_a_part_is_stopped_at_its_limit_with_all_that_it_started(fake: Any, tmp_path: Path) -> None:
    child = "import subprocess, time; figures.add('pid', subprocess.Popen(['sleep', '300']).pid); time.sleep(300)"
    began = time.monotonic()
    found = fake(stuck=child)
    assert time.monotonic() - began < 200
    assert found["stuck"]["error"] == "stopped at its limit of 25 s"
    deadline = time.monotonic() + 10
    while _lives(found["stuck"]["pid"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(found["stuck"]["pid"])


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_attempt_that_fails_leaves_its_reason_and_goes_on(tmp_path: Path) -> None:
    from sbv2bench.errors import PrerequisiteError

    def fail(error: Exception) -> None:
        raise error

    figures = Figures(tmp_path / "figures.json")
    assert figures.attempt("a.good", lambda: {"x": 1}) == {"x": 1}
    figures.attempt("a.absent", lambda: fail(PrerequisiteError("not built yet")))
    figures.attempt("a.bad", lambda: fail(RuntimeError("CUDA\nerror")))
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == {
        "a": {"good": {"x": 1}, "absent": {"not_run": "not built yet"}, "bad": {"error": "RuntimeError: CUDA error"}}
    }
    assert errors(written) == {"a.bad": "RuntimeError: CUDA error"}
    assert holds(written, "a.absent") and not holds(written, "a.other")


def test_the_limits_of_the_parts_fit_into_nine_minutes() -> None:
    """With what check.sh leaves for the assertions, and a quarter of a minute to install wheels."""
    assert sum(check.LIMITS.values()) + check.LAST + 15 <= 540
    assert set(check.EXPECTED) == set(check.LIMITS)


def test_a_card_is_asked_for_its_name_and_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ncase $1 in *clocks.sm*) echo 1980, 3201, 41, 100, 612.5 ;; *) echo NVIDIA H200, 580 ;; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert card.is_there()
    described = card.describe("cuda")
    assert (described["kind"], described["name"]) == ("cuda", "NVIDIA H200")
    monkeypatch.setattr(card, "EVERY", 0.01)
    with card.watched("cuda") as seen:
        time.sleep(1.0)
    assert seen["clocks"]["clocks.sm"] == [1980.0] * 3 and seen["power"] == {"power.draw": [612.5] * 3}
    with card.watched("cpu") as seen:
        pass
    assert seen == {"clocks": None, "power": None}


def test_readings_of_a_card_become_spans() -> None:
    lines = "1980, 3201, 41, 100, 612.50\n345, 3201, 35, 0, [N/A]\n1755, 3201, 44, 97, 690.00\n"
    found = card.summary(lines)
    assert found["clocks"]["clocks.sm"] == [345.0, 1755.0, 1980.0]
    assert found["power"] == {"power.draw": [612.5, 651.25, 690.0]}
    assert card.summary("")["power"] == {"power.draw": None}
