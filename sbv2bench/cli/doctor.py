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

    suite = os.environ.get(SUITE_VARIABLE) or DEFAULT_SUITE
    registry = loaded_registry()
    registry.suite(suite)
    found = checks.diagnose(registry, suite)
    good = checks.runnable(found, suite)
    if as_json:
        print_json({"ok": good, "default_suite": suite, "checks": [vars(check) for check in found]})
    else:
        rows = [[check.name, check.status, check.found, check.fix or ""] for check in found]
        terminal.print_table(terminal.stdout_console(), ["check", "status", "found", "fix"], rows)
    if not good:
        first = next(check for check in found if check.status in ("missing", "broken") and check.fix)
        raise PrerequisiteError(f"suite {suite} cannot run here: {first.name}: {first.found}", first.fix)
