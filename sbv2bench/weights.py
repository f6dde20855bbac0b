"""Network weights as dictionaries: read and checked, compared, folded with LoRA, merged.

The trainer's `merge` and the catalog's merged models call the same two functions, `fold_lora` and `interpolate`.
A state dict maps a parameter's name to a CPU tensor; nothing here changes its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sbv2bench.data.adapter_config import LoraSettings, lora_settings
from sbv2bench.data.assets import ALLOW_PICKLE, PICKLES, pickles_allowed, read_json
from sbv2bench.errors import IntegrityError, PrerequisiteError

StateDict = dict[str, Tensor]
COPY_AGAIN = "copy or download the file again"
_SHOWN = 3  # names in an error message


def load_state_dict(path: Path, known: bool = False) -> StateDict:
    """Every tensor of a weights file, or of the (possibly sharded) weights in a folder: name -> CPU tensor as stored.

    Raises PrerequisiteError where there are none, IntegrityError for a broken file, and for a pickle unless
    SBV2BENCH_ALLOW_PICKLE=1 or the caller has proved by its hash that the file is a well-known one. Pickles are read with
    weights_only=True in any case.
    """
    if not path.exists():
        raise PrerequisiteError(f"{path}: weights file not found")
    if path.is_dir():
        return _load_folder(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return _load_pickle(path, known)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError, ValueError, OSError) as error:
        raise IntegrityError(f"{path}: not a whole weights file ({_first_line(error)})", COPY_AGAIN) from error


def _load_folder(folder: Path) -> StateDict:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = sorted(folder.glob("*.safetensors")) or sorted(x for x in folder.iterdir() if x.suffix in PICKLES)
    if not files:
        raise PrerequisiteError(f"{folder}: no weights found, expected *.safetensors")
    files = [file for file in files if "." not in file.stem] or files  # model.fp16.safetensors is a variant of model.safetensors
    if indices:
        files = [folder / name for name in sorted(set(read_json(indices[0])["weight_map"].values()))]
    elif len(files) > 1:
        names = ", ".join(file.name for file in files[:_SHOWN])
        raise IntegrityError(
            f"{folder}: {len(files)} weights files ({names}), expected one, or a *.safetensors.index.json that lists them"
        )
    state: StateDict = {}
    for file in files:
        state |= load_state_dict(file)
    return state


def _load_pickle(path: Path, known: bool) -> StateDict:
    if not (known or pickles_allowed()):
        raise IntegrityError(
            f"{path}: found pickled weights, expected *.safetensors; reading a pickle can run any code that is in it",
            f"convert it to safetensors, or set {ALLOW_PICKLE}=1 if you trust its author",
        )
    content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise IntegrityError(f"{path}: found {type(content).__name__}, expected a dictionary of tensors")
    return content


def compare_keys(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises IntegrityError unless both have the same names and shapes; what: whose weights these are, for the message."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    reshaped = [
        f"{key} {list(found[key].shape)} for {list(expected[key].shape)}"
        for key in sorted(found.keys() & expected.keys())
        if found[key].shape != expected[key].shape
    ]
    kinds = {"missing": missing, "not expected": extra, "of another shape": reshaped}
    if parts := [f"{len(names)} {kind} ({some(names)})" for kind, names in kinds.items() if names]:
        raise IntegrityError(f"{what}: {len(expected)} tensors expected; " + "; ".join(parts))


def some(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def interpolate(a: Mapping[str, Tensor], b: Mapping[str, Tensor], weight: float) -> StateDict:
    """weight a + (1 - weight) b over the whole state dict (SwiftBrush v2, equation 6).

    Between the ends: floating tensors in float32 (float64 where they are), integer buffers copied from a. At weight 1 a
    bitwise copy of a, at 0 of b, dtypes included. Raises IntegrityError where names, shapes or kinds of numbers differ.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight: found {weight}, expected 0 to 1")
    compare_keys(b, a, "merge: the second model beside the first")
    mixed = sorted(key for key in a if a[key].is_floating_point() != b[key].is_floating_point())
    if mixed:
        raise IntegrityError(f"merge: {len(mixed)} tensors are floating in one model and integer in the other ({some(mixed)})")
    if weight in {0.0, 1.0}:
        return {key: value.clone() for key, value in (a if weight == 1.0 else b).items()}
    return {key: _mix(a[key], b[key], weight) for key in a}


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Raises IntegrityError naming the first tensor with numbers that are not finite, and how many. what: whose they are."""
    key = first_not_finite(weights)
    if key is not None:
        wrong, of = int((~_float32(weights[key]).isfinite()).sum()), weights[key].numel()
        raise IntegrityError(f"merge: {key} of {what}: {wrong:,} of its {of:,} numbers are not finite")


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first floating tensor that holds an infinity or a NaN.

    A sum is finite only if all its terms are, and costs a tenth of a look at each; one that is not may have overflowed.
    """
    for key, value in weights.items():
        if value.is_floating_point() and not _float32(value).sum().isfinite() and not _float32(value).isfinite().all():
            return key
    return None


