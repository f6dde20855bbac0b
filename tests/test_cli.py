"""The command line as a user meets it: what goes where, exit codes, and errors of at most three lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sample_results import sample_result, write_package_weights, write_safetensors

from sbv2bench import __version__, paths
from sbv2bench.cli import app
from sbv2bench.errors import InterruptedRun
from sbv2bench.results import store

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "diffusers", "transformers", "open_clip", "pandas")


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The error's lines, after whatever was said before."""
        return self.err[self.err.index("error: ") :]


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
    from sbv2bench.runs import evaluate

    plans: list[Any] = []

    def evaluate_and_store(plan: Any, registry: Any, progress: Any) -> Any:
        plans.append(plan)
        print("a library's chatter")
        progress("generate", 5, 5)
        result = sample_result(suite=plan.suite.id, status="partial" if plan.partial else "complete")
        return result, store.write(result, plan.options.results)

    monkeypatch.setattr(evaluate, "evaluate_and_store", evaluate_and_store)
    return plans


def refused(done: Done, code: int, *says: str) -> None:
    """An error of the right exit code that says all of this in at most three lines, with nothing on stdout."""
    assert done.code == code
    assert done.out == ""
    assert len(done.error().splitlines()) <= 3
    assert "Traceback" not in done.err
    for words in says:
        assert words in done.error()


def test_a_run_states_its_suite_first_and_then_all_that_its_reader_needs(run: Callable[..., Done], evaluated: list[Any]) -> None:
    done = run("eval", "--model", "sd21")
    assert done.code == 0
    assert done.out == ""
    assert done.err.startswith("suite mini@v1: 1,000 images")
    (path,) = store.find(Path("results"))
    for words in ("FID-mini ↓", "12.346", "95 % [11.846, 12.846]", "CLIP-mini ↑", "± 0.0012", "over prompts", "5,000 / 5,000",
                  "world-128", "generate 1.5", "cache: not used", str(path), f"sbv2bench leaderboard --add {path}"):  # fmt: skip
        assert words in done.err


def test_json_is_one_document_and_nothing_else(run: Callable[..., Done], evaluated: list[Any]) -> None:
    one = run("eval", "--model", "sd21", "--json")
    assert json.loads(one.out) == json.loads(store.dumps(sample_result(suite="mini")))
    assert "a library's chatter" in one.err
    two = json.loads(run("eval", "--model", "sd21", "--model", "mini/sd21", "--json").out)
    assert [result["model"]["id"] for result in two["results"]] == ["mini/sd21", "mini/sd21"]
    assert len(evaluated) == 3


def test_a_dry_run_plans_for_real_and_writes_nothing(run: Callable[..., Done], evaluated: list[Any]) -> None:
    done = run("eval", "--model", "sd21", "--dry-run", "--seed", "3", "--repeats", "2", "--json")
    plan = json.loads(done.out)
    assert done.code == 0
    assert plan["model"] == "mini/sd21"
    assert plan["seeds"] == [3, 4]
    assert evaluated == []
    assert not Path("results").exists()
    assert "plan for mini/sd21" in run("eval", "--model", "sd21", "--dry-run").err


def test_options_reach_the_plan(run: Callable[..., Done], evaluated: list[Any]) -> None:
    words = "--metrics pr,fid --limit 100 --seed 7 --steps 4 --guidance-scale 3 --device cpu --dtype float16 --batch-size 25"
    assert run("eval", "--model", "sd21", "--suite", "mini-5k", *words.split(), "--no-cache", "--results", "out").code == 0
    (plan,) = evaluated
    assert [metric.id for metric in plan.metrics] == ["pr", "fid"]
    assert (plan.suite.id, len(plan.prompts), plan.partial, plan.seeds) == ("mini-5k", 100, True, (7,))
    assert (plan.model.steps, plan.model.guidance_scale, plan.device, plan.dtype, plan.block_size) == (
        4,
        3.0,
        "cpu",
        "float16",
        25,
    )
    assert plan.options.use_cache is False
    assert len(store.find(Path("out"))) == 1


def test_a_partial_result_is_not_offered_to_a_leaderboard(run: Callable[..., Done], evaluated: list[Any]) -> None:
    assert "leaderboard --add" in run("eval", "--model", "sd21").err
    done = run("eval", "--model", "sd21", "--limit", "100")
    assert "leaderboard --add" not in done.err
    assert "partial" in done.err


