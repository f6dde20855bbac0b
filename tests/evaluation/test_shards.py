"""Parts of a run's images, made by jobs that do not speak to each other, give the run's own numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from running import block_of, cache_of, run

from sbv2bench.cli.cache import merge_shards
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.evaluate import measure_shard
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.registry import Registry


def made(registry: Registry, shard: str, **options: object) -> int:
    return measure_shard(plan("teacher", "tiny", EvalOptions.validated(shard=shard, **options), registry), registry)


def test_parts_are_disjoint_and_together_the_whole(registry: Registry) -> None:
    """Five blocks of 6, the last of 2 images: of three parts 12, 8 and 6 images; a part that is there is not made again."""
    expected = run(registry, use_cache=False)
    assert [made(registry, f"{number}/3") for number in (1, 2, 3)] == [12, 8, 6]
    assert made(registry, "2/3") == 0
    whole = run(registry)
    assert block_of(whole) == block_of(expected) and whole.resumed_images == 26
    assert whole.forward_passes == expected.forward_passes is not None
    assert made(registry, "1/3") == 0 and cache_of(run(registry)) == ("hit", "hit")


@pytest.mark.ci
def test_caches_of_other_machines_are_merged(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = block_of(run(registry, use_cache=False))
    machines = [tmp_path / f"machine-{number}" for number in (1, 2)]
    for number, machine in enumerate(machines, 1):
        monkeypatch.setenv("SBV2BENCH_HOME", str(machine))
        made(registry, f"{number}/2")
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "merged"))
    with pytest.raises(InputError, match="found no measured images"):
        merge_shards([tmp_path / "nowhere"])
    merge_shards(machines)
    merge_shards([machines[1] / "features"])
    assert capsys.readouterr().out.endswith("0 entries taken, 8 were here\n")
    whole = run(registry)
    assert block_of(whole) == expected and whole.resumed_images == 26
    with pytest.raises(InputError, match="own cache"):
        merge_shards([tmp_path / "merged"])
    spoilt = next((machines[0] / "features").rglob("arrays.safetensors"))
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    shutil.rmtree(tmp_path / "merged")
    with pytest.raises(IntegrityError, match="do not have the hash"):
        merge_shards(machines)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(shard: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        EvalOptions.validated(shard=shard)


@pytest.mark.parametrize(("options", "says"), [({"use_cache": False}, "--no-cache"), ({"save_images": "all"}, "--save-images")])
def test_what_a_part_would_lose_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        EvalOptions.validated(shard="1/2", **options)
