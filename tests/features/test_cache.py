"""The store: what was put is got, a broken entry is a miss with a note, and nothing is half there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from sbv2bench.errors import IntegrityError
from sbv2bench.features import cache as cache_module
from sbv2bench.features.cache import FeatureCache, manifests

ARRAYS = {
    "features": np.arange(12, dtype=np.float32).reshape(3, 4),
    "clip": np.array([0.1, -0.2, 1 / 3]),
    "attributes": np.array([[1, 0, -1]], dtype=np.int8),
}


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def test_put_then_get(cache: FeatureCache) -> None:
    assert cache.get("k1") is None
    cache.put("k1", ARRAYS, {"model": "mini/sd21"})
    entry = cache.get("k1")
    assert entry is not None
    assert entry.manifest["model"] == "mini/sd21"
    assert entry.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert entry.arrays[name].dtype == array.dtype
        assert np.array_equal(entry.arrays[name], array)
    assert cache.get("k2") is None
    assert cache.notes == []


def test_a_view_is_stored_by_its_values(cache: FeatureCache) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    cache.put("k", {"a": array}, {})
    entry = cache.get("k")
    assert entry is not None
    assert np.array_equal(entry.arrays["a"], array)


def test_a_lock_that_is_never_let_go_is_said(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "LOCK_SECONDS", 0.1)
    cache.folder.mkdir(parents=True)
    with FileLock(cache.folder / ".lock"), pytest.raises(IntegrityError, match=r"\.lock: another process has held"):
        cache.put("k", ARRAYS, {})
    cache.put("k", ARRAYS, {})
    assert cache.get("k") is not None


@pytest.mark.parametrize("damage", ["arrays", "cut", "manifest", "gone", "other"])
def test_broken_entry_is_a_miss_with_a_note(cache: FeatureCache, damage: str) -> None:
    cache.put("k", ARRAYS, {})
    arrays, manifest = cache.folder / "k" / "arrays.safetensors", cache.folder / "k" / "manifest.json"
    if damage == "arrays":
        content = bytearray(arrays.read_bytes())
        content[-1] ^= 1
        arrays.write_bytes(bytes(content))
    elif damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:20])
    elif damage == "manifest":
        manifest.write_text('{"arrays_sha256": ')
    elif damage == "gone":
        arrays.unlink()
    else:
        manifest.write_text(json.dumps([1, 2]))
    assert cache.get("k") is None
    assert len(cache.notes) == 1
    assert "broken" in cache.notes[0]
    cache.put("k", ARRAYS, {})  # and it heals
    assert cache.get("k") is not None


def test_blocks_of_an_unfinished_run(cache: FeatureCache) -> None:
    cache.put_block("run", 3, ARRAYS)
    cache.put_block("run", 11, ARRAYS)
    cache.put_block("other", 3, ARRAYS)
    assert cache.block_numbers("run") == [3, 11]
    assert cache.get_rows("run", [11], range(10, 12)) is None
    found = cache.get_rows("run", [3, 11], range(11, 12))
    assert found is not None
    assert np.array_equal(found[0]["features"], ARRAYS["features"][:1])
    assert cache.get("run") is None
    assert not cache.has("run")
    cache.drop_blocks("run")
    assert cache.block_numbers("run") == []
    assert cache.block_numbers("other") == [3]


def test_disabled_cache_neither_reads_nor_writes(tmp_path: Path, cache: FeatureCache) -> None:
    cache.put("k", ARRAYS, {})
    off = FeatureCache(cache.folder, enabled=False)
    assert off.get("k") is None
    assert not off.has("k")
    off.put("new", ARRAYS, {})
    off.put_block("new", 1, ARRAYS)
    off.drop_blocks("k")
    assert cache.get("new") is None
    assert cache.block_numbers("new") == []
    FeatureCache(tmp_path / "nowhere", enabled=False).put("k", ARRAYS, {})
    assert not (tmp_path / "nowhere").exists()


def test_killed_while_writing_is_not_an_entry(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is written last, so arrays without it are nothing; also when an older entry is replaced."""
    cache.put("k", {"a": np.zeros(2)}, {})
    real, calls = cache_module.write_whole, []

    def killed_at_the_second(path: Path, content: str | bytes) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(cache_module, "write_whole", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cache.put("k", {"a": np.ones(2)}, {})
    assert calls == ["arrays.safetensors", "manifest.json"]
    assert cache.get("k") is None
    assert cache.notes == []  # not even a broken entry: nothing


def test_full_disk_is_an_integrity_error(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_whole", full)
    with pytest.raises(IntegrityError, match="No space left") as caught:
        cache.put("k", ARRAYS, {})
    assert "SBV2BENCH_HOME" in str(caught.value)


def test_writers_of_several_processes_leave_a_whole_entry(cache: FeatureCache) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cache.put("k", {"a": np.full(1000, i % 3, dtype=np.float32)}, {"i": i % 3}), range(40)))
    entry = cache.get("k")
    assert entry is not None
    assert set(entry.arrays["a"]) == {entry.manifest["i"]}
    assert cache.notes == []


def test_blocks_go_at_once_and_what_a_killed_process_left_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    cache.put_block("ab", 0, {"rows": np.zeros(2, np.float32)})
    with monkeypatch.context() as patch:
        patch.setattr("sbv2bench.features.cache.shutil.rmtree", lambda *_, **__: None)  # killed before it took effect
        cache.drop_blocks("ab")
    assert cache.block_numbers("ab") == [] and [path.name for path in tmp_path.glob(".ab*")] == [".ab.going"]
    assert manifests(tmp_path) == [] and FeatureCache(tmp_path / "other").take_from(tmp_path) == (0, 0)
    cache.put_block("ab", 0, {"rows": np.zeros(2, np.float32)})
    cache.drop_blocks("ab")
    assert not list(tmp_path.glob("*.blocks")) and not list(tmp_path.glob(".ab*"))