def test_the_variable_changes_the_default_suite(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBV2BENCH_SUITE", "mini-5k")
    assert run("eval", "--model", "sd21").err.startswith("suite mini-5k@v1: 5,000 images")
    assert run("eval", "--model", "sd21", "--suite", "mini").err.startswith("suite mini@v1: 1,000 images")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--model sd12", 2, ["unknown model 'sd12'", "did you mean 'sd21'", "fix: sbv2bench list models"]),
        ("--model sd21 --model sd12", 2, ["unknown model 'sd12'"]),
        ("--model full/sd21", 2, ["of family full", "fix: --model mini/sd21"]),
        ("--model sd21 --suite mini5k", 2, ["unknown suite", "mini-5k"]),
        ("--model sd21 --metrics fid,clpi", 2, ["unknown metric 'clpi'", "did you mean 'clip'"]),
        ("--model sd21 --metrics ,", 2, ["--metrics"]),
        ("--model sd21 --device gpu", 2, ["--device: found 'gpu', expected", "fix: --device cuda"]),
        ("--model sd21 --dtype fp16", 2, ["--dtype: found 'fp16', expected", "fix: --dtype float16"]),
        ("--model sd21 --limit 1", 2, ["--limit: found 1, expected"]),
        ("--model sd21 --limit 1001", 2, ["--limit"]),
        ("--model sd21 --limit many", 2, ["--limit"]),
        ("--model sd21 --seed -1", 2, ["--seed: found -1, expected"]),
        ("--model sd21 --seed 9223372036854775808", 2, ["--seed"]),
        ("--model sd21 --repeats 0", 2, ["--repeats: found 0, expected"]),
        ("--model sd21 --steps 0", 2, ["--steps: found 0, expected"]),
        ("--model sd21 --steps 1001", 2, ["--steps: found 1001, expected"]),
        ("--model sd21 --guidance-scale -1", 2, ["--guidance-scale: found -1.0, expected"]),
        ("--model sd21 --guidance-scale nan", 2, ["--guidance-scale: found nan, expected"]),
        ("--model sd21 --guidance-scale 101", 2, ["--guidance-scale: found 101.0, expected"]),
        ("--model sd21 --batch-size 0", 2, ["--batch-size: found '0', expected"]),
        ("--model sd21 --batch-size big", 2, ["--batch-size: found 'big', expected"]),
        ("--model sd21 --save-images some", 2, ["--save-images: found 'some', expected"]),
        ("--model sd21 --catalog none.yaml", 2, ["--catalog: none.yaml does not exist"]),
        ("--model sd21 --results a-file/results", 2, ["--results", "cannot be written"]),
        ("--model ./no-folder", 2, ["does not exist"]),
        ("--model ./empty", 2, ["neither a model nor images"]),
        ("--model ./pickled", 4, ["pickled", "SBV2BENCH_ALLOW_PICKLE=1"]),
        ("--model ./cut", 4, ["the file was cut"]),
        ("--model ./lacking", 3, ["no weights found"]),
        ("--model somebody/some-model", 3, ["not on this machine (offline)", "hf download somebody/some-model"]),
        ("", 2, ["Missing option '--model'", "fix: sbv2bench eval --help"]),
        ("--model sd21 --modle x", 2, ["No such option", "--modle"]),
        ("--model sd21 extra", 2, ["extra"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(
    run: Callable[..., Done], evaluated: list[Any], words: str, code: int, says: list[str]
) -> None:
    Path("a-file").write_text("")
    Path("empty").mkdir()
    for name in ("pickled", "cut", "lacking", "whole"):
        Path(name).mkdir()
        Path(name, "model_index.json").write_text('{"_class_name": "P", "unet": ["diffusers", "U"]}')
        weights = write_safetensors(Path(name, "unet", "model.safetensors"))
        weights.with_name("config.json").write_text("{}")
    Path("pickled/unet/model.safetensors").rename("pickled/unet/model.bin")
    Path("cut/unet/model.safetensors").write_bytes(Path("cut/unet/model.safetensors").read_bytes()[:-3])
    Path("lacking/unet/model.safetensors").unlink()
    before = sorted(Path().rglob("*"))
    refused(run("eval", *words.split()), code, *says)
    assert evaluated == []
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "--model mini/sd21 --metrics fid,clip --device cpu --dtype float32 --limit 2 --batch-size auto",
        "--model sd21 --seed 9223372036854775806 --repeats 2 --steps 1 --guidance-scale 0 --save-images sample --results a/b",
        "--model sd21 --steps 1000 --guidance-scale 100 --batch-size 10000 --limit 1000 --suite mini-choosing",
        "--model ./whole",
    ],
)
def test_the_good_twins_run(run: Callable[..., Done], evaluated: list[Any], words: str) -> None:
    Path("whole").mkdir()
    Path("whole/model_index.json").write_text('{"_class_name": "P", "unet": ["diffusers", "U"]}')
    write_safetensors(Path("whole/unet/model.safetensors")).with_name("config.json").write_text("{}")
    done = run("eval", *words.split())
    assert (done.code, done.out) == (0, "")
    assert len(evaluated) == 1


def test_shipped_weights_that_were_changed_exit_4(run: Callable[..., Done], evaluated: list[Any], shipped: Path) -> None:
    assert run("eval", "--model", "sd21").code == 0
    write_safetensors(shipped / "sd21" / "model.safetensors", b"changed....!")
    refused(run("eval", "--model", "sd21"), 4, "sd21/model.safetensors", "sha256", "fix: ")
    assert len(evaluated) == 1


def test_weights_that_are_not_shipped_exit_3(run: Callable[..., Done], evaluated: list[Any], shipped: Path) -> None:
    (shipped / "clip").rename(shipped / "away")
    refused(run("eval", "--model", "sd21"), 3, "package:mini/clip")


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRun("interrupted: 50 of 1000 images are kept", "run it again"), "50 of 1000"),
    ],
)
def test_ctrl_c_exits_130(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch, stop: BaseException, says: str
) -> None:
    from sbv2bench.runs import evaluate

    def stopped(*_: Any) -> None:
        raise stop

    monkeypatch.setattr(evaluate, "evaluate_and_store", stopped)
    refused(run("eval", "--model", "sd21"), 130, says)


