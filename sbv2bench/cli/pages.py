"""Documents that commands write: to stdout, or whole to a file."""

from __future__ import annotations

import sys
from pathlib import Path

from sbv2bench.errors import InputError


def put(text: str, output: Path | None, option: str) -> None:
    """A document to stdout, or to a file. option: that named it, as it is typed. Raises InputError where it cannot be written."""
    from sbv2bench.atomic import write_whole
    from sbv2bench.report import terminal

    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_whole(output, text)
    except OSError as error:
        raise InputError(f"{option} {output}: {error.strerror}", f"{option.rsplit(maxsplit=1)[-1]} ./{output.name}") from error
    terminal.say(terminal.stderr_console(), f"written: {output}")
