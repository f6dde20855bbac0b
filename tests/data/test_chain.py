"""Which folders a model's parts are taken from, and that every file in them is proved and counted. No torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from sample_results import write_safetensors

from sbv2bench import paths
from sbv2bench.data import chain as chain_module
from sbv2bench.data.assets import hash_weights
from sbv2bench.data.chain import chain, hash_chain, model_files
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry, model_in_folder
from sbv2bench.specs import MergeSpec, ModelSpec


def write_model(folder: Path, *parts: str, base: str | None = None, adapter_of: str | None = None) -> Path:
    """A folder of networks of one tensor each, in which the content of every file is its own."""
    for part in parts:
        write_safetensors(folder / part / "model.safetensors", f"{folder.name} {part}".encode().ljust(40, b"."))
        (folder / part / "config.json").write_text("{}")
    if adapter_of is not None:
        write_safetensors(folder / "unet_lora" / "adapter_model.safetensors", folder.name.encode().ljust(40, b"."))
        (folder / "unet_lora" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": adapter_of or None}))
    if base is not None:
        fields = {"id": f"local/{folder.name}", "sampler": "one_step", "steps": 1, "base": base}
        (folder / "sbv2bench.json").write_text(json.dumps(fields))
    return folder


def spec(folder: Path | str, **fields: object) -> ModelSpec:
    return ModelSpec(id="local/x", sampler="one_step", location=str(folder), **fields)  # type: ignore[arg-type]


def names(model: ModelSpec) -> list[str]:
    return [link.folder.resolve().name for link in chain(model)]


def test_a_chain_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are meant from the folder that names them, wherever one stands."""
    write_model(tmp_path / "whole", "unet", "vae")
    write_model(tmp_path / "deep" / "middle", "unet", base="../../whole")
    student = write_model(tmp_path / "student", "unet", base="../deep/middle")
    assert names(spec(tmp_path / "whole")) == ["whole"]
    assert names(model_in_folder(student)) == ["student", "middle", "whole"]
    assert names(spec(student)) == ["student", "middle", "whole"]  # a catalog need not repeat what the folder says
    assert names(spec(student, base=str(tmp_path / "whole"))) == ["student", "whole"]
    monkeypatch.chdir(tmp_path / "deep")
    assert names(model_in_folder(Path("../student"))) == ["student", "middle", "whole"]


def test_an_adapters_model_comes_before_the_base_that_supplies_the_rest(tmp_path: Path) -> None:
    teacher = write_model(tmp_path / "teacher", "unet", "vae")
    write_model(tmp_path / "start", "unet", base="../teacher")
    lora = write_model(tmp_path / "lora", adapter_of="../start", base=str(teacher))
    assert names(model_in_folder(lora)) == ["lora", "start", "teacher"]
    on_top = write_model(tmp_path / "on_top", adapter_of="../lora")
    assert names(spec(on_top)) == ["on_top", "lora", "start", "teacher"]
    assert names(spec(write_model(tmp_path / "by_spec", adapter_of=""), base="../teacher")) == ["by_spec", "teacher"]


def test_a_circle_is_refused(tmp_path: Path) -> None:
    for name, base in (("a", "../b"), ("b", "../c"), ("c", "../b"), ("self", ".")):
        write_model(tmp_path / name, "unet", base=base)
    with pytest.raises(InputError, match=r"circle: .*a -> \.\./b -> \.\./c -> \.\./b"):
        chain(spec(tmp_path / "a"))
    with pytest.raises(InputError, match="circle"):
        chain(spec(tmp_path / "self"))
    write_model(tmp_path / "lora", adapter_of="../lora")
    with pytest.raises(InputError, match="circle"):
        chain(spec(tmp_path / "lora"))