def test_other_processes_of_a_torchrun_are_silent(
    run: Callable[..., Done], evaluated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    done = run("eval", "--model", "sd21", "--json")
    assert (done.code, done.out) == (0, "")
    assert "suite" not in done.err
    monkeypatch.setenv("RANK", "0")
    assert json.loads(run("eval", "--model", "sd21", "--json").out)["status"] == "complete"


def test_a_users_suite_is_evaluated(run: Callable[..., Done], evaluated: list[Any]) -> None:
    Path("mine.yaml").write_text("suites: {mine: {extends: mini, world_seed: 7, num_generated: 300, num_reference: 400}}")
    refused(run("eval", "--model", "sd21", "--suite", "mine"), 2, "unknown suite 'mine'")
    done = run("eval", "--model", "sd21", "--suite", "mine", "--catalog", "mine.yaml")
    assert done.err.startswith("suite mine@v1: 300 images, 400 in the reference")
    assert evaluated[0].suite.prompts.world_seed == 7


def test_list(run: Callable[..., Done]) -> None:
    for what, first in (("models", "mini/sd21"), ("suites", "mini"), ("metrics", "fid")):
        rows = json.loads(run("list", what, "--json").out)
        assert rows[0]["id"] == first
        assert set(rows[0]) == {"id", "family", "kind", "origin", "licence", "verified"}
        shown = run("list", what)
        assert (shown.code, shown.out) == (0, "")
        assert all(row["id"] in shown.err for row in rows)
    assert json.loads(run("list", "plugins", "--json").out) == []
    refused(run("list", "modles"), 2, "modles", "fix: sbv2bench list models")


def test_show(run: Callable[..., Done]) -> None:
    assert json.loads(run("show", "sd21", "--json").out)["id"] == "mini/sd21"
    assert json.loads(run("show", "mini", "--json").out)["num_generated"] == 1000
    assert json.loads(run("show", "pr", "--json").out)["keys"] == ["precision", "recall", "density", "coverage"]
    assert "num_reference: 5000" in run("show", "mini-5k").out
    refused(run("show", "mini-6k"), 2, "did you mean 'mini-5k'")


def test_doctor_exits_3_exactly_if_the_default_suite_cannot_run(run: Callable[..., Done], shipped: Path) -> None:
    good = run("doctor", "--json")
    report = json.loads(good.out)
    assert (good.code, report["ok"]) == (0, True)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert {statuses[name] for name in ("python", "torch", "device", "home folder", "package weights", "suite mini")} == {"ok"}
    write_safetensors(shipped / "hps" / "model.safetensors", b"changed...!!")
    bad = run("doctor", "--json")
    report = json.loads(bad.out)
    assert (bad.code, report["ok"]) == (3, False)
    broken = next(check for check in report["checks"] if check["name"] == "package weights")
    assert broken["status"] == "broken"
    assert broken["fix"]
    refused(run("doctor"), 3, "suite mini cannot run here")


def test_doctor_says_what_versions_trap(run: Callable[..., Done], shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench import doctor

    versions = {"scipy": "1.11.4", "torch": None}
    monkeypatch.setattr(doctor, "library_version", lambda name: versions.get(name, "2.0"))
    done = run("doctor", "--json")
    checks = {(check["name"], check["status"]): check for check in json.loads(done.out)["checks"]}
    assert "sqrtm" in checks["scipy", "note"]["found"]
    assert checks["torch", "missing"]["fix"] == "pip install torch"
    assert done.code == 3
    versions |= {"scipy": "1.17.1", "torch": "2.15.0+cpu"}
    done = run("doctor", "--json")
    assert done.code == 0
    assert "scipy" not in {check["name"] for check in json.loads(done.out)["checks"] if check["status"] == "note"}
    versions["scipy"] = "1.18.0rc1"
    notes = [check["found"] for check in json.loads(run("doctor", "--json").out)["checks"] if check["name"] == "scipy"]
    assert any("clean-fid" in note for note in notes)


def test_leaderboard(run: Callable[..., Done]) -> None:
    refused(run("leaderboard"), 3, "no result files", "--add")
    paths_ = [str(store.write(sample_result(fid=fid, guidance=fid), Path("results"))) for fid in (4.0, 3.0)]
    partial = str(store.write(sample_result(status="partial"), Path("results")))
    refused(run("leaderboard", "--add", partial), 2, "partial")
    refused(run("leaderboard", "--add", "none.json"), 2, "none.json")
    refused(run("leaderboard", *paths_), 2, "--add")
    assert not Path("leaderboards").exists()
    done = run("leaderboard", "--add", *paths_)
    assert (done.code, done.out) == (0, "")
    assert "FID-mini" in done.err
    assert run("leaderboard", "--check").code == 0
    table = Path("leaderboards/mini-5k.csv")
    table.write_text(table.read_text().replace("3.0", "2.0"))
    refused(run("leaderboard", "--check"), 4, "mini-5k.csv", "fix: sbv2bench leaderboard")
    assert run("leaderboard").code == 0
    assert run("leaderboard", "--check").code == 0
    refused(run("leaderboard", "--check", "--add", paths_[0]), 2, "--check")


def test_cache(run: Callable[..., Done], own_home: Path) -> None:
    from sbv2bench.features.cache import FeatureCache

    assert run("cache", "path").out.strip() == str(own_home)
    cache = FeatureCache(own_home / "features")
    import numpy as np

    cache.put("a" * 64, {"features": np.zeros((2, 3), dtype=np.float32)}, {})
    assert run("cache", "verify").code == 0
    parts = json.loads(run("cache", "info", "--json").out)["parts"]
    assert next(part for part in parts if part["part"] == "features")["bytes"] > 24
    arrays = own_home / "features" / ("a" * 64) / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\1")
    refused(run("cache", "verify"), 4, "1 of 1", "fix: sbv2bench cache prune")
    assert run("cache", "prune").code == 0
    assert run("cache", "verify").code == 0
    assert not arrays.exists()


def test_usage_errors_are_short(run: Callable[..., Done]) -> None:
    refused(run("evl"), 2, "evl", "eval")
    refused(run("--foo"), 2, "--foo")
    refused(run("cache", "prnue"), 2, "prnue")
    assert run("--version").out == f"sbv2bench {__version__}\n"


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
