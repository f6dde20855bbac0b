"""The command as a process of its own: what it imports, how it ends, what a shell completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "diffusers", "transformers", "open_clip", "pandas")


def python(code: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the package on its path, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(["-c", code] if code else ["-m", "sbv2bench"]), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_python_m_is_the_same_command(tmp_path: Path) -> None:
    done = python("", tmp_path, "list", "models", "--json")
    assert done.returncode == 0
    assert "mini/sd21" in [row["id"] for row in json.loads(done.stdout)]
    wrong = python("", tmp_path, "eval", "--model", "sd12")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines()[0].startswith("suite mini@v1")
    assert wrong.stderr.splitlines()[1].startswith("error: unknown model 'sd12'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    ["--help", "eval --help", "--version", "list models", "list suites --json", "list metrics", "list plugins", "show mini"],
)
def test_help_and_lists_import_nothing_heavy(tmp_path: Path, words: str) -> None:
    code = (
        "import sys\nfrom sbv2bench.cli import main\ntry: main()\nexcept SystemExit as stop: code = stop.code\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    done = python(code, tmp_path, *words.split())
    assert done.stdout.splitlines()[-1] == "LOADED [] 0"


def test_a_bug_exits_1_with_its_traceback(tmp_path: Path) -> None:
    done = python("import sbv2bench.paths as p, sbv2bench.cli as c\np.home = lambda: 1 / 0\nc.main()", tmp_path, "cache", "path")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_shells_complete_ids_from_the_registry(tmp_path: Path) -> None:
    (tmp_path / "sbv2bench.yaml").write_text("models: {own-model: {sampler: pipeline}}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_SBV2BENCH_COMPLETE": "complete_bash"}
    for typed, found in (("eval --model ", "own-model"), ("eval --model mini/", "mini/sd21"), ("eval --suite mini-", "mini-5k")):
        words = f"sbv2bench {typed}"
        completing = environment | {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        command = [sys.executable, "-m", "sbv2bench"]
        done = subprocess.run(command, cwd=tmp_path, env=completing, capture_output=True, text=True, timeout=60, check=False)
        assert found in done.stdout.split()
