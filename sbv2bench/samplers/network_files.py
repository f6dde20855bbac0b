"""A network whose weights are one file: read as a folder of its own, with the config that its base has for that part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from sbv2bench.data.adapter_config import WHOLE
from sbv2bench.data.assets import read_json
from sbv2bench.data.single_file import shapes
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.weights import load_state_dict

if TYPE_CHECKING:
    from diffusers import ModelMixin

# What training programs put before a network's names, besides its part's own: accelerate and DDP, torch.compile, peft.
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
_STEMS = {True: "diffusion_pytorch_model", False: "model"}  # as diffusers and transformers name weights


@contextmanager
def as_folder(file: Path, config: Path, part: str) -> Iterator[Path]:
    """A folder of a part whose weights are a file with a library's names, for as long as it is read. config: its config's folder.

    The names may stand behind the part's own, or behind `WRAPPERS`. What is raised within of the folder is said of the file.
    Raises IntegrityError for raw and averaged weights in one file and a LoRA that is not folded in, InputError where a config
    beside the file says another network.
    """
    _check_config_beside(file, config)
    with tempfile.TemporaryDirectory() as made:
        link = Path(made, f"{_STEMS[not part.startswith('text_encoder')]}.safetensors")
        Path(made, "config.json").symlink_to((config / "config.json").resolve())
        if file.suffix == ".safetensors" and not renamed(shapes(file), part, file):
            link.symlink_to(file.resolve())
        else:
            state = load_state_dict(file)
            names = renamed(state, part, file)
            whole = {names.get(key, key): value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
            save_file(whole, link, {"format": "pt"})
        try:
            yield Path(made)
        except IntegrityError as error:
            raise IntegrityError(error.message.replace(made, str(file)), error.fix) from error


def renamed(keys: Iterable[str], part: str, file: Path) -> dict[str, str]:
    """Key -> name in the network of its own, where they differ: without what stands before all of them. file: theirs.

    Raises IntegrityError for raw and averaged weights, and for a LoRA that is not folded in.
    """
    keys = list(keys)
    if any(".base_layer." in key or "lora_" in key for key in keys):
        raise IntegrityError(f"{file}: holds a network and a LoRA that is not folded in, expected one network", WHOLE)
    own = (f"{part}_ema.", f"{part}.")
    if all(any(key.startswith(head) for key in keys) for head in own):
        raise IntegrityError(
            f"{file}: holds raw ({own[1]}) and averaged ({own[0]}) weights, expected one of them",
            "save the one that is meant in a file of its own",
        )
    names = {key: key.replace("._orig_mod.", ".") for key in keys}  # torch.compile may have wrapped a part
    heads = (*own, *WRAPPERS)
    while head := next((head for head in heads if names and all(name.startswith(head) for name in names.values())), None):
        names = {key: name.removeprefix(head) for key, name in names.items()}
    return {key: name for key, name in names.items() if key != name}


def translated(kind: type[ModelMixin], file: Path, config: Path, dtype: torch.dtype) -> ModelMixin | None:
    """A network whose file has the names of its authors' code, which diffusers translates; None where it cannot.

    The file may hold the networks of a whole model, of which the others are passed over.
    """
    if not hasattr(kind, "from_single_file"):
        return None
    try:
        network: ModelMixin = kind.from_single_file(str(file), config=str(config), torch_dtype=dtype, local_files_only=True)
    except Exception:  # whatever a translation meets in names that it does not know
        return None
    state = network.state_dict()
    if any(value.is_meta for value in state.values()) or state.keys() <= shapes(file).keys():
        return None  # names are missing, or nothing was to be translated
    return network.eval().requires_grad_(False)


def _check_config_beside(path: Path, config: Path) -> None:
    """Settings without tensors, such as the number of heads, would be the base's: InputError where a file's own are others."""
    own = path.parent / "config.json"
    if not own.is_file() or not path.name.startswith(tuple(_STEMS.values())):
        return
    found, read = read_json(own), read_json(config / "config.json")
    keys = sorted(key for key in found if not key.startswith("_") and key in read and found[key] != read[key])
    if keys:
        raise InputError(
            f"{own}: {keys[0]} is {found[keys[0]]}, {config} has {read[keys[0]]}; a file alone is read by its base's config",
            f"location: {path.parent}, the folder, in the model's spec",
        )
