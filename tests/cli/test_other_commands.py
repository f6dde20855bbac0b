"""`list`, `show`, `doctor`, `leaderboard` and `cache` as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands_in_process import Done, refused
from sample_results import sample_result, write_safetensors

from sbv2bench import __version__
from sbv2bench.results import store


def test_list(run: Callable[..., Done]) -> None:
    for what, first in (("models", "mini/sd21"), ("suites", "mini"), ("metrics", "fid"), ("extractors", "world-128")):
        rows = json.loads(run("list", what, "--json").out)
        assert rows[0]["id"] == first
        assert {"id", "family", "kind", "origin", "licence", "verified", "what_it_is"} <= set(rows[0])
        shown = run("list", what)
        assert (shown.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        assert not [row["id"] for row in rows if not any(row["id"] in line and row["what_it_is"] in line for line in lines)]
    assert json.loads(run("list", "plugins", "--json").out) == []
    assert run("list", "plugins") == Done(0, "", "no plugins on this machine\n")
    refused(run("list", "modles"), 2, "modles", "fix: sbv2bench list models")


def test_list_says_what_a_person_chooses_by(run: Callable[..., Done]) -> None:
    rows = {
        what: {row["id"]: row for row in json.loads(run("list", what, "--json").out)} for what in ("models", "suites", "metrics")
    }
    teacher, published = rows["models"]["mini/sd21"], rows["models"]["full/dmd"]
    assert (teacher["steps"], teacher["guidance_scale"], teacher["here"]) == (25, 3.0, True)
    assert (published["steps"], published["here"]) == (None, False)
    assert rows["models"]["full/sd-turbo"]["here"] is False
    assert rows["models"]["mini/sbv2-merged"]["here"] is True  # by its two ends
    group = rows["suites"]["paper"]
    assert (group["captions"], group["reference"], group["here"]) == (33200, 40504, False)
    assert (rows["suites"]["mini"]["captions"], rows["suites"]["mini"]["here"]) == (1000, True)
    fid, clip = rows["metrics"]["fid"], rows["metrics"]["clip"]
    assert (fid["better"], fid["reads_captions"], "mini" in fid["suites"]) == ("lower", False, True)
    assert (clip["better"], clip["reads_captions"]) == ("higher", True)
    assert "on this machine" in run("list", "suites").out


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
    (look,) = [check["found"] for check in report["checks"] if check["name"] == "suite first-look"]
    assert "first-look.txt" not in look  # captions that are shipped, a file and no folder of weights
    assert {statuses[name] for name in ("python", "torch", "device", "home folder", "package weights", "suite mini")} == {"ok"}
    write_safetensors(shipped / "hps" / "model.safetensors", b"changed...!!")
    bad = run("doctor", "--json")
    report = json.loads(bad.out)
    assert (bad.code, report["ok"]) == (3, False)
    broken = next(check for check in report["checks"] if check["name"] == "package weights")
    assert broken["status"] == "broken"
    assert broken["fix"]
    bad = run("doctor")
    assert (bad.code, bad.error().splitlines()[0][:35]) == (3, "error: suite mini cannot run here: ")
    assert "package weights" in bad.out and "package weights" in bad.error()


def test_doctor_says_what_versions_trap(run: Callable[..., Done], shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench.machine import doctor

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


@pytest.mark.ci
def test_leaderboard(run: Callable[..., Done]) -> None:
    refused(run("leaderboard", "--check"), 4, "coco2014-30k.csv", "fix: sbv2bench leaderboard")
    paths_ = [str(store.write(sample_result(fid=fid, guidance=fid), Path("results"))) for fid in (4.0, 3.0)]
    partial = str(store.write(sample_result(status="partial"), Path("results")))
    refused(run("leaderboard", "--add", partial), 2, "partial")
    refused(run("leaderboard", "--add", "none.json"), 2, "none.json")
    refused(run("leaderboard", *paths_), 2, "--add")
    assert not Path("leaderboards").exists()
    done = run("leaderboard", "--add", *paths_)
    assert done.code == 0
    assert "FID-mini" in done.out
    assert "leaderboards/index.html" in done.err and "no page was built" not in done.err
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
    assert str(own_home) in run("cache", "info").out
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


def test_grid(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("grid", "real", "--captions", "0,2", "--output", "grid.png")
    assert (done.code, done.out) == (0, "") and "written: grid.png" in done.err
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    refused(
        run("grid", "real", "--captions", "0-5", "--output", "other.png"), 2, "--captions: found '0-5'", "fix: --captions 0,1,2"
    )
    assert not (tmp_path / "other.png").exists()


def test_a_grids_name_is_looked_at_before_an_image_is_made(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    from sbv2bench.evaluation import grid

    monkeypatch.setattr(grid, "sample_grid", lambda *asked, **more: pytest.fail("sampled"))
    refused(run("grid", "real", "--output", "."), 2, ". is a folder", "fix: --output grid.png")
    refused(run("grid", "real", "--output", "a b.jpg"), 2, "ends in .png", "fix: --output 'a b.png'")
