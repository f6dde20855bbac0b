"""The files of models: where they are, whether they are whole, and what their bytes are. No torch here.

All of this runs before the first forward pass, so that a missing, broken or pickled weight costs a second.
"""

from __future__ import annotations

import json
import os
import shlex
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sbv2bench import paths
from sbv2bench.data.digests import file_digest
from sbv2bench.data.selection import Selection, networks, select
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.specs import AssetSpec, WeightsFile

PACKAGE, HUB, HOME, ASSET = "package:", "hub:", "home:", "asset:"
NAMED = (PACKAGE, HUB, HOME, ASSET)  # locations that mean the same wherever they are written
PICKLES = frozenset({".bin", ".pt", ".ckpt", ".pth", ".pkl"})
# Besides weights, every file that decides what a network computes: configs, schedulers, tokenizers.
TOKENIZER_FILES = frozenset({"merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"})
NOT_CONFIGS = frozenset({"sbv2bench.json", "manifest.json", "merge.json", "training.json"})
ALLOW_PICKLE = "SBV2BENCH_ALLOW_PICKLE"
COPY_WHOLE = "copy or download the whole model"
COPY_AGAIN = "copy or download the file again"
NOT_QUANTISED = "name the model's own repository or file, in which its weights are not quantised"
REINSTALL = "in a clone of sbv2bench: pip install --force-reinstall --no-deps ."


def pickles_allowed() -> bool:
    """Whether the user said that pickled weights may be read."""
    return os.environ.get(ALLOW_PICKLE) == "1"


def offline() -> bool:
    """Whether the network must not be asked."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in ("HF_HUB_OFFLINE", "SBV2BENCH_OFFLINE"))


def online() -> str:
    """What to type before a command that fetches, where this process must not."""
    return "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 " if offline() else ""


def resolve_location(
    location: str,
    revision: str | None = None,
    files: tuple[str, ...] = (),
    assets: Mapping[str, AssetSpec] | None = None,
    local_only: bool = False,
    *,
    dtype: str | None = None,
    unused: Collection[str] = (),
    configs_only: bool = False,
    part: str = "",
) -> Path:
    """The folder or file that a location names.

    `package:mini/sd21`, `package:catalog/a-list.txt`, `hub:org/name`, `hub:org/name@revision`, `hub:org/name/a/file`,
    `home:name` (in $SBV2BENCH_HOME/models), `asset:name`, or a path. revision: of a hub location that names none itself.
    assets: the declared downloads, by default the built-in ones; an asset's files are verified, and never fetched here.
    local_only: do not ask the hub either. Of a hub repository only what is read is fetched: the files, where some are named;
    for a run in dtype, without the weights of the networks in unused, or without any (configs_only), or for one part of its
    pipeline alone.
    Raises PrerequisiteError where shipped, hub, home or downloaded files are not on this machine, IntegrityError where an
    asset's bytes are not what they must be, InputError where a path does not exist.
    """
    check_not_gguf(location)
    if location.startswith(PACKAGE):
        return _package_folder(location)
    if location.startswith(HUB):
        from sbv2bench.data import hub

        repository, file, revision = hub.parts(location, revision)
        if file:
            return hub.hub_file(repository, file, revision, local_only=local_only)
        return hub.hub_folder(
            repository, revision, files, local_only=local_only, dtype=dtype, unused=unused, configs_only=configs_only, part=part
        )
    if location.startswith(HOME):
        path = home_place(location)
        if not path.exists():
            fix = f"mkdir -p '{path.parent}' && cp -r YOUR_COPY '{path}'"
            raise PrerequisiteError(f"{location}: not on this machine, and no hub has it; put its weights at {path}", fix)
        return path
    if location.startswith(ASSET):
        from sbv2bench.data import asset_store

        return asset_store.located(asset_store.declared(location.removeprefix(ASSET), assets))
    path = paths.as_typed(location)
    if not location or not path.exists():
        raise InputError(f"model folder: {location!r} does not exist, expected a folder, package:mini/NAME or hub:ORG/NAME")
    return path


def check_not_gguf(location: str, head: bytes = b"") -> None:
    """Raises InputError for a location of quantised weights in llama.cpp's format. head: what the file begins with."""
    if location.lower().endswith(".gguf") or head.startswith(b"GGUF"):
        raise InputError(f"{location}: quantised weights (GGUF), expected *.safetensors", NOT_QUANTISED)


