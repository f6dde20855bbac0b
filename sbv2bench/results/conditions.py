"""Under which conditions a result was made: its dtype, which is part of a row's identity, and the libraries, which are shown.

Two dtypes of a model are two rows. Versions are no identity: they are said wherever results that stand together differ in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sbv2bench.results.records import EvalResult, LatencyResult

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "open_clip", "pillow")
Identity = tuple[str, str]  # (model fingerprint, dtype)


def dtype_of(result: EvalResult) -> str:
    """The dtype that a result was sampled in; "" of one that does not say, or that no network generated."""
    return (result.conditions.dtype or "") if result.model.has_network() else ""


def identity(result: EvalResult) -> Identity:
    """What a row of a board is of."""
    return result.model.fingerprint(), dtype_of(result)


def dtypes(results: Iterable[EvalResult]) -> list[str]:
    """The dtypes that results say, each once, float32 first."""
    return sorted({dtype_of(result) for result in results} - {""}, key=lambda dtype: (dtype != "float32", dtype))


def usual_dtype(results: Sequence[EvalResult]) -> str:
    """The dtype of most results that say one; of equally many float32, then the first by name. "" where none says any."""
    counts = Counter(filter(None, map(dtype_of, results)))
    return min(counts, key=lambda dtype: (-counts[dtype], dtype != "float32", dtype), default="")


def versions_of(result: EvalResult) -> dict[str, str]:
    """Version by library, of those that can change a number and that the result names."""
    known = result.conditions.libraries
    return {name: str(known[name]) for name in LIBRARIES if known.get(name)}


def differing_versions(results: Iterable[EvalResult]) -> dict[str, tuple[str, ...]]:
    """Library -> its versions, sorted, where results name more than one. Where one names none, it differs in none."""
    found: dict[str, set[str]] = {}
    for result in results:
        for name, version in versions_of(result).items():
            found.setdefault(name, set()).add(version)
    return {name: tuple(sorted(found[name])) for name in LIBRARIES if len(found.get(name, ())) > 1}


def versions_cell(result: EvalResult, differing: Iterable[str]) -> str:
    """A result's versions of some libraries, in words."""
    own = versions_of(result)
    return ", ".join(f"{name} {own[name]}" for name in differing if name in own)


def notes(results: Sequence[EvalResult]) -> list[str]:
    """What is to be said of results that stand beside each other: dtypes and versions that are not the same."""
    said = []
    if len(found := dtypes(results)) > 1:
        said.append(f"dtype differs ({' / '.join(found)}), which changes numbers by itself")
    versions = [f"{name} {' / '.join(found)}" for name, found in differing_versions(results).items()]
    if versions:
        said.append(f"library versions differ ({', '.join(versions)}), which can change numbers")
    return said


def date_of(result: EvalResult | LatencyResult) -> str:
    """When a result was made, as it says; "" where it does not."""
    return str(result.provenance.get("date_utc") or "")


def commit_of(result: EvalResult | LatencyResult) -> str:
    """The commit that it was made by, with a plus where files had changed since; "" where it does not say."""
    made = result.provenance
    return str(made.get("git_commit") or "")[:8] + ("+" if made.get("git_dirty") else "")
