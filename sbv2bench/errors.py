"""What can go wrong, and the exit code of each kind.

SBV2BenchError
├── InputError          2   bad input or an unknown name
├── PrerequisiteError   3   weights, data, a package, a GPU or results are missing
├── IntegrityError      4   a hash, a count, an image or the disk is not as it must be
├── ToleranceError      5   a reproduced number is out of tolerance under an equal protocol
└── InterruptedRun    130   stopped by the user; can be resumed
    └── TerminatedRun 143   stopped by SIGTERM (a scheduler, a shutdown); can be resumed

Everything else that reaches the top is a bug: exit code 1, with its traceback.
"""

from __future__ import annotations


class SBV2BenchError(Exception):
    """An error to show in at most three lines: what and where, found and expected, and the command that fixes it."""

    exit_code = 1

    def __init__(self, message: str, fix: str | None = None) -> None:
        """message: at most two lines. fix: what to type or do, printed as the last line."""
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return self.message if self.fix is None else f"{self.message}\nfix: {self.fix}"


class InputError(SBV2BenchError):
    """Bad input or an unknown name."""

    exit_code = 2


class PrerequisiteError(SBV2BenchError):
    """Something that must be there first is not: weights, data, a package, a device, results."""

    exit_code = 3


class IntegrityError(SBV2BenchError):
    """Something is there and is not what it must be: hash, count, corrupt image, full disk."""

    exit_code = 4


class ToleranceError(SBV2BenchError):
    """A reproduced number is out of tolerance although the protocols are equal."""

    exit_code = 5


class InterruptedRun(SBV2BenchError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130


class TerminatedRun(InterruptedRun):
    """SIGTERM stopped the run; what was finished is kept."""

    exit_code = 143
