"""The files of models: found, whole, safe and unchanged, or refused with what to do, before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from sample_results import write_package_weights, write_safetensors

from sbv2bench import paths
from sbv2bench.data import assets, digests
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_package_weights(tmp_path / "weights")
    monkeypatch.setattr(paths, "package_weights", lambda: folder)
    return folder


def model_folder(folder: Path) -> Path:
    """A diffusers folder with one network and a tokenizer."""
    folder.mkdir()
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "unet": ["diffusers", "U"], "tokenizer": ["transformers", "T"], "checker": [None, None]})
    )
    write_safetensors(folder / "unet" / "model.safetensors")
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("a b")
    (folder / "README.txt").write_text("read me")
    for remarks in ("sbv2bench.json", "merge.json", "training.json"):
        (folder / remarks).write_text("{}")
    return folder


def test_locations(shipped: Path, tmp_path: Path) -> None:
    assert assets.resolve_location("package:mini/sd21") == shipped / "sd21"
    assert assets.resolve_location(str(tmp_path)) == tmp_path
    for wrong in ("package:maxi/sd21", "package:mini/", "package:mini/../..", "", str(tmp_path / "none")):
        with pytest.raises(InputError):
            assets.resolve_location(wrong)
    with pytest.raises(PrerequisiteError, match="sd99"):
        assets.resolve_location("package:mini/sd99")


def test_a_hub_model_offline_is_a_prerequisite_with_the_command() -> None:
    with pytest.raises(PrerequisiteError, match="offline") as caught:
        assets.resolve_location("hub:somebody/some-model", "abc123")
    assert caught.value.fix is not None
    assert "sbv2bench download hub:somebody/some-model@abc123" in caught.value.fix


def test_hashes_are_of_everything_that_decides_the_output(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    found = {file.path: file.sha256 for file in assets.hash_weights(folder)}
    assert list(found) == ["model_index.json", "tokenizer/merges.txt", "unet/config.json", "unet/model.safetensors"]
    weights = (folder / "unet" / "model.safetensors").read_bytes()
    assert found["unet/model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_other_bytes_are_seen_though_size_and_time_are_the_same(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Container layers, reproducible archives and rsync -t give other files the times of the ones before."""
    folder = model_folder(tmp_path / "model")
    weights = folder / "unet" / "model.safetensors"
    os.utime(weights, (1000, 1000))
    assets.hash_weights(folder)
    assert not (own_home / "assets" / "hashes").exists()  # fresh files are not remembered, whatever time they claim
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    before = assets.hash_weights(folder)
    assert len(list((own_home / "assets" / "hashes").iterdir())) == len(before)
    size = weights.stat().st_size
    time.sleep(0.02)  # past the clock's grain of the file system
    write_safetensors(weights, b"\1" * 8)  # in place: the same inode
    os.utime(weights, (1000, 1000))
    assert weights.stat().st_size == size
    assert (written := assets.hash_weights(folder)) != before
    write_safetensors(folder / "new.safetensors", b"\2" * 8)
    os.utime(folder / "new.safetensors", (1000, 1000))
    (folder / "new.safetensors").replace(weights)
    assert assets.hash_weights(folder) not in (before, written)


def test_without_the_cache_no_remembered_hash_is_trusted(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model")
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    right = assets.hash_weights(folder)
    read: list[Path] = []
    monkeypatch.setattr(digests, "sha256_file", lambda path: read.append(path) or "0" * 64)
    assert assets.hash_weights(folder) == right and not read
    with digests.trusting(False):
        assert {file.sha256 for file in assets.hash_weights(folder)} == {"0" * 64} and len(read) == len(right)
        with digests.trusting(True):  # what is inside a run without the cache is without it too
            assert assets.hash_weights(folder) != right


def test_the_remembered_hash_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model")
    later = time.time_ns() + 10 * 10**9  # of files that are fresh no hash is remembered
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    before = assets.hash_weights(folder)
    monkeypatch.setattr(digests, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert assets.hash_weights(folder) == before


def test_shipped_weights_must_be_the_bytes_that_were_shipped(shipped: Path) -> None:
    assert [file.path for file in assets.hash_weights(shipped / "sd21")] == ["config.json", "model.safetensors"]
    write_safetensors(shipped / "sd21" / "model.safetensors", b"\1" * 12)
    with pytest.raises(IntegrityError, match=r"sd21/model\.safetensors") as caught:
        assets.hash_weights(shipped / "sd21")
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) <= 3
    assets.hash_weights(shipped / "clip")


def test_shipped_weights_must_be_all_there_and_no_others(shipped: Path) -> None:
    write_safetensors(shipped / "clip" / "more.safetensors")
    with pytest.raises(IntegrityError, match="not shipped"):
        assets.hash_weights(shipped / "clip")
    (shipped / "hps" / "model.safetensors").rename(shipped / "hps" / "other.safetensors")
    with pytest.raises(IntegrityError, match="missing"):
        assets.hash_weights(shipped / "hps")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth"])
def test_pickles_as_the_only_weights_are_refused_unless_the_flag_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    folder = model_folder(tmp_path / "model")
    weights = folder / "unet" / "model.safetensors"
    weights.rename(weights.with_suffix(suffix))
    with pytest.raises(IntegrityError, match="pickled") as caught:
        assets.hash_weights(folder)
    assert assets.ALLOW_PICKLE in str(caught.value)
    monkeypatch.setenv(assets.ALLOW_PICKLE, "1")
    assert f"unet/model{suffix}" in [file.path for file in assets.hash_weights(folder)]


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    before = assets.hash_weights(folder)
    (folder / "unet" / "model.bin").write_bytes(b"pickle")
    (folder / "training.ckpt").write_bytes(b"pickle")
    assert assets.hash_weights(folder) == before


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), IntegrityError, "cut"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), IntegrityError, "broken header"),
        (lambda path: path.write_bytes(b""), IntegrityError, "broken header"),
        (lambda path: path.write_bytes(b"\xff" * 64), IntegrityError, "broken header"),
        (lambda path: path.unlink(), PrerequisiteError, "no weights"),
        (lambda path: path.with_name("config.json").write_text("{"), IntegrityError, "not JSON"),
    ],
    ids=["one byte short", "header cut", "empty", "garbage", "missing", "broken config"],
)
def test_broken_and_missing_files_are_found_without_loading(tmp_path: Path, damage, error, says: str) -> None:  # type: ignore[no-untyped-def]
    folder = model_folder(tmp_path / "model")
    assets.hash_weights(folder)
    damage(folder / "unet" / "model.safetensors")
    with pytest.raises(error, match=says):
        assets.hash_weights(folder)


def test_a_component_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer" / "merges.txt").unlink()
    (folder / "tokenizer").rmdir()
    with pytest.raises(PrerequisiteError, match="tokenizer"):
        assets.hash_weights(folder)


def test_an_unwritable_cache_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model")
    os.utime(folder / "unet" / "model.safetensors", (1000, 1000))
    expected = assets.hash_weights(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "file" / "home"))
    assert assets.hash_weights(folder) == expected
