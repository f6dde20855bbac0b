"""What replaces or changes a base model's UNet: a UNet alone, in a folder or a file, and LoRA adapters of any usual layout.

Layouts of adapters: peft's folder, and the single files of diffusers and of kohya-ss, whose names diffusers translates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import safe_open

from sbv2bench.data.adapter_config import WHOLE, LoraSettings, lora_settings
from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.schedulers import reading
from sbv2bench.weights import StateDict, adapted_module, compare_keys, fold_lora, load_adapter, load_state_dict, some

# What training programs put before a network's names: accelerate and DDP, torch.compile, peft, and a pipeline's own.
WRAPPERS = ("unet_ema.", "unet.", "module.", "_orig_mod.", "base_model.model.")
# The ends of a plain LoRA's names in the layouts of peft, diffusers (new and old) and kohya-ss.
_LORA_NAMES = re.compile(
    r"lora_(A|B|down|up)(\.default)?\.weight$|lora(_linear_layer)?\.(down|up)\.weight$|\.alpha$|_lora\.(down|up)\.weight$"
)


def unet_of_file(path: Path, config: Path, dtype: torch.dtype) -> UNet2DConditionModel:
    """A UNet whose weights are a file of diffusers' names, in eval mode on the CPU. config: the folder of its config.json.

    Names may stand behind `WRAPPERS`. Raises IntegrityError where the file's names or shapes are not those of the config's
    network, InputError where a config beside the file says another network.
    """
    _check_config_beside(path, config)
    state = unwrapped(load_state_dict(path), path)
    with reading(config), torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(config, local_files_only=True)
        )
    compare_keys(state, unet.state_dict(), f"{path}, for the UNet of {config}")
    unet.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    return unet.eval().requires_grad_(False)


def unwrapped(state: StateDict, path: Path) -> StateDict:
    """A network's tensors by its own names, without those of `WRAPPERS` that stand before all of them. path: their file.

    Raises IntegrityError for raw and averaged weights in one file, for a LoRA that is not folded in, and for a whole model
    in the layout of the latent diffusion code.
    """
    if any(".base_layer." in key or "lora_" in key for key in state):
        raise IntegrityError(f"{path}: holds a network and a LoRA that is not folded in, expected one network", WHOLE)
    if any(key.startswith("model.diffusion_model.") for key in state):
        raise IntegrityError(
            f"{path}: names begin with model.diffusion_model., some are missing and some not expected: it is no diffusers UNet",
            f"python -c \"import diffusers as d; d.UNet2DConditionModel.from_single_file('{path}').save_pretrained('unet')\"",
        )
    if all(any(key.startswith(head) for key in state) for head in ("unet.", "unet_ema.")):
        raise IntegrityError(
            f"{path}: holds raw (unet.) and averaged (unet_ema.) weights, expected one of them",
            "save the one that is meant in a file of its own",
        )
    names = {key: key.replace("._orig_mod.", ".") for key in state}  # torch.compile may have wrapped a part
    while head := next((head for head in WRAPPERS if names and all(name.startswith(head) for name in names.values())), None):
        names = {key: name.removeprefix(head) for key, name in names.items()}
    return {name: state[key] for key, name in names.items()}


def _check_config_beside(path: Path, config: Path) -> None:
    """Settings without tensors, such as the number of heads, would be the base's: InputError where a file's own are others."""
    own = path.parent / "config.json"
    if not own.is_file() or not path.name.startswith("diffusion_pytorch_model"):
        return
    found, read = read_json(own), read_json(config / "config.json")
    keys = sorted(key for key in found if not key.startswith("_") and key in read and found[key] != read[key])
    if keys:
        raise InputError(
            f"{own}: {keys[0]} is {found[keys[0]]}, {config} has {read[keys[0]]}; a file alone is read by its base's config",
            f"location: {path.parent}, the folder, in the model's spec",
        )


def read_lora(path: Path, unet_config: Mapping[str, object]) -> tuple[StateDict, LoraSettings]:
    """An adapter of a UNet in peft's names. path: peft's folder, a folder with one *.safetensors, or such a file.

    A layer without an alpha of its own has its rank for one, as in diffusers. Raises PrerequisiteError (no weights),
    IntegrityError (not plain LoRA, or an adapter of a text encoder besides), InputError (peft's file without its config).
    """
    if (path / "adapter_config.json").is_file():
        return load_adapter(path)
    tensors = load_state_dict(path)
    if not any("lora" in key for key in tensors):
        raise IntegrityError(f"{path}: {len(tensors)} tensors, none of a LoRA ({some(sorted(tensors))}), expected an adapter")
    if path.name == "adapter_model.safetensors" or any(key.startswith("base_model.model.") for key in tensors):
        raise InputError(
            f"{path}: peft's layout, whose alpha is in adapter_config.json, expected the folder that holds both",
            f"location: {path.parent if path.is_file() else path}, with adapter_config.json in it",
        )
    if beyond := sorted(key for key in tensors if not _LORA_NAMES.search(key)):
        raise IntegrityError(f"{path}: {len(beyond)} of {len(tensors)} tensors are no plain LoRA's ({some(beyond)})", WHOLE)
    kind = StableDiffusionXLPipeline if unet_config.get("addition_embed_type") else StableDiffusionPipeline
    with reading(path):
        translated, alphas = kind.lora_state_dict(dict(tensors), unet_config=unet_config)
    foreign = sorted(key for key in translated if key.startswith("text_encoder"))
    if foreign:
        raise IntegrityError(f"{path}: {len(foreign)} of {len(translated)} tensors are a text encoder's ({some(foreign)})")
    found = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in translated.items()})
    scales = sum(key.endswith(".alpha") for key in tensors)
    if len(found) + scales != len(tensors):
        raise IntegrityError(f"{path}: diffusers reads {len(found)} of its {len(tensors) - scales} tensors, expected all of them")
    ranks = {adapted_module(key): len(value) for key, value in found.items() if ".lora_A." in key}
    stored = _stored_settings(path)
    if stored is not None:
        return found, stored
    own = _alphas(alphas or {})
    if lost := sorted(own.keys() - ranks.keys()):
        raise IntegrityError(f"{path}: {len(lost)} of its {len(own)} alphas belong to no layer ({some(lost)})")
    return found, LoraSettings(lora_alpha=0.0, alphas={module: own.get(module, float(rank)) for module, rank in ranks.items()})


def _alphas(alphas: Mapping[str, float]) -> dict[str, float]:
    """Module -> alpha, of names as diffusers translates kohya's: a module's, or that of one of its tensors in an old layout."""
    found = {}
    for key, alpha in alphas.items():
        name = key.removeprefix("unet.").removesuffix(".alpha")
        if name.endswith(".weight"):
            name = adapted_module(next(iter(convert_unet_state_dict_to_peft({name: alpha}))))
        found[name] = float(alpha)
    return found


def _stored_settings(path: Path) -> LoraSettings | None:
    """peft's settings as diffusers writes them into the header of the file, where it has."""
    file = path if path.is_file() else sorted(path.glob("*.safetensors"))[0]
    if file.suffix != ".safetensors":
        return None
    with safe_open(file, framework="pt") as opened:
        header = (opened.metadata() or {}).get("lora_adapter_metadata")
    if header is None:
        return None
    with reading(file):
        return lora_settings({key.removeprefix("unet."): value for key, value in json.loads(header).items()}, file)


def fold_into(unet: UNet2DConditionModel, path: Path) -> None:
    """Fold an adapter into a UNet's own weights, layer by layer: in float32, and back to the dtype that the weight has.

    Raises what `read_lora` and `weights.fold_lora` raise.
    """
    adapter, settings = read_lora(path, unet.config)
    weights = unet.state_dict()
    layers: dict[str, StateDict] = {}
    for key, value in adapter.items():
        layers.setdefault(adapted_module(key), {})[key] = value
    if lost := sorted(module for module in layers if f"{module}.weight" not in weights):
        raise IntegrityError(
            f"{path}: {len(lost)} of its {len(layers)} layers have no place in the UNet ({some(lost)})",
            "name the model that it was trained on as its base",
        )
    try:
        for name, tensors in ((f"{module}.weight", tensors) for module, tensors in layers.items()):
            weights[name].copy_(fold_lora({name: weights[name]}, tensors, settings)[name])
    except IntegrityError as error:
        raise IntegrityError(
            f"{path}: does not fit its base: {error.message}", "name the model that it was trained on as its base"
        ) from error
