"""The files of models: where they are, whether they are whole, and what their bytes are. No torch here.

All of this runs before the first forward pass, so that a missing, broken or pickled weight costs a second.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbv2bench import paths
from sbv2bench.data.digests import file_digest
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.specs import AssetSpec, WeightsFile

PACKAGE, HUB, HOME, ASSET = "package:", "hub:", "home:", "asset:"
NAMED = (PACKAGE, HUB, HOME, ASSET)  # locations that mean the same wherever they are written
PICKLES = frozenset({".bin", ".pt", ".ckpt", ".pth", ".pkl"})
# What is fetched of a model's hub repository: networks in their folders or by their libraries' names, and every config and
# tokenizer. Repositories also hold single-file checkpoints of many gigabytes and second precisions, which nothing here reads.
MODEL_FILES = (
    *("*.json", "*.txt", "*/*.safetensors", "*/*.model", "diffusion_pytorch_model*.safetensors", "adapter_model.safetensors"),
    *("pytorch_lora_weights.safetensors", "model*.safetensors", "open_clip_*.safetensors"),
)
OTHER_PRECISIONS = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.non_ema.safetensors", "*.non_ema-*.safetensors")
# Besides weights, every file that decides what a network computes: configs, schedulers, tokenizers.
TOKENIZER_FILES = frozenset({"merges.txt", "vocab.txt"})
NOT_CONFIGS = frozenset({"sbv2bench.json", "manifest.json", "merge.json", "training.json"})
ALLOW_PICKLE = "SBV2BENCH_ALLOW_PICKLE"
REINSTALL = "in a clone of sbv2bench: pip install --force-reinstall --no-deps ."


def pickles_allowed() -> bool:
    """Whether the user said that pickled weights may be read."""
    return os.environ.get(ALLOW_PICKLE) == "1"


def offline() -> bool:
    """Whether the network must not be asked."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in ("HF_HUB_OFFLINE", "SBV2BENCH_OFFLINE"))


def resolve_location(
    location: str,
    revision: str | None = None,
    files: tuple[str, ...] = (),
    assets: Mapping[str, AssetSpec] | None = None,
    local_only: bool = False,
) -> Path:
    """The folder or file that a location names.

    `package:mini/sd21`, `hub:org/name`, `hub:org/name@revision`, `hub:org/name/a/file`, `home:name` (in
    $SBV2BENCH_HOME/models), `asset:name`, or a path. revision: of a hub location that names none itself. files: of a hub
    location, only these are fetched. assets: the declared downloads, by default the built-in ones; an asset's files are
    verified, and never fetched here. local_only: do not ask the hub either. Raises PrerequisiteError where shipped, hub, home
    or downloaded files are not on this machine, IntegrityError where an asset's bytes are not what they must be, InputError
    where a path does not exist.
    """
    if location.startswith(PACKAGE):
        return _package_folder(location)
    if location.startswith(HUB):
        organisation, _, rest = location.removeprefix(HUB).partition("/")
        name, _, file = rest.partition("/")
        name, _, pinned = name.partition("@")
        revision = pinned or revision
        repository = f"{organisation}/{name}" if rest else organisation
        if file:
            return _hub_file(repository, file, revision, local_only)
        return hub_folder(repository, revision, files, local_only=local_only)
    if location.startswith(HOME):
        return _home_path(location)
    if location.startswith(ASSET):
        from sbv2bench.data import asset_store

        return asset_store.located(asset_store.declared(location.removeprefix(ASSET), assets))
    path = Path(location).expanduser()
    if not location or not path.exists():
        raise InputError(f"model folder: {location!r} does not exist, expected a folder, package:mini/NAME or hub:ORG/NAME")
    return path


def _package_folder(location: str) -> Path:
    family, _, name = location.removeprefix(PACKAGE).partition("/")
    if family != "mini" or not name or ".." in Path(name).parts:
        raise InputError(f"location: found {location!r}, expected package:mini/NAME")
    folder = paths.package_weights() / name
    if not folder.is_dir():
        raise PrerequisiteError(
            f"{location}: this installation has no such weights, expected the folder mini/weights/{name}", REINSTALL
        )
    return folder


