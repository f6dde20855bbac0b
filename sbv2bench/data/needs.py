"""What a suite needs on this machine before its first image: which of it is here, what is missing, what brings it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sbv2bench.data import assets
from sbv2bench.errors import PrerequisiteError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec, MetricSpec, SuiteSpec


@dataclass(frozen=True)
class Need:
    """One location of a suite. what: people's word for it. missing: why it cannot be used, with the command that mends it.

    name: what `sbv2bench download` calls it, where it can.
    """

    location: str
    what: str
    name: str
    licence: str = ""
    bytes: int | None = None
    missing: SBV2BenchError | None = None


def read_captions(metrics: Iterable[MetricSpec]) -> list[str]:
    """The ids of those metrics that look at the captions."""
    return [metric.id for metric in metrics if metric.reads_captions]


def suite_needs(
    registry: Registry, suite: SuiteSpec, metrics: Sequence[MetricSpec] | None = None, *, captions: bool = True
) -> list[Need]:
    """Every file that a suite's prompts, reference and extractors take, each location once. The network is not asked.

    metrics: by default the suite's own. captions: False where neither a model nor a metric reads them.
    """
    chosen = registry.metrics_of(suite) if metrics is None else metrics
    wanted = [(suite.prompts.location, "captions", "")] if captions else []
    if suite.reference is not None and any(metric.reference == "suite" for metric in chosen):
        wanted.append((suite.reference.location, "reference images", ""))
    for name, one in registry.extractors_of(chosen).items():
        wanted += [(one.location, f"weights of {name}", name), (one.tokenizer, f"tokenizer of {name}", name)]
    first = {location: (what, name) for location, what, name in reversed(wanted) if location}
    return [_need(registry, location, *first[location]) for location in dict.fromkeys(where for where, _, _ in wanted if where)]


def _need(registry: Registry, location: str, what: str, name: str) -> Need:
    asset: AssetSpec | None = None
    try:
        if location.startswith(assets.ASSET):
            asset = registry.asset(location.removeprefix(assets.ASSET))
            name = asset.id
        assets.resolve_location(location, assets=registry.assets, local_only=True)
    except SBV2BenchError as error:
        missing: SBV2BenchError | None = error
        if isinstance(error, PrerequisiteError) and name and location.startswith(assets.HUB):  # by its name, only its own files
            missing = PrerequisiteError(error.message, f"{assets.online()}sbv2bench download {name}")
    else:
        missing = None
    licence, size = (asset.licence, asset.bytes) if asset is not None else ("", None)
    return Need(location, what, name, licence, size, missing)


def require(registry: Registry, suite: SuiteSpec, needs: Iterable[Need]) -> None:
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
        raise PrerequisiteError(
            f"suite {suite.id}: {offline}{len(missing)} of {len(needs)} files are not on this machine\nmissing: {listed}",
            download_command(registry, suite, missing),
        )


def download_command(registry: Registry, suite: SuiteSpec, missing: Sequence[Need]) -> str:
    """What to type for files of a suite: its name where they are all that it lacks and it has one, else theirs."""
    declared = registry.suites.get(suite.id)
    lacking = {need.location for need in suite_needs(registry, declared) if need.missing} if declared is not None else set()
    whole = declared is not None and lacking == {need.location for need in missing}
    names = dict.fromkeys(need.name or need.location for need in missing)
    return f"{assets.online()}sbv2bench download {suite.id if whole else ' '.join(names)}"
