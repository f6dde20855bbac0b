"""Caches that are somebody else's, read-only, shared, damaged by a bit, or written while the clock jumped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from running import block_of, cache_of, run
from tiny_recipe import CAPTIONS

from reference_trainer.config import Prompts
from reference_trainer.latent_shards import all_latents
from reference_trainer.prompts import PromptSource
from sbv2bench import paths
from sbv2bench.data import digests, remarks
from sbv2bench.errors import SBV2BenchError
from sbv2bench.evaluation.evaluate import evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.machine.doctor import verify_cache
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.results import store

AsSomebodyElse = Callable[[], AbstractContextManager[None]]
ROOT = Path(__file__).parents[2]


def flipped(path: Path, place: int) -> bytes:
    """Flip one bit of a file; returns what it was."""
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[place % len(spoilt)] ^= 1 << (place % 8)
    path.write_bytes(bytes(spoilt))
    return content


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def reachable(*folders: Path) -> None:
    """Let everybody come to folders that pytest makes for their owner alone, and read the models in them."""
    for path in folders[-1].rglob("*.safetensors"):
        path.chmod(0o644)
    for folder in folders:
        for place in (folder, *folder.parents):
            if os.geteuid() == 0 and place.stat().st_uid == 0 and not place.stat().st_mode & 0o001:
                place.chmod(place.stat().st_mode | 0o055)


@pytest.mark.ci
def test_one_bit_flipped_in_each_file_of_the_cache_changes_no_number(registry: Registry, own_home: Path) -> None:
    """An entry that is not what was written is told and made again; a remembered hash is computed again."""
    first = run(registry, "student")
    time.sleep(2.1)  # hashes of younger files are not remembered
    assert block_of(run(registry, "student")) == block_of(first)
    files = sorted(files_of(own_home))
    assert {path.name for path in files if path.parent.name != "hashes"} == {"arrays.safetensors", "manifest.json"}
    assert sum(path.parent.name == "hashes" for path in files) > 5
    random = np.random.default_rng(0)
    for path in files:
        before = flipped(path, int(random.integers(0, 10**6)))
        broken = verify_cache()[1]
        again = run(registry, "student")
        assert block_of(again) == block_of(first), path
        assert again.model == first.model and again.suite.reference == first.suite.reference, path
        if path.parent.name != "hashes":
            assert broken == [path.with_name("manifest.json")]
            assert any("is broken and was ignored" in note for note in again.provenance["cache"]["notes"]), path
            assert path.is_file() and not verify_cache()[1]
        path.write_bytes(before)


def test_one_bit_flipped_in_what_the_trainer_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made() -> torch.Tensor:
        def make(numbers: Sequence[int]) -> torch.Tensor:
            return torch.tensor(numbers).float().view(-1, 1, 1, 1).expand(-1, 2, 2, 2)

        return all_latents(tmp_path / "pairs", 300, (2, 2, 2), make, at_once=100, progress=lambda done, count: None)

    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    source = Prompts(source=str(tmp_path / "captions.txt"))
    expected, captions = made(), PromptSource([source])[range(len(CAPTIONS))]
    shards = sorted((tmp_path / "pairs").glob("*.safetensors"))
    tables = sorted((paths.home() / "prompts").glob("*"))
    assert len(shards) == 2 and sorted(path.suffix for path in tables) == [".arrow", ".json"]
    random = np.random.default_rng(1)
    for path in [*shards, *tables] * 4:
        flipped(path, int(random.integers(0, 10**6)))
        remarks.said.clear()
        assert torch.equal(made(), expected), path
        assert PromptSource([source])[range(len(CAPTIONS))] == captions, path
    flipped(shards[0], -10)
    flipped(next(path for path in tables if path.suffix == ".arrow"), 600)
    remarks.said.clear()
    capsys.readouterr()
    made()
    PromptSource([source])
    said = capsys.readouterr().err
    assert "is damaged, and made again" in said and "damaged, and written again" in said


def test_folders_of_somebody_else_are_left_as_they_are(
    registry: Registry, catalog: Path, own_home: Path, tmp_path: Path, as_somebody_else: AsSomebodyElse
) -> None:
    """A cache that may be read and not written, results that may not be: refused in words before anything is computed."""
    first = run(registry, "student")
    results = tmp_path / "results"
    results.mkdir()
    for folder in (own_home, results):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    before = files_of(own_home)
    reachable(own_home, tmp_path, catalog.parent)
    with as_somebody_else():
        for options in (EvalOptions.validated(results=results), EvalOptions.validated(results=results, use_cache=False)):
            with pytest.raises(SBV2BenchError) as caught:
                evaluate_and_store(plan("student", "tiny", options, registry), registry)
            assert caught.value.exit_code in {2, 3, 4} and "cannot be written" in str(caught.value) and caught.value.fix
    assert files_of(own_home) == before and not list(results.iterdir())
    for path in (own_home, *own_home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert cache_of(run(registry, "student")) == ("hit", "hit") and block_of(run(registry, "student")) == block_of(first)


def test_a_cache_whose_entries_may_not_be_read_is_measured_again(  # noqa: PLR0917  # fixtures
    registry: Registry,
    catalog: Path,
    own_home: Path,
    as_somebody_else: AsSomebodyElse,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of somebody else's")
    first = run(registry, "student")
    copy = tmp_path / "shared"
    shutil.copytree(own_home, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o600)
    (copy / "features" / ".lock").chmod(0o666)
    reachable(tmp_path, catalog.parent)
    monkeypatch.setenv("SBV2BENCH_HOME", str(copy))
    (tmp_path / "results").mkdir(mode=0o777)
    (tmp_path / "results").chmod(0o777)
    with as_somebody_else():
        again = run(registry, "student", results=tmp_path / "results")
    assert block_of(again) == block_of(first) and cache_of(again) == ("miss", "miss")
    assert all("Permission denied" in note for note in again.provenance["cache"]["notes"])


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wall clocks that are a day early, right, and a day late by turns."""
    real, real_ns, days = time.time, time.time_ns, cycle((-86400, 0, 86400))
    monkeypatch.setattr(time, "time", lambda: real() + next(days))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + next(days) * 10**9)
    yield


@pytest.mark.usefixtures("jumping_clock")
def test_a_clock_that_jumps_changes_no_number_and_takes_no_stale_hash(registry: Registry, tmp_path: Path) -> None:
    options = EvalOptions.validated(results=tmp_path / "results")
    written = [evaluate_and_store(plan("student", "tiny", options, registry), registry) for _ in range(3)]
    assert len({path for _, path in written}) == 3 == len(store.find(tmp_path / "results"))
    assert len({block_of(result) for result, _ in written}) == 1
    assert all(seconds >= 0 for result, _ in written for seconds in result.seconds.values())
    file = tmp_path / "weights.bin"
    for number in range(30):  # of one size, written faster than clocks tick
        file.write_bytes(b"%09d" % number)
        os.utime(file, ns=(10**18, 10**18 + 86400 * 10**9 * (number % 3 - 1)))
        assert digests.file_digest(file) == sha256_file(file)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_processes_on_one_cache_end_alike(catalog: Path, tmp_path: Path, own_home: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sbv2bench",
        "eval",
        "--model",
        "local/student",
        "--suite",
        "tiny",
        "--catalog",
        str(catalog),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([*command, "--results", f"r{number}"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        for number in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err.decode()
    found = [store.load(store.find(tmp_path / f"r{number}")[0]) for number in range(2)]
    assert block_of(found[0]) == block_of(found[1])
    whole, broken = verify_cache()
    assert whole and not broken and not list((own_home / "features").glob("*.blocks"))
