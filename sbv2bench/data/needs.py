"""What a suite needs on this machine before its first image: which of it is here, what is missing, what brings it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sbv2bench.data import assets
from sbv2bench.errors import PrerequisiteError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec, SuiteSpec


@dataclass(frozen=True)
class Need:
    """One location of a suite. what: people's word for it. missing: why it cannot be used, with the command that mends it."""

    location: str
    what: str
    licence: str = ""
    bytes: int | None = None
    missing: SBV2BenchError | None = None


def suite_needs(registry: Registry, suite: SuiteSpec) -> list[Need]:
    """Every file that a suite's prompts, reference and extractors take, each location once. The network is not asked."""
    wanted = [(suite.prompts.location, "captions")]
    if suite.reference is not None:
        wanted.append((suite.reference.location, "reference images"))
    wanted += [(registry.extractor(name).location, f"weights of {name}") for name in suite.roles().values()]
    by_location = {location: what for location, what in reversed(wanted) if location}
    return [_need(registry, location, by_location[location]) for location in dict.fromkeys(where for where, _ in wanted if where)]


def _need(registry: Registry, location: str, what: str) -> Need:
    asset: AssetSpec | None = None
    try:
        if location.startswith(assets.ASSET):
            asset = registry.asset(location.removeprefix(assets.ASSET))
        assets.resolve_location(location, assets=registry.assets, local_only=True)
    except SBV2BenchError as error:
        missing: SBV2BenchError | None = error
    else:
        missing = None
    licence, size = (asset.licence, asset.bytes) if asset is not None else ("", None)
    return Need(location, what, licence, size, missing)


def require(suite: SuiteSpec, needs: Iterable[Need]) -> None:
    """Raises one error for all that is missing: PrerequisiteError with the list, or the first that is of another kind.

    What lies on the hub and may be fetched is not missing: it is fetched when it is used.
    """
    needs = list(needs)
    broken = [need.missing for need in needs if need.missing is not None and not isinstance(need.missing, PrerequisiteError)]
    if broken:
        raise broken[0]
    missing = [
        need for need in needs if need.missing is not None and (assets.offline() or not need.location.startswith(assets.HUB))
    ]
    if len(missing) == 1 and missing[0].missing is not None:
        raise missing[0].missing
    if missing:
        listed = ", ".join(f"{need.location} ({need.what})" for need in missing)
        offline = "offline, and " if assets.offline() else ""
        switch = "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 " if assets.offline() else ""
        raise PrerequisiteError(
            f"suite {suite.id}: {offline}{len(missing)} of {len(needs)} files are not on this machine\nmissing: {listed}",
            " && ".join(f"{switch}sbv2bench download {name}" for name in _downloadable(suite, missing)),
        )


def _downloadable(suite: SuiteSpec, missing: Iterable[Need]) -> list[str]:
    """What to name to `download`: the suite, or, of one that only this command knows, what it lacks."""
    if suite.id != "own" and not suite.id.endswith(".own"):
        return [suite.id]
    extractor = "weights of "  # by its own name, whose files are few of its repository's
    return [
        need.what.removeprefix(extractor) if need.what.startswith(extractor) else need.location.removeprefix(assets.ASSET)
        for need in missing
    ]
