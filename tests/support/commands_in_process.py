"""A command line run in the process of a test, and what its error must be like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The error's lines, after whatever was said before."""
        return self.err[self.err.index("error: ") :]


def refused(done: Done, code: int, *says: str) -> None:
    """An error of the right exit code that says all of this in at most three lines, with nothing on stdout."""
    assert done.code == code
    assert done.out == ""
    assert len(done.error().splitlines()) <= 3
    assert "Traceback" not in done.err
    for words in says:
        assert words in done.error()
