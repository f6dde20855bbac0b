"""What every command shares: an error becomes at most three lines on stderr and an exit code, --json one document on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from sbv2bench.errors import InputError, InterruptedRun, SBV2BenchError
from sbv2bench.printable import printable

if TYPE_CHECKING:
    from typer._click.core import Context

_LONGEST = 2000  # characters of a line: names in somebody's archive have up to 65,535


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, default=str) + "\n")


@contextmanager
def _errors_shown() -> Iterator[None]:
    """The one place where an error becomes lines and an exit code. A bug passes through, with its traceback, as exit 1."""
    try:
        yield
    except SBV2BenchError as error:
        _show_error(error.message, error.fix)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        _show_error("interrupted", None)
        raise typer.Exit(InterruptedRun.exit_code) from error
    except Exception as error:
        # Typer's usage errors, whichever click they come from; asked without arguments, Typer prints its help itself.
        text = getattr(error, "format_message", None)
        if text is None or type(error).__name__ == "NoArgsIsHelpError":
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "sbv2bench"
        _show_error(" ".join(text().split()), f"{command} --help")
        raise typer.Exit(InputError.exit_code) from error


def _show_error(message: str, fix: str | None) -> None:
    lines = [f"error: {message}"] if fix is None else [*f"error: {message}".split("\n")[:2], f"fix: {fix}"]
    for line in "\n".join(lines).split("\n")[:3]:
        print(printable(line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."), file=sys.stderr)


class Shell(TyperGroup):
    """The root command, with errors shown our way whether it runs in a terminal, under -m or in a test."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """As in Typer; usage errors in one line."""
        with _errors_shown():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Context) -> object:
        """As in Typer; errors in at most three lines."""
        with _errors_shown():
            return super().invoke(ctx)
