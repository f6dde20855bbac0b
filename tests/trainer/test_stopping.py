"""Ctrl-C and SIGTERM on real processes: a checkpoint of the step, the right exit code, and words that are true."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_recipe import tiny_recipe

from reference_trainer.training.checkpoint import checkpoints

TRAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from reference_trainer.__main__ import app; app()"
)


def start(family: Path, folder: Path, **changes: object) -> subprocess.Popen[str]:
    recipe = tiny_recipe(family, **{"steps": 400, "log_every": 1, "checkpoint_every": 1000, "sample_every": 1000} | changes)
    (folder / "recipe.yaml").write_text(recipe.model_dump_json())
    command = [sys.executable, "-c", TRAIN, "train", str(folder / "recipe.yaml"), "--device", "cpu"]
    environment = os.environ | {"SBV2BENCH_CATALOG": str(family / "catalog.yaml")}
    return subprocess.Popen([*command, "--output", str(folder / "run")], stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(words, line):
            return
    raise AssertionError(f"no line with {words!r}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.ci
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    family: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(family, tmp_path)
    wait_for_line(process, r"local/tiny [3-9]/400")
    process.send_signal(number)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == code, rest
    (kept,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert (
        f"stopped after step {int(kept.name)}, whose checkpoint is written" in rest and "fix: run the same command again" in rest
    )
    assert "Traceback" not in rest
    assert int(kept.name) >= 3 and all(bool(v.isfinite().all()) for v in load_file(kept / "student.safetensors").values())


@pytest.mark.ci
def test_a_run_stopped_in_its_warm_up_goes_on_there(family: Path, tmp_path: Path) -> None:
    teacher = {"lora": {"rank": 2, "alpha": 2, "targets": ["to_q"]}, "learning_rate": 1e-2, "warmup_steps": 400}
    process = start(family, tmp_path, lora_teacher=teacher)
    wait_for_line(process, r"warm-up [3-9]/400")
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "stopped after warm-up step" in rest
    (kept,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert re.fullmatch(r"00000000-warm-up-0000\d\d", kept.name)


@pytest.mark.ci
def test_before_the_first_step_nothing_is_claimed(family: Path, tmp_path: Path) -> None:
    process = start(family, tmp_path, regularisation={
        "kind": "paired", "weight": 0.25, "batch_size": 2, "distance": "latents", "pairs": 200_000, "teacher_steps": 2,
    })  # fmt: skip
    deadline = time.monotonic() + 120
    pairs = Path(os.environ["SBV2BENCH_HOME"]) / "pairs" if "SBV2BENCH_HOME" in os.environ else None
    while not (tmp_path / "run").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "no checkpoint was written yet" in rest and "Traceback" not in rest
    assert checkpoints(tmp_path / "run" / "checkpoints") == [] and (pairs is None or not list(pairs.rglob("*.part")))


@pytest.mark.ci
def test_two_processes_stop_at_the_same_step(family: Path, tmp_path: Path) -> None:
    """The launcher passes SIGTERM on; both ranks agree on the step, rank 0 writes, and the run resumes."""
    recipe = tiny_recipe(family, steps=4000, log_every=1, checkpoint_every=10_000, sample_every=10_000)
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "reference_trainer", "train"]
    command += [str(tmp_path / "recipe.yaml"), "--device", "cpu", "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_line(process, r"local/tiny [3-9]/4000")
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[1]
    (kept,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert f"stopped after step {int(kept.name)}" in rest
    assert all(bool(value.isfinite().all()) for value in load_file(kept / "student.safetensors").values())


STAGE = """
from functools import partial; from pathlib import Path; import sys
from quick_stage import QuickExtractor
from reference_trainer.base_models.extractor import ExtractorConfig
from reference_trainer.base_models.stage import train
from sbv2bench.errors import TerminatedRun
if __name__ == "__main__":
    settings = {"stage": "extractor", "seed": 3, "steps": 9000, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1}
    try:
        train(partial(QuickExtractor, ExtractorConfig.model_validate(settings), {}), Path(sys.argv[1]), int(sys.argv[2]))
    except TerminatedRun as error:
        sys.exit(f"143 {error.message}")
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.ci
def test_a_base_models_stage_stops_after_its_step_with_a_checkpoint(tmp_path: Path, processes: int) -> None:
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(program), str(run), str(processes)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    wait_for_line(process, r"extractor [3-9]/9000")
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[1]
    (kept,) = checkpoints(run / "checkpoints")
    assert "143 " in rest and "checkpoint is written" in rest and "Traceback" not in rest, rest
    assert int(kept.name) >= 3 and {"network.safetensors", "buffers.safetensors"} <= {path.name for path in kept.iterdir()}


@pytest.mark.ci
def test_a_dry_run_that_is_stopped_leaves_nothing(family: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(tiny_recipe(family).model_dump_json())
    program = "import reference_trainer.dry_run as d; from reference_trainer import pictures\n"
    program += "d.write_samples = lambda *a: (print('drawing', flush=True), __import__('time').sleep(60))\n"
    program += "from reference_trainer.__main__ import app; app()"
    command = [sys.executable, "-c", program, "train", str(tmp_path / "recipe.yaml"), "--device", "cpu", "--dry-run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "--output", str(tmp_path / "run")], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "drawing\n"
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "dry-run: stopped, nothing is left of it" in told, told
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
