"""Loading: every broken model beside its good twin, never the network; text and decoding as stock diffusers does them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from safetensors.torch import load_file, save
from tiny_models import TOKENS, write_tiny_pipeline

from sbv2bench.atomic import whole_file
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, initial_noise
from sbv2bench.samplers.components import Components, load_components
from sbv2bench.samplers.multi_step import MultiStepSampler
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
NETWORK = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def folder(v_folder: Path, tmp_path: Path) -> Path:
    """A good model that may be spoilt."""
    return Path(shutil.copytree(v_folder, tmp_path / "model"))


def load(folder: Path, **fields: object) -> Components:
    spec = ModelSpec(id="local/tiny", sampler="one_step", location=str(folder), **fields)
    return load_components(spec, "cpu", torch.float32)


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    change(state)
    with whole_file(path) as file:  # another file: a network that is loaded may still be mapped to the old one
        file.write(save(state, metadata={"format": "pt"}))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def reshape_first(state: dict[str, torch.Tensor]) -> None:
    state[next(iter(state))] = torch.zeros(3, 3)


def pickle_instead(folder: Path, slot: str, name: str) -> None:
    (weights,) = (folder / slot).glob("*.safetensors")
    torch.save(load_file(weights), folder / slot / name)
    weights.unlink()


def second_encoder(folder: Path) -> None:
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
    edit_json(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"])


SPOILT: dict[str, tuple[type[SBV2BenchError], str, Callable[[Path], object]]] = {
    "no folder": (InputError, "does not exist", shutil.rmtree),
    "a file": (InputError, "not a folder", lambda f: (shutil.rmtree(f), f.write_text("x"))),
    "no model_index.json": (InputError, "model_index.json", lambda f: (f / "model_index.json").unlink()),
    "model_index.json not JSON": (IntegrityError, "JSON", lambda f: (f / "model_index.json").write_text("{")),
    "no unet folder": (PrerequisiteError, "unet", lambda f: shutil.rmtree(f / "unet")),
    "no text_encoder folder": (PrerequisiteError, "text_encoder", lambda f: shutil.rmtree(f / "text_encoder")),
    "no tokenizer folder": (PrerequisiteError, "tokenizer", lambda f: shutil.rmtree(f / "tokenizer")),
    "no scheduler folder": (PrerequisiteError, "scheduler", lambda f: shutil.rmtree(f / "scheduler")),
    "no scheduler config": (PrerequisiteError, "scheduler_config", lambda f: (f / SCHEDULER).unlink()),
    "no unet weights": (PrerequisiteError, "no weights", lambda f: (f / "unet" / NETWORK).unlink()),
    "no text weights": (PrerequisiteError, "no weights", lambda f: (f / "text_encoder/model.safetensors").unlink()),
    "cut unet weights": (IntegrityError, NETWORK, lambda f: cut(f / "unet" / NETWORK)),
    "cut vae weights": (IntegrityError, NETWORK, lambda f: cut(f / "vae" / NETWORK)),
    "cut text weights": (IntegrityError, "model.safetensors", lambda f: cut(f / "text_encoder/model.safetensors")),
    "empty unet weights": (IntegrityError, NETWORK, lambda f: (f / "unet" / NETWORK).write_bytes(b"")),
    "pickled unet": (IntegrityError, "pickle", lambda f: pickle_instead(f, "unet", "diffusion_pytorch_model.bin")),
    "pickled text": (IntegrityError, "pickle", lambda f: pickle_instead(f, "text_encoder", "pytorch_model.bin")),
    "unet shape": (IntegrityError, "expected shape", lambda f: edit_weights(f / "unet" / NETWORK, reshape_first)),
    "vae shape": (IntegrityError, "expected shape", lambda f: edit_weights(f / "vae" / NETWORK, reshape_first)),
    "text shape": (IntegrityError, "another shape", lambda f: edit_weights(f / "text_encoder/model.safetensors", reshape_first)),
    "unet key missing": (
        IntegrityError,
        r"1 missing \(conv_in.bias\)",
        lambda f: edit_weights(f / "unet" / NETWORK, lambda s: s.pop("conv_in.bias")),
    ),
    "unet key too many": (
        IntegrityError,
        r"1 not expected \(odd\)",
        lambda f: edit_weights(f / "unet" / NETWORK, lambda s: s.update(odd=torch.zeros(2))),
    ),
    "text key missing": (
        IntegrityError,
        "1 missing",
        lambda f: edit_weights(f / "text_encoder/model.safetensors", lambda s: s.pop("final_layer_norm.bias")),
    ),
    "no tokenizer files": (IntegrityError, "tokenizer", lambda f: (f / "tokenizer/tokenizer.json").write_text("[]")),
    "unknown autoencoder": (InputError, "OddVae", lambda f: edit_json(f / "vae/config.json", _class_name="OddVae")),
    "unknown scheduler": (InputError, "OddScheduler", lambda f: edit_json(f / SCHEDULER, _class_name="OddScheduler")),
    "unknown schedule": (IntegrityError, "scheduler_config.json", lambda f: edit_json(f / SCHEDULER, beta_schedule="odd")),
    "a pipeline of another kind": (InputError, "sampler: pipeline", second_encoder),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_model_says_what_is_wrong(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBV2BENCH_ALLOW_PICKLE", raising=False)
    load(folder)
    error, message, spoil = SPOILT[name]
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert type(caught.value) is error
    assert caught.value.exit_code == {InputError: 2, PrerequisiteError: 3, IntegrityError: 4}[error]
    assert len(str(caught.value).splitlines()) <= 3
    assert str(folder) in str(caught.value)


def test_parts_of_different_models_are_refused(folder: Path, epsilon_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "vae")
    shutil.copytree(epsilon_folder / "vae", folder / "vae")
    with pytest.raises(IntegrityError, match=r"8 latent channels.* decodes 4"):
        load(folder)


def test_pickles_are_read_where_they_are_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = load(folder)
    pickle_instead(folder, "unet", "diffusion_pytorch_model.bin")
    pickle_instead(folder, "text_encoder", "pytorch_model.bin")
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    pickled = load(folder)
    assert all(torch.equal(value, pickled.unet.state_dict()[key]) for key, value in good.unet.state_dict().items())


def test_a_student_may_name_its_unet_as_the_official_checkpoints_do(folder: Path) -> None:
    (folder / "unet").rename(folder / "unet_ema")
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    load(folder)


def test_half_precision_files_are_cast_to_the_runs_dtype(folder: Path) -> None:
    exact = load(folder)
    for path in folder.rglob("*.safetensors"):
        edit_weights(path, lambda state: state.update({key: value.half() for key, value in state.items()}))
    parts = load(folder)
    for network, other in ((parts.unet, exact.unet), (parts.vae, exact.vae), (parts.text_encoder, exact.text_encoder)):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-3, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in parts.unet.parameters())
    assert not parts.unet.training


def test_a_run_in_half_precision_keeps_latents_in_float32(folder: Path, make_block: Make) -> None:
    spec = ModelSpec(id="local/tiny", sampler="multi_step", location=str(folder), steps=2, guidance_scale=2.0)
    block = make_block()
    exact = MultiStepSampler(spec, "cpu", torch.float32).generate(block, Stopwatch())
    model = MultiStepSampler(spec, "cpu", torch.bfloat16)
    parts = model.components
    for network in (parts.unet, parts.vae, parts.text_encoder):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        text = parts.encode_text(block.captions, True)
        output = parts.predict(torch.randn(4, 8, 8, 8), 999, text, 2.0)
    assert text.dtype == torch.bfloat16
    assert output.dtype == torch.float32
    difference = np.abs(model.generate(block, Stopwatch()).astype(int) - exact)
    assert 0 < difference.mean() < 4


def test_a_tokenizer_is_asked_by_one_thread_at_a_time(folder: Path) -> None:
    """A fast tokenizer changes its padding in place and fails, or pads wrongly, when another thread is in it."""
    parts = load(folder)
    inside: list[int] = []
    overlaps: list[int] = []

    class Slow:
        model_max_length = TOKENS

        def __call__(self, captions: list[str], **settings: object) -> object:
            inside.append(1)
            time.sleep(0.02)
            overlaps.append(len(inside))
            inside.pop()
            return tokenizer(captions, **settings)

    tokenizer = parts.tokenizer
    parts = dataclasses.replace(parts, tokenizer=Slow())
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda caption: parts.encode_text([caption], True), ["red", "blue", "star", "ring"]))
    assert overlaps == [1] * 8


def test_convolutions_are_stored_channels_last(folder: Path) -> None:
    parts = load(folder)
    assert parts.unet.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert parts.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_text_is_encoded_as_stock_diffusers_does(folder: Path) -> None:
    parts = load(folder)
    captions = ["a red circle", "", "a large blue star " * 9]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    expected, unconditional = pipeline.encode_prompt(captions, "cpu", 1, True)
    with torch.no_grad():
        torch.testing.assert_close(parts.encode_text(captions, False), expected, rtol=1e-5, atol=1e-5)
        guided = parts.encode_text(captions, True)
    torch.testing.assert_close(guided, torch.cat([unconditional, expected]), rtol=1e-5, atol=1e-5)


def test_a_long_caption_is_cut_and_keeps_its_end_token(folder: Path) -> None:
    parts = load(folder)
    seen: list[torch.Tensor] = []
    parts.text_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    parts.encode_text(["a large blue star " * 9, "red"], False)
    (tokens,) = seen
    end = parts.tokenizer.eos_token_id
    assert tokens.shape == (2, TOKENS)
    assert tokens[0, -1] == end
    assert (tokens[0] == end).sum() == 1
    assert (tokens[1] == end).sum() == TOKENS - 2  # padded with the folder's padding token


def test_padding_is_the_folders_business(folder: Path) -> None:
    """Stable Diffusion 2.x pads with "!", token 0."""
    edit_json(folder / "tokenizer" / "tokenizer_config.json", pad_token="!")
    parts = load(folder)
    seen: list[torch.Tensor] = []
    parts.text_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    parts.encode_text(["red"], False)
    assert parts.tokenizer.pad_token_id != parts.tokenizer.eos_token_id
    assert (seen[0][0, 3:] == parts.tokenizer.convert_tokens_to_ids("!")).all()


@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_are_unscaled_and_shifted_before_decoding(folder: Path, shift: float | None) -> None:
    edit_json(folder / "vae" / "config.json", scaling_factor=0.5, shift_factor=shift)
    parts = load(folder)
    latents = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pixels = parts.vae.decode(latents / 0.5 + (shift or 0.0)).sample
        images = parts.decode(latents)
    expected = 255 * (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert np.abs(images - expected.numpy()).max() <= 0.51


def test_a_tiny_autoencoder_in_the_vae_slot(tmp_path: Path, make_block: Make) -> None:
    folder = write_tiny_pipeline(tmp_path / "m", vae="AutoencoderTiny")
    spec = ModelSpec(id="local/tiny", sampler="multi_step", location=str(folder), steps=3)
    model = MultiStepSampler(spec, "cpu", torch.float32)
    assert isinstance(model.components.vae, AutoencoderTiny)
    block = make_block()
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(generators(block.noise_seeds), (8, 8, 8))
    expected = (
        255 * pipeline(list(block.captions), num_inference_steps=3, guidance_scale=1, latents=noise, output_type="np").images
    )
    images = model.generate(block, Stopwatch())
    assert np.abs(images - expected).max() <= 0.51
    assert expected.std() > 5


def test_a_model_that_makes_no_numbers_is_refused(folder: Path, make_block: Make) -> None:
    edit_weights(folder / "unet" / NETWORK, lambda state: state["conv_out.bias"].fill_(float("nan")))
    spec = ModelSpec(id="local/tiny", sampler="multi_step", location=str(folder), steps=1)
    with pytest.raises(IntegrityError, match="not numbers"):
        MultiStepSampler(spec, "cpu", torch.float32).generate(make_block(), Stopwatch())


def test_resolution_of_the_spec(folder: Path, make_block: Make) -> None:
    assert load(folder).resolution == 32
    model = MultiStepSampler(
        ModelSpec(id="local/tiny", sampler="multi_step", location=str(folder), steps=1, resolution=48), "cpu", torch.float32
    )
    assert model.generate(make_block(count=2), Stopwatch()).shape == (2, 48, 48, 3)
    with pytest.raises(InputError, match="multiple of 4"):
        load(folder, resolution=33)


def test_loading_leaves_the_random_state_and_the_libraries_as_they_were(folder: Path) -> None:
    import diffusers
    import transformers

    before = torch.random.get_rng_state()
    verbosity = (diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity())
    load(folder)
    assert torch.equal(before, torch.random.get_rng_state())
    assert verbosity == (diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity())
    assert diffusers.utils.logging.is_progress_bar_enabled()
