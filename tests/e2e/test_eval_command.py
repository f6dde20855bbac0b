"""The main job as people run it: one command in an empty folder, in one process or several, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import BLOCK, GENERATED, write_tiny_suite

from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult

pytestmark = pytest.mark.timeout(900)  # each starts several processes, which a busy machine makes wait
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_suite(tmp_path_factory.mktemp("family"))


def arguments(catalog: Path, *more: str) -> list[str]:
    return ["-m", "sbv2bench", "eval", "--model", "teacher", "--suite", "tiny", "--catalog", str(catalog), *more]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """A run in an empty folder with an empty cache; Ctrl-C reaches it though the tests be a shell's background job."""
    environment = {**os.environ, "SBV2BENCH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads are running here
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def run(command: list[str], folder: Path) -> tuple[EvalResult, str]:
    """The stored result of a run that must succeed, and what it said."""
    before = set(store.find(folder / "results")) if (folder / "results").exists() else set()
    code, out, err = finish(start(command, folder))
    assert code == 0, err
    (path,) = set(store.find(folder / "results")) - before
    result = store.load(path)
    if "--json" in command:
        assert EvalResult.model_validate(json.loads(out)) == result
    return result, err


def block_of(result: EvalResult) -> dict[str, Any]:
    return {key: value.model_dump(exclude={"prompt_values"}) for key, value in result.metrics.items()}


@pytest.fixture(scope="module")
def alone(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> EvalResult:
    """The result of one uninterrupted process."""
    folder = tmp_path_factory.mktemp("alone")
    first, said = run(arguments(catalog, "--json", "--save-images", "sample"), folder)
    assert "suite tiny@v1" in said.splitlines()[0]
    assert "FID-mini" in said
    (images,) = (folder / "results").rglob("*-images")
    assert len(list(images.glob("*.png"))) == GENERATED  # the suite has fewer than a sample's 32
    second, said = run(arguments(catalog, "--json"), folder)
    assert second.provenance["cache"]["generated"] == "hit"
    assert "cache" in said
    assert block_of(second) == block_of(first)
    return first


@pytest.mark.ci
def test_one_process(alone: EvalResult) -> None:
    assert alone.status == "complete"
    assert alone.provenance["world_size"] == 1
    assert alone.metrics["fid"].n_generated == GENERATED


@pytest.mark.ci
def test_two_processes_give_the_same_bits(catalog: Path, tmp_path: Path, alone: EvalResult) -> None:
    """Without a cache to share: what rank 1 measured is sent to rank 0. (Three processes: below, going on from one.)"""
    result, said = run([*TORCHRUN, "2", *arguments(catalog, "--json", "--no-cache")], tmp_path)
    assert result.provenance["world_size"] == 2
    assert block_of(result) == block_of(alone)
    assert said.count("suite tiny@v1") == 1  # one process speaks
    assert not (tmp_path / "home" / "features").exists()


STEPS = 60  # slow enough to be stopped in the middle
SLOW = ("--steps", str(STEPS))


def started_blocks(folder: Path) -> int:
    """Blocks that were measured by all four extractors."""
    kept = [{file.parent.name for file in key.glob("*/manifest.json")} for key in (folder / "home/features").glob("*.blocks")]
    return len(set.intersection(*kept)) if len(kept) == 4 else 0


def stop_when_begun(process: subprocess.Popen[str], folder: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Signal a run as soon as its first block is kept."""
    limit = time.monotonic() + 600
    while started_blocks(folder) == 0 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(how)
    return finish(process)


@pytest.mark.ci
def test_interrupted_and_resumed_by_other_processes(catalog: Path, tmp_path: Path) -> None:
    """Ctrl-C in one process; the same command under torchrun goes on, with the bits of a run that nobody stopped."""
    command = arguments(catalog, *SLOW)
    code, out, err = stop_when_begun(start(command, tmp_path), tmp_path, signal.SIGINT)
    assert code == 130, err
    assert "Traceback" not in err
    kept = started_blocks(tmp_path)
    assert 1 <= kept < 5
    last = [line for line in err.splitlines() if line.strip()][-2:]
    assert last[0].startswith("error: interrupted: ")
    assert f"of {GENERATED} images are kept" in last[0]
    assert "same command again" in last[1]
    assert out == ""
    assert not (tmp_path / "results").exists()
    resumed, _ = run([*TORCHRUN, "2", *command], tmp_path)
    assert resumed.provenance["world_size"] == 2
    assert 0 < resumed.resumed_images <= kept * BLOCK
    assert resumed.provenance["cache"]["generated"] == "resumed"
    fresh = evaluate("teacher", "tiny", catalog=catalog, steps=STEPS, use_cache=False)
    assert fresh.resumed_images == 0
    assert block_of(resumed) == block_of(fresh)


@pytest.mark.ci
def test_killed_and_resumed(catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time to say goodbye: what was finished is kept all the same."""
    command = arguments(catalog, *SLOW)
    code, *_ = stop_when_begun(start(command, tmp_path), tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = started_blocks(tmp_path)
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "home"))
    resumed = evaluate("teacher", "tiny", catalog=catalog, steps=STEPS)
    assert 0 < resumed.resumed_images <= kept * BLOCK
    assert not list((tmp_path / "home" / "features").glob("*.blocks"))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--model", "techer"), 2, "teacher"),
        (("--metrics", "fod"), 2, "fid"),
        (("--limit", "0"), 2, "--limit"),
        (("--results", "/proc/nowhere"), 2, "--results"),
        (("--device", "cuda:9"), 3, "--device"),
    ],
)
def test_bad_input_is_three_lines_and_no_traceback(
    catalog: Path, tmp_path: Path, change: tuple[str, ...], code: int, words: str
) -> None:
    command = ["-m", "sbv2bench", "eval", "--suite", "tiny", "--catalog", str(catalog), *change]
    if "--model" not in change:
        command += ["--model", "teacher"]
    found, out, err = finish(start(command, tmp_path))
    errors = err[err.index("error:") :].splitlines()
    assert found == code
    assert out == ""
    assert "Traceback" not in err
    assert len(errors) <= 3
    assert words in " ".join(errors)
    assert not (tmp_path / "results").exists()
