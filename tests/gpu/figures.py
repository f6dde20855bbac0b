"""What a part has measured so far: a tree of figures that is on the disk, whole, after every entry."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sbv2bench.atomic import write_whole
from sbv2bench.errors import PrerequisiteError


class Figures:
    """Figures of one part by their path, "A.plain"; whoever kills the part finds what it had measured in the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, Any]()

    def add(self, where: str, value: object) -> None:
        """Put a value at a path and write the file."""
        *above, last = where.split(".")
        tree = self.found
        for name in above:
            tree = tree.setdefault(name, {})
        tree[last] = value
        write_whole(self.path, json.dumps(self.found, indent=1))

    def attempt(self, where: str, measure: Callable[[], object]) -> Any:
        """Add what a call returns, and return it; None where it fails, and why stands in its place, so that the rest goes on.

        `not_run`: what it needs is not on this machine. `error`: anything else.
        """
        try:
            found = measure()
        except PrerequisiteError as error:
            self.add(where, {"not_run": " ".join(error.message.split())})
        except Exception as error:
            traceback.print_exc()
            self.add(where, {"error": one_line(error)})
        else:
            self.add(where, found)
            return found
        return None


def one_line(error: BaseException) -> str:
    """Kind and message, at most 500 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def holds(tree: object, path: str) -> bool:
    """Whether a tree of figures has something at a path."""
    for name in path.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


def errors(tree: object, above: str = "") -> dict[str, str]:
    """Path -> message of every `error` in a tree of figures."""
    if not isinstance(tree, dict):
        return {}
    found = {above.rstrip("."): str(tree["error"])} if "error" in tree else {}
    for name, value in tree.items():
        found |= errors(value, f"{above}{name}.")
    return found
