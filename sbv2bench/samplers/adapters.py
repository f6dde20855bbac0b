"""LoRA adapters of any usual layout, folded into the networks that they are for.

Layouts: peft's folder, and the single files of diffusers, kohya-ss and other trainers, whose names the pipeline's own class
translates (`lora_state_dict`). What a translation leaves out in silence is found here and refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import safe_open
from torch import Tensor

from sbv2bench.data.adapter_config import WHOLE, LoraSettings, lora_settings
from sbv2bench.data.parts import DENOISERS
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.schedulers import reading
from sbv2bench.weights import StateDict, adapted_module, fold_lora, load_adapter, load_state_dict, some

# A plain LoRA's names in the layouts of peft, diffusers (new and old), kohya-ss and XLabs: a layer and a side of it, or an alpha.
_LORA = re.compile(
    r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer|(?P<which>[12]))?[._](?P<side>A|B|down|up)(?:\.default)?\.weight|(?:_lora)?\.alpha)$"
)
_FIRST = ("A", "down")  # the side that is applied first
_PEFT = "base_model.model."
_OF_THIS_PIPELINE = "name an adapter of this pipeline, or the base that it was trained on"
_AUTHORS_NAMES = re.compile(re.escape(_PEFT) + r"(double|single)_blocks\.")  # FLUX's, which a trainer of it writes behind peft's


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one network. tensors: in peft's names; scale: what multiplies it; path: for messages."""

    path: Path
    tensors: StateDict
    settings: LoraSettings
    scale: float = 1.0

    def layers(self) -> dict[str, StateDict]:
        """Layer of the network -> the adapter's tensors of it."""
        found: dict[str, StateDict] = {}
        for key, value in self.tensors.items():
            found.setdefault(adapted_module(key), {})[key] = value
        return found


@dataclass(frozen=True)
class Target:
    """What adapters are folded into. pipeline: its class. parts: its denoiser's name, and those of its text encoders.

    config: of the denoiser, by which the block numbers of SDXL's authors are translated.
    """

    pipeline: type[Any]
    parts: tuple[str, ...]
    config: Mapping[str, object]

    @property
    def denoiser(self) -> str:
        return next(part for part in self.parts if part in DENOISERS)


def read_adapter(path: Path, target: Target, scale: float = 1.0) -> dict[str, Update]:
    """Part of a pipeline -> what an adapter adds to it. path: peft's folder, a folder with one *.safetensors, or such a file.

    A layer without an alpha of its own has its rank for one, as in diffusers. Raises PrerequisiteError (no weights),
    IntegrityError (not plain LoRA), InputError (peft's file without its config, or names that the pipeline's class cannot read).
    """
    if (path / "adapter_config.json").is_file():
        return {target.denoiser: Update(path, *load_adapter(path), scale)}
    tensors = load_state_dict(path)
    if not any("lora" in key for key in tensors):
        raise IntegrityError(f"{path}: {len(tensors)} tensors, none of a LoRA ({some(sorted(tensors))}), expected an adapter")
    behind = [key for key in tensors if key.startswith(_PEFT)]
    if path.name == "adapter_model.safetensors" or (behind and not any(map(_AUTHORS_NAMES.match, behind))):
        raise InputError(
            f"{path}: peft's layout, whose alpha is in adapter_config.json, expected the folder that holds both",
            f"location: {path.parent if path.is_file() else path}, with adapter_config.json in it",
        )
    if beyond := sorted(key for key in tensors if not _LORA.match(key)):
        raise IntegrityError(f"{path}: {len(beyond)} of {len(tensors)} tensors are no plain LoRA's ({some(beyond)})", WHOLE)
    _check_all_is_read(tensors, target, path)
    # In float32, since alphas may be multiplied into the tensors.
    parts = _translated({key: value.to(torch.float32) for key, value in tensors.items()}, target, path)
    header = _header(path)
    return {
        part: Update(path, found, _settings(found, alphas, header, part, path), scale) for part, (found, alphas) in parts.items()
    }


