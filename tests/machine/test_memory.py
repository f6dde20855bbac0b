"""What a model takes of a device, by its files and configs, and what that makes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from twins import twin_spec, write_twin

from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.machine import memory
from sbv2bench.machine.memory import ModelMemory, chosen_placement, memory_of_model
from sbv2bench.registry import Registry
from sbv2bench.samplers.placement import Placement

GB = 10**9
LARGE = ModelMemory(
    parts={"text_encoder": 9 * GB, "transformer": 24 * GB, "vae": GB}, largest_layer=GB // 2, decode=4 * GB, device=40 * GB
)


def test_what_fits_is_what_lies_on_the_device_at_a_time() -> None:
    assert [LARGE.held(way) for way in ("none", "model", "sequential")] == [34 * GB, 24 * GB, GB // 2]
    small = ModelMemory(LARGE.parts, LARGE.largest_layer, LARGE.decode, 30 * GB)
    assert [small.fits(way) for way in ("none", "model", "sequential")] == [False, True, True]
    unknown = ModelMemory(LARGE.parts, LARGE.largest_layer, LARGE.decode, None)
    assert unknown.fits("none") is None
    assert not unknown.placement("none", 16)


@pytest.mark.parametrize(
    ("block", "offload", "expected"),
    [
        (1, "sequential", Placement("sequential")),
        (8, "sequential", Placement("sequential")),
        (16, "sequential", Placement("sequential", vae_slicing=True)),
        (1, "none", Placement("none", vae_slicing=True, vae_tiling=True)),
    ],
)
def test_decoding_is_cut_where_there_is_no_room(block: int, offload: str, expected: Placement) -> None:
    assert LARGE.placement(offload, block) == expected  # type: ignore[arg-type]


def test_weights_are_those_that_are_read_in_the_dtype(tmp_path: Path) -> None:
    spec = twin_spec("flux-dev", write_twin("flux-dev", tmp_path / "m"))
    counts: dict[str, int] = {}
    for file in (tmp_path / "m").glob("*/*.safetensors"):
        with safe_open(file, framework="np") as opened:
            counts[file.parent.name] = sum(opened.get_tensor(name).size for name in opened.keys())  # noqa: SIM118
    found = memory_of_model(spec, Registry.built_in(), "cpu", "bfloat16")
    assert found.parts == {name: 2 * count for name, count in counts.items()}
    assert found.weights == 2 * sum(counts.values())
    assert 0 < found.largest_layer < max(found.parts.values())
    assert found.decode == 5 * 16 * 32 * 32 * 2  # of the widest of two stages, at full size
    assert memory_of_model(spec, Registry.built_in(), "cpu", "float32").weights == 2 * found.weights


def test_a_device_without_room_names_the_way_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, registry = twin_spec("flux-dev", write_twin("flux-dev", tmp_path / "m")), Registry.built_in()
    found = memory_of_model(spec, registry, "cpu", "float32")
    monkeypatch.setattr(memory, "device_bytes", lambda device: int(1.2 * max(found.parts.values())))
    with pytest.raises(PrerequisiteError, match=r"cuda:0: found .* of memory, local/flux-dev takes .*\nfix: --offload model"):
        chosen_placement(spec, registry, ("cuda:0", "float32"), "none", 4)
    assert chosen_placement(spec, registry, ("cuda:0", "float32"), "model", 4).offload == "model"


def test_there_is_nothing_to_offload_on_a_cpu(tmp_path: Path) -> None:
    spec, registry = twin_spec("sd", tmp_path), Registry.built_in()
    with pytest.raises(InputError, match=r"--offload model: found device cpu, .* expected a GPU .*\nfix: --offload none"):
        chosen_placement(spec, registry, ("cpu", "float32"), "model", 4)
    pictures = spec.model_copy(update={"images": "files"})
    with pytest.raises(InputError, match="--offload sequential: no network generates"):
        chosen_placement(pictures, registry, ("cuda:0", "float32"), "sequential", 4)
    assert not chosen_placement(spec, registry, ("cpu", "float32"), "none", 4)