def hub_folder(
    repository: str,
    revision: str | None,
    files: tuple[str, ...] = (),
    *,
    kind: str = "model",
    local_only: bool = False,
    pickles: bool = False,
) -> Path:
    """The snapshot of a hub repository in huggingface_hub's cache, fetched unless offline or local_only.

    files: only those of these that there are; none named means MODEL_FILES of a model, all of a dataset. kind: "model" or
    "dataset". pickles: fetch them too: whoever asks knows their hash. Raises InputError (no such id), PrerequisiteError
    (not here).
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    options = (["--revision", revision] if revision else []) + (["--repo-type", kind] if kind != "model" else [])
    fetch = " ".join(["HF_HUB_OFFLINE=0 hf download", repository, *files, *options])
    allowed = pickles or pickles_allowed()
    ignored = [] if allowed else [f"*{suffix}" for suffix in sorted(PICKLES)]
    wanted = list(files)
    if not files and kind == "model":
        wanted = [*MODEL_FILES, *([f"*/*{suffix}" for suffix in sorted(PICKLES)] if allowed else [])]
        ignored += OTHER_PRECISIONS
    local = offline() or local_only
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision, repo_type=kind, local_files_only=local, ignore_patterns=ignored or None,
            allow_patterns=wanted or None,
        )  # fmt: skip
    except HFValidationError as error:
        raise InputError(f"hub id: found {repository!r}, expected ORG/NAME") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"hub:{repository}: the hub has no such {kind}, or no access to it (revision {revision or 'main'})"
        ) from error
    except (HfHubHTTPError, OSError) as error:  # LocalEntryNotFoundError and lost connections are among these
        why = "not downloaded" if local_only and not offline() else _why(error)
        raise PrerequisiteError(f"hub:{repository}: its files are not on this machine ({why})", fetch) from error
    return Path(found)


def _hub_file(repository: str, name: str, revision: str | None, local_only: bool) -> Path:
    """One file of a hub repository, which may hold hundreds of gigabytes besides."""
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hub:{repository}/{name}"
    if Path(name).suffix in PICKLES and not pickles_allowed():
        raise _pickled(where)
    fetch = f"HF_HUB_OFFLINE=0 hf download {repository} {name}" + (f" --revision {revision}" if revision else "")
    try:
        return Path(
            huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=offline() or local_only)
        )
    except HFValidationError as error:
        raise InputError(f"hub id: found {repository!r}, expected ORG/NAME/FILE") from error
    except LocalEntryNotFoundError as error:
        raise PrerequisiteError(f"{where}: the file is not on this machine ({_why(error)})", fetch) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise InputError(f"{where}: the hub has no such file, or no access to it (revision {revision or 'main'})") from error
    except (HfHubHTTPError, OSError) as error:
        raise PrerequisiteError(f"{where}: the file is not on this machine ({_why(error)})", fetch) from error


def _why(error: Exception) -> str:
    return "offline" if offline() else type(error).__name__


def _home_path(location: str) -> Path:
    """A folder or file that the user has put beside the cache."""
    name = location.removeprefix(HOME)
    if not name or ".." in Path(name).parts or Path(name).is_absolute():
        raise InputError(f"location: found {location!r}, expected home:NAME")
    path = paths.models_dir() / name
    if not path.exists():
        raise PrerequisiteError(f"{location}: not on this machine, and no hub has it", f"put its weights at {path}")
    return path


def _pickled(where: Path | str) -> IntegrityError:
    return IntegrityError(
        f"{where}: found pickled weights, expected *.safetensors; reading a pickle can run any code that is in it",
        f"convert it to safetensors, or set {ALLOW_PICKLE}=1 if you trust its author",
    )


def hash_file(path: Path) -> WeightsFile:
    """One weights file and its SHA-256. Raises IntegrityError where it is broken, or a pickle that is not allowed."""
    if path.suffix == ".safetensors":
        _check_whole(path)
    elif path.suffix in PICKLES and not pickles_allowed():
        raise _pickled(path)
    elif path.suffix not in PICKLES:
        raise InputError(f"{path}: expected a weights file, *.safetensors")
    return WeightsFile(path=path.name, sha256=file_digest(path))


def hash_weights(folder: Path) -> tuple[WeightsFile, ...]:
    """Every file of a model that decides its output (safetensors, configs, tokenizers), sorted, with its SHA-256.

    Also proves what can be proved without loading: safetensors files are whole, no folder's only weights are pickles,
    every network of a diffusers folder has weights, and shipped weights are the bytes that were shipped.
    Raises InputError (not a folder), PrerequisiteError (weights missing), IntegrityError (broken, pickled or changed).
    """
    if not folder.is_dir():
        raise InputError(f"model folder: {folder} is not a folder")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path, folder)]
    kept = [path for path in files if path.suffix == ".safetensors" or _is_config(path)]
    for path in kept:
        if path.suffix == ".safetensors":
            _check_whole(path)
        elif path.suffix == ".json":
            read_json(path)
    _refuse_pickles(folder, files)
    _check_components(folder)
    if pickles_allowed():
        kept = sorted([*kept, *(path for path in files if path.suffix in PICKLES)])
    if not any(path.suffix == ".safetensors" or path.suffix in PICKLES for path in kept):
        raise PrerequisiteError(f"{folder}: no weights found, expected *.safetensors")
    hashed = tuple(WeightsFile(path=path.relative_to(folder).as_posix(), sha256=file_digest(path)) for path in kept)
    if folder.resolve().is_relative_to(paths.package_weights().resolve()):
        _check_manifest(folder, hashed)
    return hashed


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_config(path: Path) -> bool:
    return path.name in TOKENIZER_FILES or (path.suffix == ".json" and path.name not in NOT_CONFIGS)


def _check_whole(path: Path) -> None:
    """A safetensors file is an 8-byte header length, a JSON header, and exactly the bytes that the header promises."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header longer than the file")
            header = json.loads(file.read(length))
        expected = (
            8 + length + max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise IntegrityError(
            f"{path}: found a broken header, expected a whole safetensors file", "copy or download the file again"
        ) from error
    if expected != size:
        raise IntegrityError(
            f"{path}: found {size} bytes, expected {expected}: the file was cut", "copy or download the file again"
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file of a model. Raises IntegrityError where it is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path}: found text that is not JSON ({error})", "copy or download the file again") from error


def _refuse_pickles(folder: Path, files: list[Path]) -> None:
    """IntegrityError where a folder's only weights are pickles: reading one can run anybody's code."""
    if pickles_allowed():
        return
    pipeline = (folder / "model_index.json").is_file()
    safe = {path.parent for path in files if path.suffix == ".safetensors"}
    for path in files:
        beside_a_pipeline = pipeline and path.parent == folder  # stray checkpoints there are never read
        if path.suffix in PICKLES and path.parent not in safe and not beside_a_pipeline:
            raise _pickled(path)


def _check_components(folder: Path) -> None:
    """Every network named by a diffusers `model_index.json` has its folder, its config and weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        return
    entries = read_json(index)
    if not isinstance(entries, dict):
        raise IntegrityError(f"{index}: found {type(entries).__name__}, expected a JSON object")
    for name, entry in entries.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[:1] in ([], [None]):
            continue
        component = folder / name
        if not component.is_dir():
            raise PrerequisiteError(
                f"{folder}: model_index.json names {name}, found no folder {name}/", "copy or download the whole model"
            )
        network = (component / "config.json").is_file()
        if network and not any(path.suffix == ".safetensors" or path.suffix in PICKLES for path in component.iterdir()):
            raise PrerequisiteError(f"{component}: no weights found, expected *.safetensors", "copy or download the whole model")


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