def test_bases_that_cannot_be(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", "unet")
    with pytest.raises(InputError, match=r"whole: its base '\.\./gone' is no folder"):
        chain(spec(whole, base="../gone"))
    with pytest.raises(PrerequisiteError, match="sd99"):
        chain(spec(whole, base="package:mini/sd99"))
    with pytest.raises(InputError, match="no base_model_name_or_path"):
        chain(spec(write_model(tmp_path / "lost", adapter_of="")))
    with pytest.raises(InputError, match="unet_lora/ and unet/"):
        chain(spec(write_model(tmp_path / "both", "unet", adapter_of="../whole")))
    write_model(tmp_path / "rest", "vae")
    with pytest.raises(PrerequisiteError, match="no folder unet/"):  # not folded into some other model's
        chain(spec(write_model(tmp_path / "blind", adapter_of="../rest", base="../whole")))
    (tmp_path / "lost" / "unet_lora" / "adapter_config.json").unlink()
    with pytest.raises(PrerequisiteError, match="adapter_config"):
        chain(spec(tmp_path / "lost"))
    (whole / "sbv2bench.json").write_text('{"base": 3}')
    with pytest.raises(InputError, match="found 3 as base"):
        chain(spec(whole))


def test_every_file_of_a_chain_is_counted_and_proved(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", "unet", "vae")
    student = write_model(tmp_path / "student", "unet", base="../whole")
    before = hash_chain(chain(spec(student)))
    own = [file.path for file in hash_weights(student)]
    assert [file.path for file in before] == own + [f"../whole:{file.path}" for file in hash_weights(whole)]
    write_safetensors(whole / "vae" / "model.safetensors", b"\1" * 40)
    after = hash_chain(chain(spec(student)))
    assert [a.path for a, b in zip(after, before, strict=True) if a != b] == ["../whole:vae/model.safetensors"]
    file = whole / "vae" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="cut"):
        hash_chain(chain(spec(student)))


def test_a_merge_has_the_files_of_both_chains(tmp_path: Path) -> None:
    write_model(tmp_path / "whole", "unet", "vae")
    a = write_model(tmp_path / "a", "unet", base="../whole")
    b = write_model(tmp_path / "b", adapter_of="../whole", base="../whole")
    merged = ModelSpec(id="local/m", sampler="one_step", merge=MergeSpec(a=str(a), b=str(b), weight=0.5))
    twice = ModelSpec(id="local/t", sampler="one_step", location=str(a), merge=MergeSpec(a="local/m", b=str(b), weight=0.5))
    registry = Registry.load()
    registry.add("model", merged)
    found = [file.path for file in model_files(merged, lambda end: model_in_folder(Path(end)))]
    assert f"{a}:unet/model.safetensors" in found
    assert f"{a}:../whole:vae/model.safetensors" in found
    assert f"{b}:unet_lora/adapter_config.json" in found
    assert f"{b}:../whole:unet/model.safetensors" in found
    of_twice = [file.path for file in model_files(twice, registry.model)]
    assert "unet/model.safetensors" in of_twice  # its own location supplies the other parts
    assert f"local/m:{a}:../whole:vae/model.safetensors" in of_twice


def test_shipped_folders_that_hold_a_part_are_proved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights"
    write_model(weights / "start", "unet", "vae")
    write_model(weights / "full", "unet", base="package:mini/start")
    write_model(weights / "lora", adapter_of="package:mini/start")
    files = {
        path.relative_to(weights).as_posix(): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": 0}
        for path in weights.rglob("*")
        if path.is_file()
    }
    (weights / "manifest.json").write_text(json.dumps({"files": files}))
    monkeypatch.setattr(paths, "package_weights", lambda: weights)
    for name, part in (("full", "unet/model.safetensors"), ("lora", "unet_lora/adapter_model.safetensors")):
        model = spec(f"package:mini/{name}")
        found = [file.path for file in hash_chain(chain(model))]
        assert part in found
        assert "package:mini/start:vae/model.safetensors" in found
        good = (weights / name / part).read_bytes()
        write_safetensors(weights / name / part, b"\1" * 40)
        with pytest.raises(IntegrityError, match=f"{name}/{part}"):
            hash_chain(chain(model))
        (weights / name / part).unlink()
        with pytest.raises((IntegrityError, PrerequisiteError), match=r"missing|no weights"):
            hash_chain(chain(model))
        (weights / name / part).write_bytes(good)
    write_safetensors(weights / "start" / "vae" / "model.safetensors", b"\1" * 40)
    with pytest.raises(IntegrityError, match="start/vae"):
        hash_chain(chain(spec("package:mini/lora")))


def test_a_students_part_is_a_model_to_the_registry(tmp_path: Path) -> None:
    write_model(tmp_path / "whole", "unet", "vae")
    found = Registry.load().model(str(write_model(tmp_path / "student", "unet", base="../whole")), "mini")
    assert (found.id, found.sampler, found.base) == ("local/student", "one_step", "../whole")


def test_chains_are_followed_without_torch() -> None:
    code = f"import sys, {chain_module.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_unet_alone_takes_the_place_of_every_unet_behind_it(tmp_path: Path) -> None:
    """Its base may be a student that has nothing but a UNet of its own, and whose base has the rest."""
    write_model(tmp_path / "whole", "unet", "vae")
    write_model(tmp_path / "student", "unet", base="../whole")
    own = write_model(tmp_path / "own", "unet") / "unet"
    links = chain(spec(own, holds="unet", base=str(tmp_path / "student")))
    files = {file.path for file in hash_chain(links)}
    assert {path.rpartition(":")[2] for path in files} >= {"model.safetensors", "vae/model.safetensors"}
    assert not any(path.endswith("unet/model.safetensors") for path in files)
