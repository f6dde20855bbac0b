"""A model's folder and those that supply what it lacks: its base's, its base's base's, and so on. No torch here.

The peft adapter in a folder's `unet_lora/` names the model whose UNet it is folded into; a folder's `sbv2bench.json` may
name one more, for the other parts. A relative path is meant from the folder that names it. A location may also hold a denoiser
or an adapter alone, and a spec may name other parts and adapters: these are links too, marked by what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sbv2bench.data.assets import (
    HOME,
    HUB,
    NAMED,
    check_not_gguf,
    hash_configs,
    hash_file,
    hash_weights,
    read_json,
    resolve_location,
)
from sbv2bench.data.hub import WITHDRAWN
from sbv2bench.data.parts import (
    ADAPTER,
    UNETS,
    check_one_file,
    check_parts,
    folders_of,
    is_config_alone,
    is_part,
    supplied_elsewhere,
)
from sbv2bench.data.quantised import check_not_quantised
from sbv2bench.data.single_file import base_of
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.specs import ModelSpec, WeightsFile


@dataclass(frozen=True)
class Link:
    """One folder of a chain, or one file. location: as it is written where it is named.

    holds: what is read of it: a "model"; a "checkpoint", a whole model in one file, which the next link's "configs" describe; a
    "lora"; or a part of a pipeline, by its name there. dtype: what the run computes in, which decides what variants of weights
    are read. unused: folders of networks whose weights are another link's. scale: what multiplies a LoRA.
    """

    location: str
    folder: Path
    holds: str = "model"
    dtype: str | None = None
    unused: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def name(self) -> str:
        """What stands before its files in a list of a chain's: its location, and what it takes the place of."""
        return self.location if self.holds in {"model", "configs", "vae"} else f"{self.holds}:{self.location}"

    def hashes(self) -> tuple[WeightsFile, ...]:
        """`hash_weights` of what is read of the folder, or the file's hash, with all that they prove."""
        if self.folder.is_file() and self.holds != "model":
            found: tuple[WeightsFile, ...] = (hash_file(self.folder),)
        elif self.holds == "configs" or is_config_alone(self.holds):
            return hash_configs(self.folder)
        else:
            found = hash_weights(self.folder, self.dtype or "float32", self.unused)
        root = self.folder.parent if self.folder.is_file() else self.folder
        check_not_quantised(root / file.path for file in found)
        return found


def chain(spec: ModelSpec, dtype: str | None = None) -> tuple[Link, ...]:
    """Where a model's parts are, first choice first: its own folder, its base's, its base's base's, ...

    A folder with an adapter is followed by the model that it is folded into, and only then by its base. spec.base wins over
    the `base` of the folder's own sbv2bench.json. Last come the parts and the adapters that a spec names. dtype: what the run
    computes in: of a hub repository only what it reads is fetched; None takes what is here. Raises InputError (a folder is not
    there, the chain goes round in a circle, an adapter has no base, or a UNet beside it, and what `check_parts` refuses),
    PrerequisiteError (not on this machine, or no UNet for an adapter).
    """
    links: list[Link]
    unused = supplied_elsewhere(spec)
    own = _located(spec, dtype, unused if spec.holds == "model" else ())
    beside = own.folder.parent if own.folder.is_file() else own.folder
    if own.holds == "model" and own.folder.is_file():
        base = spec.base or base_of(own.folder)
        folder = _resolve(base, beside, dtype, (), configs_only=True)
        links = [replace(own, holds="checkpoint"), Link(base, folder, "configs", dtype)]
    elif own.holds == "model":
        links = []
        _follow(own, spec.base, (), links)
    else:
        if not spec.base:
            raise InputError(f"{spec.id}: holds a {spec.holds} alone, expected base: the model that has its other parts")
        links = [own]
        # A denoiser alone takes the place of its base's, whose weights are neither fetched nor read.
        _follow(_link(spec.base, beside, dtype, unused), "", (own,), links)
        if own.holds != "lora" and own.folder.is_dir():
            check_one_file(own.folder)
    check_parts((link.folder for link in links if link.holds in {"model", "configs"}), spec)
    return (*links, *named_links(spec, dtype, Path() if spec.location.startswith(NAMED) else beside))