def _package_folder(location: str) -> Path:
    family, _, name = location.removeprefix(PACKAGE).partition("/")
    if family == "catalog" and name == Path(name).name and (paths.package_captions() / name).exists():
        return paths.package_captions() / name
    if family != "mini" or not name or ".." in Path(name).parts:
        raise InputError(f"location: found {location!r}, expected package:mini/NAME")
    folder = paths.package_weights() / name
    if not folder.is_dir():
        raise PrerequisiteError(
            f"{location}: this installation has no such weights, expected the folder mini/weights/{name}", REINSTALL
        )
    return folder


def home_place(location: str) -> Path:
    """Where the folder or file of a home: location lies, or would. Raises InputError where it is not home:NAME."""
    name = location.removeprefix(HOME)
    if not name or ".." in Path(name).parts or Path(name).is_absolute():
        raise InputError(f"location: found {location!r}, expected home:NAME")
    return paths.models_dir() / name


def pickled(where: Path | str) -> IntegrityError:
    return IntegrityError(
        f"{where}: found pickled weights, expected *.safetensors; reading a pickle can run any code that is in it",
        f"convert it to safetensors, or set {ALLOW_PICKLE}=1 if you trust its author",
    )


def hash_file(path: Path) -> WeightsFile:
    """One weights file, or a scheduler's config, and its SHA-256. Raises IntegrityError where it is broken or pickled."""
    if path.suffix == ".safetensors":
        _check_whole(path)
    elif path.name == "scheduler_config.json":
        _check_json(path)
    elif path.suffix in PICKLES and not pickles_allowed():
        raise pickled(path)
    elif path.suffix not in PICKLES:
        raise InputError(f"{path}: expected a weights file, *.safetensors")
    return WeightsFile(path=path.name, sha256=file_digest(path))


def hash_weights(folder: Path, dtype: str = "float32", unused: Collection[str] = ()) -> tuple[WeightsFile, ...]:
    """Every file of a model that decides its output (safetensors, configs, tokenizers), sorted, with its SHA-256.

    dtype, unused: as in `select`: what is not read is not hashed. Also proves what can be proved without loading: safetensors
    files are whole, no network's only weights are pickles, every network of a diffusers folder has weights, and shipped
    weights are the bytes that were shipped.
    Raises InputError (not a folder), PrerequisiteError (weights missing), IntegrityError (broken, pickled or changed).
    """
    if not folder.is_dir():
        raise InputError(f"model folder: {folder} is not a folder")
    read = selection_in(folder, dtype, unused)
    kept = sorted([*read.weights, *(name for name in read.configs if _is_config(Path(name)))], key=lambda name: Path(name).parts)
    for name in kept:
        if name.endswith(".safetensors"):
            _check_whole(folder / name)
        elif name.endswith(".json"):
            _check_json(folder / name)
    if read.pickled:
        raise pickled(folder / read.pickled[0])
    if read.cut:
        raise PrerequisiteError(f"{folder}: its weights are not whole: {read.cut[0]}", again(folder, COPY_WHOLE))
    _check_components(folder, read, unused)
    if not read.weights and not unused:  # whose networks may be all that it has: the rest is its own base's
        raise _no_weights(folder)
    hashed = tuple(WeightsFile(path=name, sha256=file_digest(folder / name)) for name in kept)
    if folder.resolve().is_relative_to(paths.package_weights().resolve()):
        _check_manifest(folder, hashed)
    return hashed


def _no_weights(folder: Path, fix: str | None = None) -> PrerequisiteError:
    """The error over a folder without weights of a network; raises InputError where they are GGUF."""
    for path in sorted(folder.iterdir()):
        check_not_gguf(str(path))
    return PrerequisiteError(f"{folder}: no weights found, expected *.safetensors", fix)


def hash_configs(folder: Path) -> tuple[WeightsFile, ...]:
    """Configs and tokenizers alone, for weights that lie elsewhere, as `hash_weights` has them. Raises IntegrityError."""
    kept = [name for name in selection_in(folder).configs if _is_config(Path(name))]
    for name in kept:
        if name.endswith(".json"):
            _check_json(folder / name)
    return tuple(WeightsFile(path=name, sha256=file_digest(folder / name)) for name in kept)


