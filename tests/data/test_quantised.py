"""Weights that a program has coded are refused by its name, before anything is loaded. No torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.chain import chain, hash_chain
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec

PLAIN = {"proj.weight": "F32", "proj.bias": "F16", "norm.weight": "BF16", "embeddings.position_ids": "I64"}
CODED: dict[str, tuple[dict[str, str], str]] = {
    "bitsandbytes, 4 bits": ({"proj.weight": "U8", "proj.weight.absmax": "F32"}, r"absmax, as bitsandbytes"),
    "bitsandbytes, 4 bits, its state": ({"proj.weight.quant_state.bitsandbytes__nf4": "U8"}, "as bitsandbytes"),
    "bitsandbytes, 8 bits": ({"proj.weight": "I8", "proj.SCB": "F32"}, r"proj\.SCB, as bitsandbytes"),
    "nunchaku": ({"blocks.0.qweight": "I8", "blocks.0.wscales": "BF16", "blocks.0.smooth_factor": "BF16"}, "as nunchaku"),
    "GPTQ": ({"proj.qweight": "I32", "proj.qzeros": "I32"}, "as GPTQ or AWQ"),
    "float8 with scales": ({"proj.weight": "F8_E4M3", "proj.weight_scale": "F32"}, "as scaled float8"),
    "float8 with scales, of ComfyUI": ({"proj.weight": "F8_E4M3", "proj.scale_weight": "F32", "scaled_fp8": "F8_E4M3"}, "float8"),
    "integers": ({"proj.weight": "I8"}, r"proj\.weight of I8"),
}


def write(path: Path, tensors: dict[str, str]) -> Path:
    """A file of two bytes a tensor, which is as much as its header says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        name: {"dtype": dtype, "shape": [1, 2], "data_offsets": [2 * place, 2 * place + 2]}
        for place, (name, dtype) in enumerate(tensors.items())
    }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(2 * len(tensors)))
    return path


def part(folder: Path, name: str, tensors: dict[str, str], **config: object) -> Path:
    kind = {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL"}.get(name, "T5EncoderModel")
    write(folder / name / "model.safetensors", tensors)
    (folder / name / "config.json").write_text(json.dumps({"_class_name": kind} | config))
    return folder / name


@pytest.fixture
def flux(tmp_path: Path) -> Path:
    folder = tmp_path / "flux"
    for name in ("transformer", "vae", "text_encoder_2"):
        part(folder, name, PLAIN)
    index = {"_class_name": "FluxPipeline"} | {name: ["diffusers", "X"] for name in ("transformer", "vae", "text_encoder_2")}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def prove(folder: Path, **parts: Path) -> None:
    places = {name: str(place) for name, place in parts.items()}
    hash_chain(chain(ModelSpec(id="local/x", sampler="pipeline", location=str(folder), parts=places)))


@pytest.mark.parametrize("case", CODED)
def test_they_are_told_by_their_names(flux: Path, tmp_path: Path, case: str) -> None:
    tensors, says = CODED[case]
    prove(flux)
    file = write(tmp_path / "student.safetensors", PLAIN | tensors)
    for place in (file, part(tmp_path / "folder", "transformer", PLAIN | tensors)):
        with pytest.raises(InputError, match=f"quantised weights .*{says}") as caught:
            prove(flux, transformer=place)
        assert str(place) in caught.value.message and caught.value.fix and len(str(caught.value).splitlines()) <= 3
    part(flux, "text_encoder_2", PLAIN | tensors)
    with pytest.raises(InputError, match="text_encoder_2"):
        prove(flux)


def test_they_are_told_by_a_config(flux: Path) -> None:
    """As repositories of quantised pipelines have it of each network."""
    part(flux, "text_encoder_2", PLAIN, quantization_config={"quant_method": "torchao"})
    with pytest.raises(InputError, match=r"text_encoder_2/config\.json: quantised weights \(torchao\)"):
        prove(flux)
    part(flux, "text_encoder_2", PLAIN, quantization_config=None)
    prove(flux)


def test_numbers_that_are_only_short_are_read(flux: Path, tmp_path: Path) -> None:
    prove(flux, transformer=write(tmp_path / "short.safetensors", PLAIN | {"proj.weight": "F8_E4M3"}))


@pytest.mark.parametrize("location", ["hub:lab/flux-gguf/flux1-dev-Q4_K_S.gguf", "flux1-dev-Q8_0.GGUF"])
def test_gguf_is_refused_before_it_is_fetched(flux: Path, location: str) -> None:
    with pytest.raises(InputError, match="GGUF"):
        resolve_location(location)
    with pytest.raises(InputError, match="GGUF") as caught:
        prove(flux, transformer=Path(location))
    assert "not quantised" in str(caught.value.fix)


def test_gguf_is_told_by_its_first_bytes_and_in_a_folder(flux: Path, tmp_path: Path) -> None:
    (tmp_path / "renamed.safetensors").write_bytes(b"GGUF\3" + bytes(64))
    with pytest.raises(InputError, match=r"renamed\.safetensors: quantised weights \(GGUF\)"):
        prove(flux, transformer=tmp_path / "renamed.safetensors")
    weights = next((flux / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".gguf"))
    with pytest.raises(InputError, match=r"\.gguf: quantised weights \(GGUF\)"):
        prove(flux)
    with pytest.raises(InputError, match="GGUF"):
        Registry.load().model("lab/flux-gguf/flux1-dev-Q4_0.gguf")
