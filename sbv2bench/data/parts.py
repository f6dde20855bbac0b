"""The parts that a spec names and a chain of folders brings: each has a place in the pipeline, and none is there twice.

A part is a folder of one network, tokenizer or scheduler. What a pipeline's own `model_index.json` leaves out of its own
folder is its author's choice; what a folder above brings for it is meant to be used, or it is refused by name. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sbv2bench.data.assets import read_json
from sbv2bench.data.selection import named_parts
from sbv2bench.errors import InputError
from sbv2bench.specs import ModelSpec

DENOISERS = ("unet", "transformer")
UNETS = ("unet", "unet_ema")  # the second is the official checkpoints' name
ADAPTER = "unet_lora"
INDEX = "model_index.json"
# Parts that replace a pipeline's: a scheduler only of latents, which must not be clamped.
REPLACEABLE = re.compile("unet|transformer|vae|scheduler|text_encoder(_[2-9])?|tokenizer(_[2-9])?")
_NEVER_LOADED = frozenset({"safety_checker", "feature_extractor"})


def index_parts(folder: Path) -> dict[str, list[str]]:
    """Part -> [library, class] of every part that a pipeline folder's index names and has."""
    return named_parts(read_json(folder / INDEX))


def parts_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of every part that lies in a folder, whatever it is called."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and is_part(path)}


def is_part(path: Path) -> bool:
    """Whether a folder is that of a network, a tokenizer or a scheduler."""
    if (path / "scheduler_config.json").is_file() or (path / "tokenizer_config.json").is_file():
        return True
    return bool(_config(path).keys() & {"_class_name", "architectures", "model_type"})


def _config(part: Path) -> dict[str, object]:
    path = part / "config.json"
    return read_json(path) if path.is_file() else {}


def folders_of(part: str) -> tuple[str, ...]:
    """The names of folders in which a part may lie."""
    return UNETS if part == "unet" else (part,)


def supplied_elsewhere(spec: ModelSpec) -> tuple[str, ...]:
    """The folders of networks whose weights are not read of a model, since its spec names others.

    Those of an autoencoder are read: models that name one have always been known by the hashes of both.
    """
    named = [*spec.parts, *([spec.holds] if spec.holds in DENOISERS else [])]
    return tuple(folder for part in named for folder in folders_of(part))


def is_config_alone(part: str) -> bool:
    """Whether a part has no weights: a scheduler or a tokenizer."""
    return part.startswith(("scheduler", "tokenizer"))


def check_parts(folders: Iterable[Path], spec: ModelSpec) -> None:
    """Raises InputError where a part would be passed over in silence. folders: those of the spec's chain, first choice first."""
    folders = tuple(folders)
    pipeline = next((folder for folder in folders if (folder / INDEX).is_file()), None)
    if pipeline is not None:
        kind, parts = read_json(pipeline / INDEX).get("_class_name"), index_parts(pipeline)
        _check_named(spec, pipeline, str(kind), parts)
        for folder in folders[: folders.index(pipeline)]:
            _check_brought(folder, pipeline, str(kind), parts)
    if not set(DENOISERS).intersection(supplied_elsewhere(spec)):
        _check_one_version(folders)
    elif spec.holds == "model" and (folders[0] / ADAPTER).is_dir():
        raise InputError(
            f"{folders[0] / ADAPTER}: would not be used, since {spec.parts['unet']} takes the place of the UNet",
            f"adapters: [{{location: {folders[0] / ADAPTER}}}], in a spec whose location is another folder",
        )


def _check_named(spec: ModelSpec, pipeline: Path, kind: str, parts: Mapping[str, object]) -> None:
    """What a spec names has a place in a pipeline, whose index has these parts."""
    has = f"{pipeline}: {kind} has"
    denoiser = next((name for name in DENOISERS if name in parts), None)
    if spec.holds != "model" and spec.holds not in parts and not (spec.holds == "lora" and denoiser):
        wanted = "UNet or transformer" if spec.holds == "lora" else spec.holds
        raise InputError(
            f"{has} no {wanted} ({', '.join(sorted(parts))}), expected one for holds: {spec.holds}",
            f"holds: {denoiser}, in the model's spec" if denoiser else None,
        )
    for name, location in spec.named_parts().items():
        if name not in parts:
            raise InputError(
                f"{has} no {name} ({', '.join(sorted(parts))}), so {location} would not be used", f"take {name} out of its spec"
            )
        if not REPLACEABLE.fullmatch(name) or (name == "scheduler" and "vae" not in parts):
            raise InputError(f"{has} a {name} that nothing takes the place of, so {location} would not be used")
        if name == spec.holds:
            raise InputError(f"{spec.id}: its location holds a {name}, and parts.{name} is {location}, expected one of them")


def _check_brought(folder: Path, pipeline: Path, kind: str, parts: Mapping[str, object]) -> None:
    """Every part of a folder has a place among those of the pipeline that it is laid over, and can take it."""
    loose = [path.name for path in sorted(folder.glob("*.safetensors"))]
    if loose:
        raise InputError(
            f"{folder}: {loose[0]} lies in no part's folder, so it would not be used",
            "holds: unet, transformer or lora, in the model's spec; or move the file out of the folder",
        )
    brought = parts_in(folder)
    denoiser = next((name for name in DENOISERS if name in parts), "unet")
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
            f"put its network into {denoiser}/, or write holds: {denoiser} in the model's spec",
        )


def _check_one_version(folders: tuple[Path, ...]) -> None:
    """Raw and averaged weights beside each other: whoever names the folder must say which are meant."""
    names = (*UNETS, "transformer", "transformer_ema")
    folder = next((folder for folder in folders if any((folder / name).is_dir() for name in names)), None)
    if folder is None:
        return
    own = next(folder / name for name in names if (folder / name).is_dir())
    part = own.name.removesuffix("_ema")
    kind = _config(own).get("_class_name")
    twins = [folder / name for name in names if (folder / name).is_dir() and folder / name != own]
    twins += [path for name, path in parts_in(folder).items() if _config(path).get("_class_name") == kind and _is_averaged(name)]
    if twins := [path for path in twins if path != own]:
        raise _two_versions(folder, own, twins[0], part)
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