def named_links(spec: ModelSpec, dtype: str | None = None, folder: Path = Path()) -> tuple[Link, ...]:
    """The links of the parts and the adapters that a spec names. folder: from where relative paths are meant."""
    links = [_part(name, location, folder, dtype) for name, location in spec.named_parts().items()]
    for adapter in spec.adapters:
        place = _resolve(adapter.location, folder, dtype, (), or_file=True)
        links.append(Link(adapter.location, place, "lora", dtype, scale=adapter.scale))
    return tuple(links)


def _part(name: str, location: str, folder: Path, dtype: str | None) -> Link:
    """What takes the place of a part: a file, its own folder, or that in a whole model's."""
    place = _resolve(location, folder, dtype, (), configs_only=is_config_alone(name), part=name, or_file=True)
    if place.is_file():
        return Link(location, place, name, dtype)
    place = next((place / own for own in folders_of(name) if (place / own).is_dir()), place)
    if not is_part(place):
        raise InputError(f"{place}: holds no {name}, expected its folder, a file of it, or a model's folder that has one")
    if not is_config_alone(name):
        check_one_file(place)
    return Link(location, place, name, dtype)


def _located(spec: ModelSpec, dtype: str | None, unused: tuple[str, ...]) -> Link:
    """A spec's own location, or the first of its mirrors that has files where it has none."""

    def link(location: str, revision: str | None) -> Link:
        folder = resolve_location(location, revision, dtype=dtype, unused=unused)
        return Link(location, folder, spec.holds, dtype, unused)

    try:
        return link(spec.location, spec.revision)
    except (PrerequisiteError, InputError) as error:
        for mirror in spec.mirrors:
            with suppress(PrerequisiteError, InputError):
                return link(mirror, None)
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
    """The hashes of every link of a chain, with all that they prove; files but those of the first are "<link's name>:<path>"."""
    own, *others = links
    files = list(own.hashes())
    for link in others:
        files += _below(link.name, link.hashes())
    return tuple(files)


def model_files(spec: ModelSpec, find: Callable[[str], ModelSpec], dtype: str | None = None) -> tuple[WeightsFile, ...]:
    """Every file that decides what a model's networks compute; of a merged model, those of both its ends, as "<end>:<path>".

    find: the model that an end names. dtype: as in `chain`. Raises what `chain`, `hash_weights` and find raise.
    """
    files = list(hash_chain(chain(spec, dtype))) if spec.location or spec.merge is None else []
    for end in () if spec.merge is None else (spec.merge.a, spec.merge.b):
        files += _below(end, model_files(find(end), find, dtype))
    for link in named_links(spec, dtype) if spec.merge and not spec.location else ():
        files += _below(link.name, link.hashes())
    return tuple(files)


def _below(name: str, files: Iterable[WeightsFile]) -> list[WeightsFile]:
    return [file.model_copy(update={"path": f"{name}:{file.path}"}) for file in files]


def _link(base: str, folder: Path, dtype: str | None, unused: tuple[str, ...] = ()) -> Link:
    return Link(base, _resolve(base, folder, dtype, unused), "model", dtype, unused)


def _resolve(
    location: str,
    folder: Path,
    dtype: str | None,
    unused: tuple[str, ...],
    *,
    configs_only: bool = False,
    part: str = "",
    or_file: bool = False,
) -> Path:
    """The folder of a base, a part or an adapter that is named in a folder; or_file: the last two may be files."""
    check_not_gguf(location)
    # As adapters name their bases; a folder of that name would be a path's first choice.
    hub = f"{HUB}{location}" if location in WITHDRAWN else location
    if hub.startswith(NAMED):
        return resolve_location(hub, dtype=dtype, unused=unused, configs_only=configs_only, part=part)
    path = folder / Path(location).expanduser()
    if path.is_dir() or (or_file and path.is_file()):
        return path
    what = f"its {part or 'adapter'} {location!r} does not exist" if or_file else f"its base {location!r} is no folder"
    raise InputError(f"{folder}: {what}, expected a path from there, package:mini/NAME or hub:ORG/NAME")


def part_config(links: Iterable[Link], part: str) -> Path | None:
    """The config file of a part of a chain: of what takes its place, or of the first model that has one; None without any."""
    links, name = tuple(links), "scheduler_config.json" if part == "scheduler" else "config.json"
    places = [link.folder for link in links if link.holds == part]
    places += [link.folder / own for link in links for own in folders_of(part)]
    return next((place / name for place in places if (place / name).is_file()), None)


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
