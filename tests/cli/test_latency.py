"""`latency` as a user meets it: a whole run on a tiny model, one JSON document, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands_in_process import Done, refused
from sample_latency import sample_latency
from tiny_models import write_tiny_pipeline

from sbv2bench.latency import plan as latency_plan
from sbv2bench.results import store
from sbv2bench.results.records import LatencyProtocol, LatencyResult


@pytest.fixture
def catalog(tmp_path: Path, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny student in a catalog, and a protocol that takes no time."""
    write_tiny_pipeline(tmp_path / "model")
    models = {"student": {"sampler": "one_step", "location": "model", "steps": 1}}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"models": models}))
    quick = LatencyProtocol(id="paper", warm_up=1, runs=2, repeats=2, statistic="mean")
    monkeypatch.setitem(latency_plan.PROTOCOLS, "paper", quick)
    return "catalog.yaml"


@pytest.mark.ci
def test_a_run_from_end_to_end(run: Callable[..., Done], catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbv2bench.latency.measure.waiting", lambda: lambda: 0.0)  # whatever else this machine does
    done = run("latency", "--model", "student", "--protocol", "paper", "--device", "cpu", "--catalog", catalog, "--json")
    assert done.code == 0, done.err
    result = LatencyResult.model_validate(json.loads(done.out))
    (path,) = store.find_latency(Path("results"))
    assert store.load_latency(path) == result
    assert path.parent == Path("results/local/student/latency-paper")
    lines = done.err.splitlines()
    assert lines[0].startswith("loading ") and lines[1].startswith(
        "latency protocol paper@v1: 1 warm-ups, 2 runs, 2 repeats, mean of each"
    )
    assert any(line.startswith("note: protocol paper is float16 on a GPU; this is float32 on the CPU") for line in lines)
    assert "local/student" in done.err and f"result: {path}" in done.err
    assert run("leaderboard", "--add", str(path)).code == 0
    assert run("leaderboard", "--check").code == 0
    assert "local/student" in Path("leaderboards/latency.md").read_text()


def test_several_rows_are_one_document(run: Callable[..., Done], shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sbv2bench.latency.measure as work

    plans: list[Any] = []

    def measure_and_store(plan: Any, registry: Any, progress: Any) -> Any:
        plans.append(plan)
        print("a library's chatter")
        progress("time (repeats)", 1, 1)
        made = (sample_latency(batch_sizes=(1, 8)), sample_latency(model="mini/sd21", compiled=("denoiser",)))
        return [(result, store.write(result, plan.options.results)) for result in made]

    monkeypatch.setattr(work, "measure_and_store", measure_and_store)
    words = "latency --model sd-turbo --model sd21 --batch-size 1 --batch-size 8 --compile --device cpu --results r --json"
    done = run(*words.split())
    assert done.code == 0, done.err
    documents = json.loads(done.out)["results"]
    assert [document["model"]["id"] for document in documents] == ["mini/sd-turbo", "mini/sd21"]
    (plan,) = plans
    assert (plan.options.batch_sizes, plan.options.compiled, plan.options.results) == ((1, 8), True, Path("r"))
    assert "ceiling in this run: matrix product 40.0, convolution 50.0 GFLOP/s" in done.err
    assert "cold start of mini/sd-turbo (AutoencoderKL): load 1.50 s, first run 0.250 s" in done.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--model sd-turbo --protocol papr", 2, ["--protocol", "'papr'", "fix: --protocol paper"]),
        ("--model sd-turbo --batch-size 0", 2, ["--batch-size: found 0"]),
        ("--model sd-turbo --batch-size many", 2, ["--batch-size"]),
        ("--model full/gigagan", 3, ["only published numbers", "fix: sbv2bench show full/gigagan"]),
        ("--model real", 2, ["nothing to time"]),
        ("--model sd12", 2, ["unknown model 'sd12'"]),
        ("", 2, ["--model"]),
    ],
)
def test_errors_are_short_and_nothing_is_written(
    run: Callable[..., Done], shipped: Path, words: str, code: int, says: list[str]
) -> None:
    refused(run("latency", *words.split()), code, *says)
    assert not Path("results").exists()


def test_a_group_names_the_latency_that_completes_its_row(run: Callable[..., Done], evaluated: list[Any], tmp_path: Path) -> None:
    (tmp_path / "sbv2bench.yaml").write_text("groups: {mine: {family: mini, suites: [mini], latency: paper}}")
    command = "sbv2bench latency --protocol paper --model sd21"
    planned = run("eval", "--model", "sd21", "--suite", "mine", "--dry-run", "--json")
    assert json.loads(planned.out)["besides"] == command
    assert f"measured separately: {command}" in run("eval", "--model", "sd21", "--suite", "mine").err
    assert "besides" not in json.loads(run("eval", "--model", "sd21", "--suite", "mini", "--dry-run", "--json").out)
    assert json.loads(run("show", "paper", "--json").out)["latency"] == "paper"