def selection_in(folder: Path, dtype: str = "float32", unused: Collection[str] = ()) -> Selection:
    """Which files of a model's folder are read, as `select` says. Raises IntegrityError where its model_index.json is broken."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder)]
    return select(names, dtype, model_index(folder), unused=unused, pickles=pickles_allowed())


def model_index(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's model_index.json; None where it has none. Raises IntegrityError where it is no JSON object."""
    path = folder / "model_index.json"
    return read_json(path) if path.is_file() else None


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_config(path: Path) -> bool:
    return path.name in TOKENIZER_FILES or (path.suffix == ".json" and path.name not in NOT_CONFIGS)


def again(path: Path, otherwise: str) -> str:
    """What to type about a broken file: the hub's cache takes what lies in it for whole, so that goes first.

    otherwise: for files of another place.
    """
    own = next((place for place in (path, *path.parents) if place.name.startswith("models--")), None)
    if own is None:
        return otherwise
    return f"rm -r {shlex.quote(str(own))} && sbv2bench download hub:{own.name.removeprefix('models--').replace('--', '/', 1)}"


def _check_whole(path: Path) -> None:
    """A safetensors file is an 8-byte header length, a JSON header, and exactly the bytes that the header promises."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            head = file.read(8)
            check_not_gguf(str(path), head)
            (length,) = struct.unpack("<Q", head)
            if length > size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        expected = (
            8 + length + max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: found a broken header, expected a whole safetensors file", again(path, COPY_AGAIN)
        ) from error
    if expected != size:
        raise IntegrityError(f"{path}: found {size} bytes, expected {expected}: the file was cut", again(path, COPY_AGAIN))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model. Raises IntegrityError where it is none."""
    found = _parsed(path)
    if not isinstance(found, dict):
        raise IntegrityError(f"{path}: found {type(found).__name__}, expected a JSON object", again(path, COPY_AGAIN))
    return found


def _check_json(path: Path) -> None:
    """A config is an object; other files of a model may be any JSON."""
    (read_json if path.name.endswith(("config.json", "index.json")) else _parsed)(path)


def _parsed(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: found text that is not JSON ({error})", again(path, COPY_AGAIN)) from error


def _check_components(folder: Path, read: Selection, unused: Collection[str]) -> None:
    """Every network named by a diffusers `model_index.json` has its folder, its config and weights."""
    for name in networks(model_index(folder) or {}):
        component = folder / name
        if not component.is_dir():
            what = f"model_index.json names {name}, found no folder {name}/"
            raise PrerequisiteError(f"{folder}: {what}", again(folder, COPY_WHOLE))
        if (component / "config.json").is_file() and name not in unused and not read.has(name):
            raise _no_weights(component, again(folder, COPY_WHOLE))


def manifest() -> dict[str, dict[str, Any]]:
    """Shipped files: path below mini/weights -> {"sha256", "bytes"}. Raises PrerequisiteError where nothing is shipped."""
    path = paths.package_weights() / "manifest.json"
    if not path.is_file():
        raise PrerequisiteError("mini/weights/manifest.json: this installation ships no weights", REINSTALL)
    files: dict[str, dict[str, Any]] = read_json(path)["files"]
    return files


def _check_manifest(folder: Path, hashed: tuple[WeightsFile, ...]) -> None:
    prefix = folder.resolve().relative_to(paths.package_weights().resolve()).as_posix() + "/"
    shipped = {path.removeprefix(prefix): entry["sha256"] for path, entry in manifest().items() if path.startswith(prefix)}
    found = {file.path: file.sha256 for file in hashed}
    for path, sha256 in sorted(shipped.items()):
        if path not in found and not (folder / path).is_file():
            raise IntegrityError(f"{prefix}{path}: a shipped file is missing from this installation", REINSTALL)
        actual = found.get(path) or file_digest(folder / path)
        if actual != sha256:
            raise IntegrityError(
                f"{prefix}{path}: this installation's file is not the one that was shipped\n"
                f"found sha256 {actual[:16]}, expected {sha256[:16]}",
                REINSTALL,
            )
    for path in found:
        if path.endswith(".safetensors") and path not in shipped:
            raise IntegrityError(f"{prefix}{path}: weights that were not shipped lie in the installation", REINSTALL)
