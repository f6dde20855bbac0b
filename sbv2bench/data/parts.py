"""The parts that a chain of folders brings: each has a place in the pipeline, and none is there twice. No torch here.

A part is a folder of one network, tokenizer or scheduler. What a pipeline's own `model_index.json` leaves out of its own
folder is its author's choice; what a folder above brings for it is meant to be used, or it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError

UNETS = ("unet", "unet_ema")  # the second is the official checkpoints' name
ADAPTER = "unet_lora"
INDEX = "model_index.json"
# Parts that replace a pipeline's: a scheduler only of latents, which must not be clamped.
REPLACEABLE = re.compile("unet|vae|scheduler|text_encoder(_[2-9])?|tokenizer(_[2-9])?")
_NEVER_LOADED = frozenset({"safety_checker", "feature_extractor"})


def index_parts(folder: Path) -> dict[str, list[str]]:
    """Part -> [library, class] of every part that a pipeline folder's index names and has."""
    return {
        name: part
        for name, part in read_json(folder / INDEX).items()
        if not name.startswith("_") and isinstance(part, list) and part[:1] not in ([], [None])
    }


def parts_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of every part that lies in a folder, whatever it is called."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _is_part(path)}


def _is_part(path: Path) -> bool:
    if (path / "scheduler_config.json").is_file() or (path / "tokenizer_config.json").is_file():
        return True
    return bool(_config(path).keys() & {"_class_name", "architectures", "model_type"})


def _config(part: Path) -> dict[str, object]:
    path = part / "config.json"
    return read_json(path) if path.is_file() else {}


def check_parts(folders: Iterable[Path], holds: str = "model") -> None:
    """Raises InputError where a part would be passed over in silence. folders: those of a chain, first choice first.

    holds: what the model's own location is: unet, lora (of a UNet), else the first of the folders.
    """
    folders = tuple(folders)
    pipeline = next((folder for folder in folders if (folder / INDEX).is_file()), None)
    if pipeline is not None:
        kind, parts = read_json(pipeline / INDEX).get("_class_name"), index_parts(pipeline)
        if holds != "model" and "unet" not in parts:
            raise InputError(f"{pipeline}: {kind} has no UNet ({', '.join(sorted(parts))}), expected one for holds: {holds}")
        for folder in folders[: folders.index(pipeline)]:
            _check_brought(folder, pipeline, str(kind), parts)
    if holds != "unet":
        _check_one_version(folders)


def _check_brought(folder: Path, pipeline: Path, kind: str, parts: Mapping[str, object]) -> None:
    """Every part of a folder has a place among those of the pipeline that it is laid over, and can take it."""
    loose = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if loose:
        raise InputError(
            f"{folder}: {loose[0]} lies in no part's folder, so it would not be used",
            "holds: unet, or holds: lora, in the model's spec; or move the file out of the folder",
        )
    brought = parts_in(folder)
    places = {*UNETS, ADAPTER} if "unet" in parts else set()
    for name in sorted(brought.keys() - _NEVER_LOADED - places):
        if name not in parts:
            raise InputError(
                f"{folder / name}: {kind} of its base {pipeline} has no {name}, so it would not be used",
                f"name a base that has a {name}, or move {name}/ out of the folder",
            )
        if not REPLACEABLE.fullmatch(name) or (name == "scheduler" and "vae" not in parts):
            raise InputError(
                f"{folder / name}: a {name} alone cannot take the place of its base's, expected a whole {kind}",
                f"copy {name}/ into a copy of the pipeline's folder ({pipeline}), and name that folder as the model",
            )
    used = any((folder / name).is_dir() for name in places | parts.keys())
    if not used and any(folder.rglob("*.safetensors")):  # a folder without any is refused by `hash_weights`
        raise InputError(
            f"{folder}: holds none of {', '.join(sorted(parts))}, so only its base {pipeline} would be used",
            "put its network into unet/, or write holds: unet in the model's spec",
        )


def _check_one_version(folders: tuple[Path, ...]) -> None:
    """Raw and averaged weights beside each other: whoever names the folder must say which are meant."""
    names = (*UNETS, "transformer", "transformer_ema")
    folder = next((folder for folder in folders if any((folder / name).is_dir() for name in names)), None)
    if folder is None:
        return
    own = next(folder / name for name in names if (folder / name).is_dir())
    kind = _config(own).get("_class_name")
    twins = [folder / name for name in names if (folder / name).is_dir() and folder / name != own]
    twins += [path for name, path in parts_in(folder).items() if _config(path).get("_class_name") == kind and _is_averaged(name)]
    if twins := [path for path in twins if path != own]:
        raise _two_versions(folder, own, twins[0], "unet" if own.name in UNETS else "")
    check_one_file(own)


def check_one_file(part: Path) -> None:
    """Raises InputError where a network's folder has raw and averaged weights in files beside each other."""
    files = sorted(part.glob("*.safetensors"))
    averaged = [file for file in files if _is_averaged(file.stem)]
    raw = [file for file in files if file not in averaged]
    if averaged and raw:
        raise _two_versions(part, raw[0], averaged[0], "")


def _two_versions(folder: Path, one: Path, other: Path, holds: str) -> InputError:
    fix = "move the one that is not meant out of the folder"
    if holds:
        fix += f", or declare it in a catalog: {{location: {other}, holds: {holds}, base: {folder}, ...}}"
    return InputError(
        f"{folder}: found raw and averaged weights side by side, {one.name} and {other.name}, expected one of them", fix
    )


def _is_averaged(name: str) -> bool:
    """Whether a name says that it is an average beside others: unet_ema, x.ema; x.non_ema says that x is the average."""
    words = re.split(r"[^a-z]+", name.lower())
    return "ema" in words and "non" not in words
