"""The state of this machine: versions and their traps, device, disk, shipped weights, what each suite lacks; and the cache."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from sbv2bench import paths
from sbv2bench.data import assets
from sbv2bench.data.needs import suite_needs
from sbv2bench.errors import IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.machine.checks import existing, write_something
from sbv2bench.provenance import cpu_model, library_version, sha256_file
from sbv2bench.registry import Registry
from sbv2bench.specs import SuiteSpec

Status = Literal["ok", "note", "missing", "broken"]
NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pillow",
    "pydantic",
    "filelock",
)
MINIMUM_PYTHON = (3, 11)
FREE_BYTES = 2**30  # below this a run at 5,000 images may not fit


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. note: works, and worth knowing. missing, broken: `fix` mends it."""

    name: str
    status: Status
    found: str
    fix: str | None = None


# (distribution, versions of it, what goes wrong with them)
TRAPS = (
    ("scipy", ">=1.11.2,<1.13", "its sqrtm returns garbage for near-singular matrices: never trust an FID of another tool made "
     "with it"),
    ("scipy", ">=1.18", "clean-fid and pytorch-fid cannot compute FID with it (sqrtm lost an argument)"),
    ("torchvision", "<0.17", "it resizes tensors without antialiasing, so HPSv2 numbers of other tools differ"),
    ("hpsv2", "", "its wheel lacks the tokenizer's vocabulary, and installing it downgrades pytest and protobuf"),
    ("transformers", ">=5.6", "CLIPTextModel lost its .text_model: other tools that load state dicts by hand break"),
)  # fmt: skip


def diagnose(registry: Registry, default_suite: str) -> list[Check]:
    """All checks, in the order that people read them."""
    return [*_versions(), _device(), *_disk(), _weights(), *_plugins(registry), *_suites(registry, default_suite)]


def runnable(checks: list[Check], suite: str) -> bool:
    """Whether nothing that the suite needs is missing or broken."""
    own = [check for check in checks if check.name == f"suite {suite}" or not check.name.startswith(("suite ", "plugin "))]
    return all(check.status in ("ok", "note") for check in own)


def _versions() -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= MINIMUM_PYTHON
    yield Check("python", "ok" if good else "broken", python, None if good else "install Python 3.11 or newer")
    for name in NEEDED:
        version = library_version(name)
        yield Check(name, "ok" if version else "missing", version or "not installed", None if version else f"pip install {name}")
    for distribution, versions, what in TRAPS:
        version = library_version(distribution)
        if version is not None and SpecifierSet(versions).contains(Version(version).base_version):
            yield Check(distribution, "note", f"{version}: {what}; sbv2bench itself does not use that")


def _device() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", "broken", f"torch cannot be imported: {error}"[:200], "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Check("device", "ok", f"cuda: {names}")
    threads = torch.get_num_threads()
    said = f"{threads} thread{'s' if threads > 1 else ''}; no GPU, which the mini suites do not need"
    return Check("device", "ok", f"cpu: {cpu_model()}, {said}")


def _disk() -> Iterator[Check]:
    home = paths.home()
    place = existing(home)
    try:
        write_something(place)
    except OSError as error:
        yield Check(
            "home folder",
            "broken",
            f"{home} cannot be written ({error.strerror})",
            "export SBV2BENCH_HOME=~/sbv2bench, or another writable folder",
        )
        return
    yield Check("home folder", "ok", f"{home} can be written")
    free = shutil.disk_usage(place).free
    low = free < FREE_BYTES
    yield Check("disk", "note" if low else "ok", f"{free / 2**30:.1f} GiB free", "sbv2bench cache prune" if low else None)


def _weights() -> Check:
    try:
        shipped = assets.manifest()
        for path, entry in shipped.items():
            file = paths.package_weights() / path
            if not file.is_file() or sha256_file(file) != entry["sha256"]:
                raise IntegrityError(f"{path} is not the file that was shipped", assets.REINSTALL)
    except SBV2BenchError as error:
        return Check("package weights", "broken", error.message, error.fix)
    size = sum(entry["bytes"] for entry in shipped.values())
    return Check("package weights", "ok", f"{len(shipped)} files, {size / 1e6:.1f} MB, all hashes correct")


def _plugins(registry: Registry) -> Iterator[Check]:
    for plugin in registry.plugins:
        fix = f"pip uninstall {plugin.distribution.split()[0]}, or repair it" if plugin.error else None
        yield Check(f"plugin {plugin.name}", "broken" if plugin.error else "ok", plugin.error or plugin.distribution, fix)


def _suites(registry: Registry, default: str) -> Iterator[Check]:
    for name in sorted(registry.suites, key=lambda name: (name != default, name)):
        missing, fixes = _missing(registry, registry.suites[name])
        label = "runs" + (", the default" if name == default else "")
        yield Check(f"suite {name}", "missing" if missing else "ok", "; ".join(missing) or label, "; ".join(fixes) or None)


def _missing(registry: Registry, suite: SuiteSpec) -> tuple[list[str], list[str]]:
    """What a suite's extractors and its family's shipped models lack, and the commands that bring it."""
    missing, fixes = [], []
    try:
        registry.suite(suite.id)
        needs = suite_needs(registry, suite)
        models = [model.location for model in registry.models.values() if model.family == suite.family]
        locations = [need.location for need in needs if need.location.startswith(assets.PACKAGE)]
        locations += [location for location in models if location.startswith(assets.PACKAGE)]
    except SBV2BenchError as error:
        return [error.message], [error.fix or ""]
    for need in needs:  # what is shipped is looked at more closely below
        if need.missing is not None and need.location not in locations:
            missing.append(f"{need.location} ({need.what})")
            fixes.append(
                f"sbv2bench download {suite.id}" if isinstance(need.missing, PrerequisiteError) else str(need.missing.fix)
            )
    for location in dict.fromkeys(location for location in locations if location):
        try:
            place = assets.resolve_location(location)
            if place.is_dir():  # captions are a file
                assets.hash_weights(place)
        except SBV2BenchError as error:
            missing.append(error.message.replace("\n", " "))
            fixes.append(error.fix or f"see {location}")
    return missing, list(dict.fromkeys(fixes))


def cache_sizes() -> list[tuple[str, int, int]]:
    """(folder, files, bytes) of each part of the cache."""
    parts = (paths.features_dir(), paths.pairs_dir(), paths.assets_dir())
    files = [(part.name, [path for path in part.rglob("*") if path.is_file()]) for part in parts]
    return [(name, len(found), sum(path.stat().st_size for path in found)) for name, found in files]


def prune(everything: bool = False) -> int:
    """Delete features, and if `everything` the trainer's pairs and downloads too. Returns the bytes that were freed."""
    before = sum(size for _, _, size in cache_sizes())
    for folder in (paths.features_dir(), *([paths.pairs_dir(), paths.assets_dir()] if everything else [])):
        shutil.rmtree(folder, ignore_errors=True)
    return before - sum(size for _, _, size in cache_sizes())


def verify_cache() -> tuple[int, list[Path]]:
    """(entries that are whole, manifests of entries that are not): arrays and manifest of every entry against their hashes."""
    from sbv2bench.features.cache import manifests, read_entry

    whole, broken = 0, []
    for manifest in manifests(paths.features_dir()):
        try:
            read_entry(manifest.parent)
            whole += 1
        except (OSError, ValueError, KeyError, TypeError):
            broken.append(manifest)
    return whole, broken
