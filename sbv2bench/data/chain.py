"""A model's folder and those that supply what it lacks: its base's, its base's base's, and so on. No torch here.

The peft adapter in a folder's `unet_lora/` names the model whose UNet it is folded into; a folder's `sbv2bench.json` may
name one more, for the other parts. A relative path is meant from the folder that names it. A location may also hold a UNet or
an adapter alone, and a spec may name another autoencoder: these are links too, marked by what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sbv2bench.data.assets import HOME, HUB, NAMED, hash_configs, hash_file, hash_weights, read_json, resolve_location
from sbv2bench.data.hub import WITHDRAWN
from sbv2bench.data.parts import ADAPTER, UNETS, check_one_file, check_parts
from sbv2bench.data.single_file import base_of
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.specs import ModelSpec, WeightsFile


@dataclass(frozen=True)
class Link:
    """One folder of a chain, or one weights file. location: as it is written where it is named.

    holds: what is read of it; a checkpoint is a whole model in one file, which the next link's configs describe. dtype: what
    the run computes in, which decides what variants of weights are read. unused: networks whose weights are another link's.
    """

    location: str
    folder: Path
    holds: Literal["model", "unet", "lora", "vae", "checkpoint", "configs"] = "model"
    dtype: str | None = None
    unused: tuple[str, ...] = ()

    def hashes(self) -> tuple[WeightsFile, ...]:
        """`hash_weights` of what is read of the folder, or the file's hash, with all that they prove."""
        if self.folder.is_file() and self.holds != "model":
            return (hash_file(self.folder),)
        if self.holds == "configs":
            return hash_configs(self.folder)
        return hash_weights(self.folder, self.dtype or "float32", self.unused)


def chain(spec: ModelSpec, dtype: str | None = None) -> tuple[Link, ...]:
    """Where a model's parts are, first choice first: its own folder, its base's, its base's base's, ...

    A folder with an adapter is followed by the model that it is folded into, and only then by its base. spec.base wins over
    the `base` of the folder's own sbv2bench.json. The autoencoder that a spec names is the last link. dtype: what the run
    computes in: of a hub repository only what it reads is fetched; None takes what is here. Raises InputError (a folder is not
    there, the chain goes round in a circle, an adapter has no base, or a UNet beside it, and what `check_parts` refuses),
    PrerequisiteError (not on this machine, or no UNet for an adapter).
    """
    links: list[Link]
    own = _located(spec, dtype)
    if own.holds == "model" and own.folder.is_file():
        base = spec.base or base_of(own.folder)
        folder = _resolve(base, own.folder.parent, dtype, (), configs_only=True)
        links = [replace(own, holds="checkpoint"), Link(base, folder, "configs", dtype)]
    elif own.holds == "model":
        links = []
        _follow(own, spec.base, (), links)
    else:
        if not spec.base:
            raise InputError(f"{spec.id}: holds a {spec.holds} alone, expected base: the model that has its other parts")
        links = [own]
        folder = own.folder.parent if own.folder.is_file() else own.folder
        # A UNet alone takes the place of its base's, whose weights are neither fetched nor read.
        unused = UNETS if spec.holds == "unet" else ()
        _follow(_link(spec.base, folder, dtype, unused), "", (own,), links)
    if own.holds == "unet" and own.folder.is_dir():
        check_one_file(own.folder)
    check_parts((link.folder for link in links if link.holds == "model"), own.holds)
    return (*links, *autoencoder(spec, dtype))


def autoencoder(spec: ModelSpec, dtype: str | None = None) -> tuple[Link, ...]:
    """The link of the autoencoder that a spec names, if it names one: its own folder, or that of a whole model's."""
    if not spec.vae:
        return ()
    folder = resolve_location(spec.vae, dtype=dtype)
    return (Link(spec.vae, folder / "vae" if (folder / "vae").is_dir() else folder, "vae", dtype),)


def _located(spec: ModelSpec, dtype: str | None) -> Link:
    """A spec's own location, or the first of its mirrors that has files where it has none."""
    try:
        return Link(spec.location, resolve_location(spec.location, spec.revision, dtype=dtype), spec.holds, dtype)
    except (PrerequisiteError, InputError) as error:
        for mirror in spec.mirrors:
            with suppress(PrerequisiteError, InputError):
                return Link(mirror, resolve_location(mirror, dtype=dtype), spec.holds, dtype)
        if isinstance(error, PrerequisiteError) and spec.location.startswith(HOME) and spec.origin:
            raise PrerequisiteError(f"{error.message}\nmade by: {spec.origin}", error.fix) from error
        raise