def _translated(tensors: StateDict, target: Target, path: Path) -> dict[str, tuple[StateDict, StateDict]]:
    """Part -> (its tensors in peft's names, its alphas by layer), as the pipeline's class and diffusers translate them.

    A name that begins with no part's is the denoiser's.
    """
    try:
        state: StateDict = dict(tensors)
        if hasattr(target.pipeline, "lora_state_dict"):
            found = target.pipeline.lora_state_dict(state, unet_config=FrozenDict(target.config), return_alphas=True)
            state = {**found[0], **(found[1] or {})} if isinstance(found, tuple) else found
        of_parts: dict[str, StateDict] = {}
        for key, value in state.items():
            head, _, rest = key.partition(".")
            part, name = (head, rest) if head in target.parts else (target.denoiser, key)
            of_parts.setdefault(part, {})[name] = value
        named = {part: _in_pefts_names(own, part) for part, own in of_parts.items()}
        for key in (key for own in named.values() for key in own if not key.endswith(".alpha")):
            adapted_module(key)
    except Exception as error:  # whatever a translation meets in names that it does not know
        first = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"{path}: {target.pipeline.__name__} cannot read this adapter ({some(sorted(tensors)[:1])}): {first}",
            _OF_THIS_PIPELINE,
        ) from error
    return {
        part: (
            {key: value for key, value in own.items() if not key.endswith(".alpha")},
            {_layer(key): value for key, value in own.items() if key.endswith(".alpha")},
        )
        for part, own in named.items()
    }


def _in_pefts_names(state: StateDict, part: str) -> StateDict:
    """As diffusers names the layers of a network of its own (loaders/peft.py), and of a text encoder (loaders/lora_base.py)."""
    if part in DENOISERS:
        return dict(convert_unet_state_dict_to_peft(state))
    return dict(convert_state_dict_to_peft(convert_state_dict_to_diffusers(state)))


def _layer(alpha: str) -> str:
    """The layer of an alpha, whose name holds a layer's, or in an old layout that of one of its tensors."""
    name = alpha.removesuffix(".alpha")
    return adapted_module(name) if ".lora_" in name else name


def _check_all_is_read(tensors: StateDict, target: Target, path: Path) -> None:
    """Raises InputError for layers, or alphas of them, that a translation leaves out: it may drop names without a word.

    It is tried on tensors of the same names and shapes, of which each layer's first side holds a number of its own; an alpha of
    twice the rank doubles that number, or is given back.
    """
    matches = {key: match for key in tensors if (match := _LORA.match(key))}
    layers = {key: match["layer"] + (match["which"] or "") for key, match in matches.items()}
    numbers = {layer: 2.0 * count + 3 for count, layer in enumerate(dict.fromkeys(layers.values()))}
    first = {layers[key]: key for key, match in matches.items() if match["side"] in _FIRST}
    trial: StateDict = {}
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            trial[key] = torch.tensor(2.0 * len(tensors[first[layers[key]]]) if layers[key] in first else 1.0)
        else:
            trial[key] = torch.full(value.shape, numbers[layers[key]] if first.get(layers[key]) == key else 1.0)
    parts = _translated(trial, target, path).values()
    seen = {number for own, _ in parts for value in own.values() for number in value.flatten(1)[:, 0].unique().tolist()}
    left_out = f"{path}: {target.pipeline.__name__} would leave out"
    if lost := sorted(layer for layer, number in numbers.items() if not {number, 2 * number} & seen):
        raise InputError(f"{left_out} {len(lost)} of its {len(numbers)} layers ({some(lost)})", _OF_THIS_PIPELINE)
    own_alphas = sorted(key for key in trial if key.endswith(".alpha") and 2 * numbers[layers[key]] not in seen)
    if len(own_alphas) > sum(len(alphas) for _, alphas in parts):
        raise InputError(f"{left_out} alphas of its layers ({some(own_alphas)})", _OF_THIS_PIPELINE)


