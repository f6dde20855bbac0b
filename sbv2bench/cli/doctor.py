"""`sbv2bench doctor`: what this machine has and lacks."""

from __future__ import annotations

import os

from sbv2bench.cli.arguments import DEFAULT_SUITE, SUITE_VARIABLE, Json, loaded_registry
from sbv2bench.errors import PrerequisiteError
from sbv2bench.shell import print_json


def doctor(as_json: Json = False) -> None:
    """Check what this machine has and lacks, with the command that fixes each problem."""
    from sbv2bench.machine import doctor as checks
    from sbv2bench.report import terminal
    from sbv2bench.report.columns import Column
    from sbv2bench.report.layout import print_table

    suite = os.environ.get(SUITE_VARIABLE) or DEFAULT_SUITE
    registry = loaded_registry()
    registry.suite(suite)
    found = checks.diagnose(registry, suite)
    good = checks.runnable(found, suite)
    if as_json:
        print_json({"ok": good, "default_suite": suite, "checks": [vars(check) for check in found]})
    else:
        columns: list[Column[checks.Check]] = [
            Column("", "check", lambda check: check.name, left=True, names=True),
            Column("", "status", lambda check: check.status, left=True),
            Column("", "found", lambda check: check.found, left=True, prose=True),
        ]
        out = terminal.stdout_console()
        print_table(out, columns, found)
        for check in found:
            if check.fix:
                terminal.say(out, f"{check.name}: {check.fix}")
    if not good:
        first = next(check for check in found if check.status in ("missing", "broken") and check.fix)
        raise PrerequisiteError(f"suite {suite} cannot run here: {first.name}: {first.found}", first.fix)