def _mix(a: Tensor, b: Tensor, weight: float) -> Tensor:
    if not a.is_floating_point():
        return a.clone()
    return weight * _float32(a) + (1.0 - weight) * _float32(b)


def _float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def load_adapter(folder: Path) -> tuple[StateDict, LoraSettings]:
    """A LoRA adapter in peft's layout: adapter_model.safetensors and adapter_config.json.

    Raises PrerequisiteError where a file is missing, IntegrityError for kinds of adapter that `fold_lora` cannot fold.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise PrerequisiteError(f"{path}: not found, expected an adapter in peft's layout")
    return load_state_dict(folder / "adapter_model.safetensors"), lora_settings(read_json(path), path)


def fold_lora(
    weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], settings: LoraSettings, weight: float = 1.0
) -> StateDict:
    """W + scale B A for every module that the adapter names; linear and convolution layers. All floating tensors in float32.

    adapter: peft's names, with or without its "base_model.model." or diffusers' "unet." in front, `lora_A` [r, in, ...]
    and `lora_B` [out, r, ...]. Scale: weight alpha / r (Hu et al. 2021, section 4.1). Raises IntegrityError on a tensor
    that has no place.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, value in adapter.items():
        module, side = _lora_place(key)
        if f"{module}.weight" not in weights:
            raise IntegrityError(f"adapter: {key} has no place, the network has no {module}.weight")
        pairs.setdefault(module, {})[side] = value.to(torch.float32)
    folded = {key: _float32(value).clone() if value.is_floating_point() else value.clone() for key, value in weights.items()}
    for module, pair in pairs.items():
        if pair.keys() != {"lora_A", "lora_B"}:
            raise IntegrityError(f"adapter: {module} has only {next(iter(pair))}, expected lora_A and lora_B")
        a, b = pair["lora_A"], pair["lora_B"]
        base = folded[f"{module}.weight"]
        if a.ndim != base.ndim or b.shape[:2] != (base.shape[0], a.shape[0]) or a.shape[1:] != base.shape[1:]:
            shapes = f"lora_A {list(a.shape)} and lora_B {list(b.shape)} on a weight {list(base.shape)}"
            raise IntegrityError(f"adapter: {module} has {shapes}")
        if (rank := settings.rank(module)) not in {None, len(a)}:
            raise IntegrityError(f"adapter: {module} has rank {len(a)}, expected {rank}, which its config says")
        scale = weight * settings.scale(module, len(a))
        folded[f"{module}.weight"] = base + scale * torch.einsum("or,r...->o...", b.flatten(1), a)
    return folded


def adapted_module(key: str) -> str:
    """The module that a tensor of an adapter in peft's names belongs to. Raises IntegrityError for other names."""
    return _lora_place(key)[0]


def _lora_place(key: str) -> tuple[str, str]:
    """A tensor of an adapter -> (module it belongs to, "lora_A" or "lora_B")."""
    for side in ("lora_A", "lora_B"):
        module, found, rest = key.partition(f".{side}.")
        if found and rest in {"weight", "default.weight"}:
            return module.removeprefix("base_model.model.").removeprefix("unet."), side
    raise IntegrityError(f"adapter: found a tensor {key}, expected names that end in lora_A.weight or lora_B.weight")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
