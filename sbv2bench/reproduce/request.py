"""`reproduce` from a name to what was found: which suites, which folders, and which of the three ways to look at a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sbv2bench.boards.boards import Board
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.reproduce.figure import FigureCurves, reproduce_figure
from sbv2bench.reproduce.miniature import Miniature, miniature, stand_in
from sbv2bench.reproduce.plan import plan_figure, plan_table
from sbv2bench.reproduce.search import Search, search
from sbv2bench.reproduce.table import Reproduction, check_target, reproduce_table, suites_of_table
from sbv2bench.reproduce.use import Used, used_folders
from sbv2bench.results.published import declared, published_models, rows_of_table
from sbv2bench.specs import SuiteSpec

COMMITTED = Path("leaderboards")
Found = Reproduction | Miniature | FigureCurves


@dataclass(frozen=True)
class Request:
    """What is to be reproduced. folders: where result files, or of a figure sweep files, are looked for.

    used: by the id of a model of the target's, the weights that a user names for it.
    """

    target: str
    suite: str  # as it was asked for
    suites: tuple[SuiteSpec, ...]
    folders: tuple[Path, ...]
    registry: Registry
    used: dict[str, Used] = field(default_factory=dict)

    @classmethod
    def checked(cls, target: str, suite: str, results: Path | None, registry: Registry, use: Sequence[str] = ()) -> Request:
        """use: "ID=FOLDER" each. Raises InputError for a name that is none, a suite without a column of the table, a folder that
        is not there or no model's, and what hashing weights raises."""
        check_target(target)
        suites = registry.suites_of(suite)
        if results is not None and not results.is_dir():
            raise InputError(f"--results: {results} is not a folder", "sbv2bench eval --model sd21")
        kind = "sweeps" if target in declared().figures else "results"
        folders = (results or Path(kind), COMMITTED / kind)
        if target in declared().figures:
            suites = suites[:1]  # a figure's metrics are all of the group's first suite
        elif suites[0].family != "mini":
            suites = suites_of_table(target, suites)
        if use and target in declared().figures:
            raise InputError(f"--use: {target} is a sweep, whose ends its command names", f"sbv2bench reproduce {target} --plan")
        rows = rows_of_table(target.removeprefix("table"))
        ladder = [own.model for row in rows if (own := stand_in(row)) is not None]
        ids = ladder if suites[0].family == "mini" else [published_models()[row.name].id for row in rows]
        used = used_folders(use, suites[0], {*ids}, registry)
        return cls(target, suite, suites, tuple(folder for folder in folders if folder.is_dir()), registry, used)

    @property
    def in_miniature(self) -> bool:
        """Whether its suite is of the mini family."""
        return self.suites[0].family == "mini"


def carry_out(request: Request) -> Found:
    """Look up what was measured and judge it.

    Raises PrerequisiteError where nothing was, with the command that measures something, and what reading results raises.
    """
    if request.target in declared().figures:
        return _figure(request)
    results = search(request.folders, request.suites, request.registry)
    found: Found
    if request.in_miniature:
        own = results.found.get(request.suites[0].id)
        nothing = Board(request.suites[0].id, f"{request.suites[0].id}@v{request.suites[0].version}", ())
        found = miniature(request.target, nothing if own is None else own.board, request.used)
    else:
        found = reproduce_table(request.target, request.suites, results, request.registry, request.used)
    if not found.any_measured():
        raise _nothing(request, results)
    return found


def _figure(request: Request) -> FigureCurves:
    found = reproduce_figure(request.target, request.suites[0], request.folders, request.registry)
    if not found.any_measured():
        where = " or ".join(map(str, request.folders)) or "sweeps or leaderboards/sweeps"
        raise PrerequisiteError(
            f"{request.target}: found no sweep of {found.panels[0].a} and {found.panels[0].b} on {found.suite} in {where}",
            found.panels[0].command,
        )
    return found


def _nothing(request: Request, results: Search) -> PrerequisiteError:
    where = " or ".join(map(str, request.folders)) or "results or leaderboards/results"
    partial = f" ({results.partial} partial ones, which are not compared)" if results.partial else ""
    plan = plan_table(request.target, request.suites, results, request.registry)
    commands = [method["command"] for method in plan["methods"] if method["command"]]
    commands = [used.command(request.suites[0].id) for used in request.used.values()] + commands
    first = next((method["command"] for method in plan["methods"] if method["command"] and method["at_hand"]), "")
    fix = (commands[0] if request.used else first) or (
        commands[0] if commands else f"sbv2bench reproduce {request.target} --suite {request.suite} --plan"
    )
    return PrerequisiteError(
        f"{request.target}: found no result on suite {request.suite} of any of its methods in {where}{partial}",
        fix + (" --repeats 3" if request.in_miniature and commands else ""),
    )


def plan_of(request: Request) -> dict[str, object]:
    """What it would take, JSON-ready. Raises as `carry_out`, but for results that are missing."""
    if request.target in declared().figures:
        return plan_figure(request.target, request.suites, request.registry)
    results = search(request.folders, request.suites, request.registry)
    return plan_table(request.target, request.suites, results, request.registry)


def require_tolerance(found: Found) -> None:
    """Raises ToleranceError where a printed number is missed under the paper's own protocol."""
    if isinstance(found, Reproduction):
        found.require_tolerance()
