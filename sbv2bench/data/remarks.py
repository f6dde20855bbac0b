"""What a user should know and no error says: one line on stderr, each once a process. No torch here."""

from __future__ import annotations

import os
import sys

said: set[str] = set()  # by this process


def say_once(text: str) -> None:
    """Print a remark unless this process has said it; of several processes under torchrun the first one speaks."""
    if text not in said and os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr)
    said.add(text)
