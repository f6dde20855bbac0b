"""`verify` as it is typed: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Done, refused
from sample_verification import MODEL, sample

from sbv2bench.results import verifications
from sbv2bench.verify import verify as room
from sbv2bench.verify.verify import Verified


@pytest.mark.parametrize(
    ("name", "code", "words", "fix"),
    [
        ("full/z-image-turbo", 3, "its weights are not on this machine", "fix: sbv2bench download full/z-image-turbo"),
        ("full/sbv2-a", 3, "its weights are not on this machine", "fix: sbv2bench download full/sbv2-a"),
        ("full/gigagan", 3, "only published numbers", "fix: sbv2bench show full/gigagan"),
        ("mini/real", 2, "has no network", "fix: sbv2bench list models"),
        ("mini/sd22", 2, "did you mean 'mini/sd21'", "fix: sbv2bench list models"),
        ("somebody/a-model-of-theirs", 2, "not of the package's catalog", "fix: sbv2bench list models"),
    ],
)
def test_what_it_refuses(name: str, code: int, words: str, fix: str, *, run: Callable[..., Done], tmp_path: Path) -> None:
    refused(run("verify", name), code, words, fix)
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A run that samples nothing and finds what `sample` has. The list has what it was asked with."""
    asked: list[dict[str, Any]] = []

    def verify(name: str, registry: object, folder: Path, **more: Any) -> Verified:
        asked.append({"name": name, "folder": folder, **more})
        print("a library's chatter")
        path = folder / verifications.path_of(sample())
        path.parent.mkdir(parents=True)
        path.write_text(verifications.dumps(sample()))
        return Verified(sample(), path, path.with_suffix(".png"))

    monkeypatch.setattr(room, "verify", verify)
    return asked


@pytest.mark.weights
def test_it_prints_scores_pixels_and_how_to_send_them_in(
    run: Callable[..., Done], verified: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sample(made__card="NVIDIA A100", scores__clip_score__value=0.99).sent()
    monkeypatch.setattr(verifications, "shipped", lambda: (other,))
    done = run("verify", "sd-turbo", "--dtype", "float16", "--output", "mine")
    assert done.code == 0
    assert verified == [{"name": MODEL, "folder": Path("mine"), "device": "auto", "dtype": "float16"} | progress(verified)]
    assert "CLIP-mini" in done.out and "0.99 (once)" in done.out and "0.12 beyond what others found" in done.out
    assert "caption 3: 32 x 32 px" in done.out and "the same pixels as 1 of 1" in done.out
    assert f"sbv2bench leaderboard --add mine/{verifications.path_of(sample())}" in done.err
    assert "chatter" not in done.out


def progress(asked: list[dict[str, Any]]) -> dict[str, Any]:
    return {"progress": asked[0]["progress"]}


@pytest.mark.weights
def test_json_is_one_document(run: Callable[..., Done], verified: list[dict[str, Any]]) -> None:
    document = json.loads(run("verify", MODEL, "--json").out)
    assert document["verification"]["sha256"] == sample().sha256
    assert document["file"].startswith("verifications/mini/sd-turbo/") and document["picture"].endswith(".png")
    assert set(document["sent_in_before"]) == {"clip_score"}