def _settings(tensors: StateDict, alphas: StateDict, header: Mapping[str, object], part: str, path: Path) -> LoraSettings:
    """How one part's tensors are scaled: as the file's header says, where it does, else by their alphas."""
    stored = {key.removeprefix(f"{part}."): value for key, value in header.items() if key.startswith(f"{part}.")}
    if not stored and "lora_alpha" in header and part in DENOISERS:  # as a network's own method writes it
        stored = dict(header)
    if stored and alphas:
        raise IntegrityError(f"{path}: says twice how it is scaled, in its header and in {len(alphas)} alphas")
    if stored:
        return lora_settings(stored, path)
    ranks = {adapted_module(key): len(value) for key, value in tensors.items() if ".lora_A." in key}
    if lost := sorted(alphas.keys() - ranks.keys()):
        raise IntegrityError(f"{path}: {len(lost)} of its {len(alphas)} alphas belong to no layer ({some(lost)})")
    scales = {layer: float(alphas.get(layer, torch.tensor(rank))) for layer, rank in ranks.items()}
    return LoraSettings(lora_alpha=0.0, alphas=scales)


def _header(path: Path) -> dict[str, object]:
    """peft's settings as diffusers writes them into the header of a file, with the part before each key."""
    file = path if path.is_file() else sorted(path.glob("*.safetensors"))[0]
    if file.suffix != ".safetensors":
        return {}
    with reading(file), safe_open(file, framework="pt") as opened:
        return dict(json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}")))


def fold_into(network: torch.nn.Module, updates: Iterable[Update], base: Path) -> None:
    """Fold adapters into a network's own weights, one after another: in float32, and once back to the dtype that a weight has.

    base: the network's place, for messages. Raises InputError where an adapter is one of another network.
    """
    weights = network.state_dict()
    layers: dict[str, list[tuple[Update, str, StateDict]]] = {}
    for update in updates:
        own = update.layers()
        places = {layer: _place(layer, weights) for layer in own}
        what = f"{update.path}: an adapter of another network than the {type(network).__name__} of {base}"
        fix = "name the model that it was trained on as its base"
        if lost := sorted(layer for layer, place in places.items() if not place):
            raise InputError(f"{what}: {len(lost)} of its {len(own)} layers have no place there ({some(lost)})", fix)
        for layer, tensors in own.items():
            if (shape := _adapted_shape(tensors)) not in (None, tuple(weights[places[layer]].shape)):
                raise InputError(f"{what}: {layer} is of a weight {shape}, found {tuple(weights[places[layer]].shape)}", fix)
            layers.setdefault(places[layer], []).append((update, layer, tensors))
    for place, found in layers.items():
        weight = weights[place]
        for update, layer, tensors in found:
            try:
                weight = fold_lora({f"{layer}.weight": weight}, tensors, update.settings, update.scale)[f"{layer}.weight"]
            except IntegrityError as error:
                raise IntegrityError(f"{update.path}: does not fit its base {base}: {error.message}") from error
        weights[place].copy_(weight)


def _place(layer: str, weights: Mapping[str, Tensor]) -> str:
    """The name of the weight of a layer, "" where there is none. Older releases of transformers name a level of CLIP more."""
    names = (f"{layer}.weight", f"{layer.removeprefix('text_model.')}.weight")
    return next((name for name in names if name in weights), "")


def _adapted_shape(tensors: StateDict) -> tuple[int, ...] | None:
    """The shape of the weight that a layer's tensors are made for, None where one is missing."""
    a, b = (next((value for key, value in tensors.items() if f".{side}." in key), None) for side in ("lora_A", "lora_B"))
    return None if a is None or b is None else (b.shape[0], *a.shape[1:])