def _follow(link: Link, base: str, path: tuple[Link, ...], links: list[Link]) -> None:
    """Append a folder and those behind it that are not in links yet. path: what led here."""
    if any(link.folder.samefile(other.folder) for other in path):
        circle = " -> ".join(other.location for other in (*path, link))
        raise InputError(f"{path[0].folder}: its bases go round in a circle: {circle}")
    if any(link.folder.samefile(other.folder) for other in links):
        return
    links.append(link)
    base = base or _declared_base(link.folder)
    if (link.folder / ADAPTER).is_dir():
        below = _adapter_base(link.folder) or base
        if not below:
            raise InputError(
                f"{link.folder / ADAPTER}: found no base_model_name_or_path, expected the model that it is an adapter of"
            )
        start = len(links)
        _follow(_link(below, link.folder, link.dtype), "", (*path, link), links)
        if not any((other.folder / name).is_dir() for other in links[start:] for name in UNETS):
            raise PrerequisiteError(
                f"{link.folder / ADAPTER}: its base {below} has no folder unet/", "name a whole model as its base"
            )
    if base:
        _follow(_link(base, link.folder, link.dtype, link.unused), "", (*path, link), links)


def hash_chain(links: tuple[Link, ...]) -> tuple[WeightsFile, ...]:
    """The hashes of every link of a chain, with all that they prove; a base's files are listed as "<location>:<path>"."""
    own, *bases = links
    files = list(own.hashes())
    for base in bases:
        files += _below(base.location, base.hashes())
    return tuple(files)


def model_files(spec: ModelSpec, find: Callable[[str], ModelSpec], dtype: str | None = None) -> tuple[WeightsFile, ...]:
    """Every file that decides what a model's networks compute; of a merged model, those of both its ends, as "<end>:<path>".

    find: the model that an end names. dtype: as in `chain`. Raises what `chain`, `hash_weights` and find raise.
    """
    files = list(hash_chain(chain(spec, dtype))) if spec.location or spec.merge is None else []
    for end in () if spec.merge is None else (spec.merge.a, spec.merge.b):
        files += _below(end, model_files(find(end), find, dtype))
    for vae in autoencoder(spec, dtype) if spec.merge and not spec.location else ():
        files += _below(vae.location, vae.hashes())
    return tuple(files)


def _below(name: str, files: Iterable[WeightsFile]) -> list[WeightsFile]:
    return [file.model_copy(update={"path": f"{name}:{file.path}"}) for file in files]


def _link(base: str, folder: Path, dtype: str | None, unused: tuple[str, ...] = ()) -> Link:
    return Link(base, _resolve(base, folder, dtype, unused), "model", dtype, unused)


def _resolve(base: str, folder: Path, dtype: str | None, unused: tuple[str, ...], *, configs_only: bool = False) -> Path:
    """The folder of a base that is named in a folder."""
    if base.startswith(NAMED):
        return resolve_location(base, dtype=dtype, unused=unused, configs_only=configs_only)
    if base in WITHDRAWN:  # as adapters name their bases; a folder of that name would be a path's first choice
        return resolve_location(f"{HUB}{base}", dtype=dtype, unused=unused, configs_only=configs_only)
    path = folder / Path(base).expanduser()
    if not path.is_dir():
        raise InputError(
            f"{folder}: its base {base!r} is no folder, expected a path from there, package:mini/NAME or hub:ORG/NAME"
        )
    return path


def _adapter_base(folder: Path) -> str:
    """The model that a folder's adapter is folded into, as its config says; "" where it does not."""
    if beside := [name for name in UNETS if (folder / name).is_dir()]:
        raise InputError(
            f"{folder}: found {ADAPTER}/ and {beside[0]}/, expected one of them: an adapter is folded into its base's UNet",
            "move the one that is not meant out of the folder",
        )
    config = folder / ADAPTER / "adapter_config.json"
    if not config.is_file():
        raise PrerequisiteError(f"{config}: not found, expected an adapter in peft's layout")
    fields = read_json(config)
    base, revision = str(fields.get("base_model_name_or_path") or ""), fields.get("revision")
    return f"{base}@{revision}" if revision and base.startswith(HUB) and "@" not in base else base


def _declared_base(folder: Path) -> str:
    path = folder / "sbv2bench.json"
    if not path.is_file():
        return ""
    base = read_json(path).get("base", "")
    if not isinstance(base, str):
        raise InputError(f"{path}: found {base!r} as base, expected the location of a model")
    return base
